"""Where layers come from: S3 and local files, downloads, the spool."""

"""The end-to-end stories: the installed command, real manifests, real layers, a real S3 endpoint, as a user meets them."""

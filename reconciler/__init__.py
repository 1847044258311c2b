"""Makes a Linux host hold the root-filesystem images that a Git repository declares."""

__version__ = "0.1.0"

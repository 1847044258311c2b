"""The confined child process that reads layers and writes volumes, and its parent."""

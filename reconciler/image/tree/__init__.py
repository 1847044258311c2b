"""The name space of an image: the rules for members, whiteouts, inodes, the member index."""

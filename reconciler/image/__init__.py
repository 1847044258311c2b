"""Bytes in, file system out. Knows no hosts, pools or registry."""

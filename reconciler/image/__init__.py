"""Bytes in, file system out. Knows nothing of hosts, pools or registries."""

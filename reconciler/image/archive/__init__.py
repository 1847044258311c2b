"""Compressed tar streams to members: codecs, headers, pax, sparse files, extended attributes."""

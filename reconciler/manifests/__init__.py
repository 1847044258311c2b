"""Manifest files to ``Desired``: loading, validating with file:line:column, watching, last good state."""

"""The file pool: volumes and snapshots are image files."""

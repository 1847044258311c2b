"""Pool drivers: where volumes and snapshots live. Imports nothing of manifests, images or runs."""

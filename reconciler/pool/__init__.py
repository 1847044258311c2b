"""Pool drivers: where volumes and snapshots live. Knows no manifests, images or runs."""

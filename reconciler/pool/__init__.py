"""The hands: where volumes live. Knows nothing of manifests or runs."""

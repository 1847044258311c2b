"""What a legitimate layer says is what the volume holds; and where other programs differ (``docs/differences.md``)."""

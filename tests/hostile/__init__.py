"""Hostile archives: the catalogue (``catalogue.CASES``), and the tests that run it (see docs/hostile-images.md)."""

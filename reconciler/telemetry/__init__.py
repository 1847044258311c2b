"""Metrics, tracing, systemd notification, and the activity file that ``top`` reads."""

"""The thin pool: volumes and snapshots are device-mapper thin devices."""

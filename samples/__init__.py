"""What the quickstart, tests and benchmarks work on: a local S3 endpoint and real layered root filesystems."""

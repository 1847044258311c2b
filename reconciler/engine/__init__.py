"""Durable runs: machine definitions, the store protocol, the engine. Independent of kernel and S3."""

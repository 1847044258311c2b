"""Durable runs: machine definitions, the store protocol, the engine. Knows neither kernel nor S3."""

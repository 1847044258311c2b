"""The local API of the service: HTTP and JSON on a unix socket. See ``server``."""

"""This host: the registry, pools, sources and builds that an invocation works on, each call with a deadline."""

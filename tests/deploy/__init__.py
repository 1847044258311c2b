"""What deploy/ has for other systems: Ansible's collection, and the files for Kubernetes, Nomad and containers."""

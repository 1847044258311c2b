"""OCI images: references, manifests, configurations, credentials, and the registries, layouts and archives that hold them."""

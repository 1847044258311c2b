"""The options of every module: which command runs, on which manifests and state."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
---
options:
  executable:
    description: Path or name of the command. A name is also looked up in V(/usr/local/bin) and V(/opt/reconciler/bin).
    type: path
    default: reconcile
  manifests:
    description: Directory of the manifests. E(RECONCILER_MANIFESTS), else V(manifests), where it is left out.
    type: path
  state:
    description: State directory. E(RECONCILER_STATE), else V(/var/lib/reconciler) for root, where it is left out.
    type: path
  host_file:
    description: Name, labels and policy of the host. V(/etc/reconciler/host.yaml) where it is left out.
    type: path
"""

"""Name, labels and policy of this host: from its host file, the command line and the system.

Called by ``context``, which puts the policy in force before any manifest is read, and by verbs that need the policy alone. State:
none here; the policy is in ``policy.force``.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from reconciler.manifests.host_policy import HostValues, policy_of
from reconciler.manifests.host_reader import load_host
from reconciler.manifests.stored import Store
from reconciler.model import HostFacts
from reconciler.policy import force
from reconciler.policy.rules import Policy
from reconciler.registry.database import enforces_policy
from reconciler.settings import Settings

MACHINE_ID = Path("/etc/machine-id")


def put_in_force(settings: Settings, store: Store | None = None) -> HostFacts:
    """Put the policy of the host file in force, and return name, labels and id of this host.

    ``store`` has what earlier invocations have parsed. Raises ManifestsInvalid where the file has faults.
    """
    own = load_host(settings.host_file, store)
    force.use(_policy(own, settings))
    name = own.name or socket.gethostname()
    try:
        machine = MACHINE_ID.read_text().strip()
    except OSError:
        machine = ""
    return HostFacts(name, {**own.labels, **settings.host_labels}, own.name or machine or name)


def use_registries(settings: Settings) -> None:
    """Reach registries as the host file has it; what else the command line names stays permitted. Raises ManifestsInvalid."""
    force.use(Policy(file=str(settings.host_file), registries=policy_for(settings).registries))


def policy_for(settings: Settings) -> Policy:
    """The policy of the host file, without putting it in force. Raises ManifestsInvalid where the file has faults."""
    return _policy(load_host(settings.host_file), settings)


def _policy(own: HostValues, settings: Settings) -> Policy:
    root = os.geteuid() == 0
    enforced = own.policy is not None or not root or enforces_policy(settings.registry)
    return policy_of(own, settings.host_file, settings.manifests, settings.state, root=root, enforced=enforced)

"""The policy that is in force in this process: set by ``host.context``, asked wherever a manifest has something opened.

Verbs that read what the command line names (``build``, ``inspect``) permit everything, and reach registries as the host file has
it. State: one ``Policy``,
and how many times it has refused something while it was opened.
"""

from __future__ import annotations

from reconciler.policy.addresses import Address
from reconciler.policy.rules import Policy, Refusal

_in_force = Policy()


def use(policy: Policy) -> None:
    """Put a policy in force for every thread of this process."""
    global _in_force
    _in_force = policy


def current() -> Policy:
    return _in_force


def require_file(path: str) -> None:
    """Raise PolicyRefused where a manifest may not have this file read."""
    _in_force.require(_in_force.file_refusal(path))


def file_refusal(path: str) -> Refusal | None:
    """The same as an answer; None where the file may be read, or the policy is not enforced."""
    return _in_force.file_refusal(path) if _in_force.enforced else None


def require_opened(path: str, fd: int) -> None:
    """The same, for a file that is open: what a link leads to may have changed since ``require_file``."""
    _in_force.require(_in_force.opened_refusal(path, fd))


def opened_refusal(path: str, fd: int) -> Refusal | None:
    """Why an open file may not be read; None where it may, or the policy is not enforced."""
    return _in_force.opened_refusal(path, fd) if _in_force.enforced else None


def require_host(host: str, port: int) -> None:
    """Raise PolicyRefused where a manifest may not name this host; names are not resolved."""
    _in_force.require(_in_force.host_refusal(host, port))


def require_registry(host: str) -> None:
    """Raise PolicyRefused where a manifest may not name this registry."""
    _in_force.require(_in_force.registry_refusal(host))


def require_credentials(url: str) -> None:
    """Raise PolicyRefused where requests to an endpoint that a manifest names may not be signed."""
    _in_force.require(_in_force.credentials_refusal(url))


def address_refusal(host: str, port: int, address: Address) -> Refusal | None:
    """Why a connection to this address may not be made; None where it may, or the policy is not enforced."""
    return _in_force.address_refusal(host, port, address) if _in_force.enforced else None

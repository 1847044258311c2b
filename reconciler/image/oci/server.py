"""The servers of a repository: the mirrors that the host file names for its registry, then the registry.

Used by ``registry`` and ``auth``. State: the mirrors that failed lately, and how many answers each server has given.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager

from reconciler.dataclass import dataclass
from reconciler.image.oci.reference import HUB, HUB_API, Reference
from reconciler.image.source.transport import Answer, Request
from reconciler.policy import force
from reconciler.policy.rules import PORTS, Registries, named, split_host

UNWELL_SECONDS = 60.0
"""How long a mirror that failed is passed over."""

Send = Callable[[Request], AbstractContextManager[Answer]]
"""Sends a request within the deadline of a look-up; the answer is closed at the end."""

_unwell: dict[str, float] = {}

answered: Counter[tuple[str, int]] = Counter()
"""Answers since this process began, by server and status; ``controller.service`` reports them."""


@dataclass(frozen=True, slots=True)
class Server:
    """``name`` is the registry or mirror as references and the host file write it, ``address`` where it is reached.

    ``checked``: its address has to be one that this host's policy permits; the host file does not name it.
    """

    name: str
    address: str
    scheme: str
    repository: str
    cafile: str = ""
    checked: bool = True

    @property
    def hostname(self) -> str:
        return split_host(self.address)[0].strip("[]")

    @property
    def port(self) -> int:
        return split_host(self.address)[1] or PORTS[self.scheme]

    @property
    def image(self) -> str:
        """The repository, for messages."""
        return f"{self.name}/{self.repository}"

    def url(self, path: str) -> str:
        """Of a resource of the repository."""
        return f"{self.scheme}://{self.address}/v2/{self.repository}/{path}"

    def is_unwell(self) -> bool:
        return time.monotonic() < _unwell.get(self.name, 0.0)

    def mark_unwell(self) -> None:
        """Pass it over for a while."""
        _unwell[self.name] = time.monotonic() + UNWELL_SECONDS


def servers(reference: Reference) -> tuple[Server, ...]:
    """Those to ask, in order; the registry is the last. Raises PolicyRefused."""
    force.require_registry(reference.host)
    registries = force.current().registries
    mirrors = [_server(*one, registries, checked=False) for one in registries.mirrors_of(reference.host, reference.repository)]
    own = _server(reference.host, reference.repository, registries, checked=not registries.lists(reference.host))
    return (*(one for one in mirrors if not one.is_unwell()), own)


def _server(name: str, repository: str, registries: Registries, *, checked: bool) -> Server:
    address = HUB_API if name == HUB else name
    scheme = "http" if named(name, registries.plain_http) else "https"
    cafile = next((path for host, path in registries.ca_files.items() if named(name, [host])), "")
    return Server(name, address, scheme, repository, cafile, checked)

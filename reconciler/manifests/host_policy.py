"""What the host file says, as plain values, and the ``Policy`` that follows from it for one invocation.

Made by ``host_file``, kept by ``stored``, read through ``host_reader``. No state.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from reconciler.dataclass import dataclass, field
from reconciler.manifests.faults import shown
from reconciler.policy.addresses import Allowed
from reconciler.policy.rules import Policy, Registries


@dataclass(frozen=True, slots=True)
class DeclaredPolicy:
    """The ``policy`` of the host file; None is what is left out, whose default depends on the user."""

    file_sources: tuple[str, ...] | None = None
    allow: tuple[Allowed, ...] = ()
    private: bool = True
    credentials: tuple[Allowed, ...] | None = None
    registries: Registries = field(default_factory=Registries)
    pool_files: tuple[str, ...] | None = None
    pool_devices: tuple[str, ...] | None = None
    requires_pins: bool = False
    confinement: str | None = None


@dataclass(frozen=True, slots=True)
class HostValues:
    """The whole file. ``policy`` None: it has none."""

    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    policy: DeclaredPolicy | None = None


def policy_of(host: HostValues, path: Path, manifests: Path, state: Path, *, root: bool, enforced: bool = True) -> Policy:
    """The policy of this host, defaults included. ``enforced`` False where it has none and may not refuse anything yet."""
    declared = host.policy or DeclaredPolicy()
    return Policy(
        file=shown(str(path)),
        manifests=str(manifests),
        limits_files=root or declared.file_sources is not None,
        file_sources=_resolved(declared.file_sources),
        limits_addresses=root,
        private=declared.private,
        allow=declared.allow,
        limits_credentials=root or declared.credentials is not None,
        credentials=declared.credentials or (),
        registries=declared.registries,
        state=str(state),
        limits_pool_files=root or declared.pool_files is not None,
        pool_files=_resolved(declared.pool_files),
        limits_devices=root,
        pool_devices=declared.pool_devices,
        requires_pins=declared.requires_pins,
        requires_confinement=declared.confinement == "required" or (root and declared.confinement is None),
        enforced=enforced or host.policy is not None,
    )


def _resolved(paths: tuple[str, ...] | None) -> tuple[str, ...]:
    return tuple(os.path.realpath(path) for path in paths or ())

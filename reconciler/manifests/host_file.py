"""``/etc/reconciler/host.yaml``: the name and the labels of this host, and what it permits to the authors of manifests.

Read by ``host/context``. The file has to belong to root or to this user, and nobody else may write to it: its policy limits
what manifests can do as this user. No state.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from reconciler.errors import ManifestsInvalid
from reconciler.manifests import files
from reconciler.manifests.faults import Fault, report, shown
from reconciler.manifests.fields import (
    AbsolutePath,
    AllowedAddress,
    DevicePattern,
    Fields,
    LabelKey,
    LabelValue,
    RegistryHost,
    Root,
    validate,
)
from reconciler.manifests.files import ManifestFile
from reconciler.manifests.parser import Entries, Located, Reader
from reconciler.manifests.problems import DocumentInvalid
from reconciler.model import Where
from reconciler.policy.rules import Policy, Registries


class Endpoints(Fields):
    """Addresses of S3 endpoints that manifests name. Checked when a connection is made, also after a redirect."""

    allow: tuple[AllowedAddress, ...] = Field(
        default=(),
        description="Exempt from the rules on addresses: addresses, networks or host names, each with or without a port.",
        examples=["10.0.0.5:9000"],
    )
    private: Literal["allow", "refuse"] = Field(
        default="allow", description="Private addresses. As root, loopback, link-local and own ones are refused unless listed."
    )


class RegistriesBody(Fields):
    """Registries of OCI images."""

    allow: tuple[RegistryHost, ...] | None = Field(default=None, description="The only registries; every public one by default.")
    plain_http: tuple[RegistryHost, ...] = Field(default=(), description="Registries that are asked without TLS.")
    mirrors: dict[RegistryHost, tuple[RegistryHost, ...]] = Field(default={}, description="Asked first, by registry.")
    ca_files: dict[RegistryHost, AbsolutePath] = Field(default={}, description="Certificates to trust, by registry.")
    auth_file: AbsolutePath | None = Field(default=None, description="Credentials, in the format of containers-auth.json(5).")


class PoolPlaces(Fields):
    """Where pools may have their backing."""

    files: tuple[Root, ...] | None = Field(
        default=None, description="Directories for backing files, besides the state directory. As root no others by default."
    )
    devices: tuple[DevicePattern, ...] | None = Field(
        default=None,
        description="The only devices that pools may use, in which * matches anything. As root, by default any that hold no "
        "signature.",
        examples=["/dev/disk/by-id/*"],
    )


class PolicyBody(Fields):
    """What manifests may ask of this host."""

    file_sources: tuple[Root, ...] | None = Field(
        default=None,
        description="Files and directories that layers may be read from, besides the repository of the manifests. As root no "
        "others by default, otherwise all that can be read.",
    )
    endpoints: Endpoints = Field(default_factory=Endpoints, description="Addresses that manifests may name.")
    registries: RegistriesBody = Field(default_factory=RegistriesBody, description="Registries that manifests may name.")
    pools: PoolPlaces = Field(default_factory=PoolPlaces, description="Files and devices that pools may use.")
    pinned: Literal["allowed", "required"] = Field(default="allowed", description="Whether every layer needs a sha256.")
    confinement: Literal["required", "best-effort"] | None = Field(
        default=None,
        description="Whether a layer is refused where the builder process is not fully confined. As root `required` by default, "
        "otherwise `best-effort`.",
    )


class HostFile(Fields):
    """What the file may contain."""

    name: LabelValue | None = Field(default=None, description="Name of the host in results; the system's host name by default.")
    labels: dict[LabelKey, LabelValue] = Field(default={}, description="Labels that the `hosts` of an image select.")
    policy: PolicyBody | None = Field(default=None, description="What manifests may ask of this host.")


def load_host(path: Path) -> HostFile:
    """The content of the file; nothing without a file. Raises ManifestsInvalid."""
    if not path.exists():
        return HostFile()
    file = next(files.read_paths([path]), None)
    if isinstance(file, Fault):
        raise ManifestsInvalid((file,))
    if why := _untrusted(path):
        raise ManifestsInvalid((Fault(Where(shown(str(path)), 1, 1), "file", why),))
    return _parse(file) if file else HostFile()


def _untrusted(path: Path) -> str:
    """Why the file can't hold this host's policy; empty where it can."""
    try:
        found = path.stat()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to user {found.st_uid} (chown it to root, or to the user who runs reconcile)"
    return "can be written by others (chmod go-w)" if found.st_mode & 0o022 else ""


def _parse(file: ManifestFile) -> HostFile:
    name = shown(file.path)
    reader = Reader(file.text, name)
    roots = [root for root, _ in reader.documents()]
    if not reader.faults and len(roots) == 1 and isinstance(root := roots[0], Entries):
        try:
            return validate(HostFile, root, Located(name, root))
        except DocumentInvalid as error:
            raise ManifestsInvalid(report(error.faults, file.path)) from None
    single = Fault(Where(name, 1, 1), "document", "is not one mapping with name, labels and policy")
    raise ManifestsInvalid(report(reader.faults or [single], file.path))


def policy_of(host: HostFile, path: Path, manifests: Path, state: Path, *, root: bool, enforced: bool = True) -> Policy:
    """The policy of this host, defaults included. ``enforced`` False where it has none and may not refuse anything yet."""
    body = host.policy or PolicyBody()
    endpoints, pools = body.endpoints, body.pools
    return Policy(
        file=shown(str(path)),
        manifests=str(manifests),
        limits_files=root or body.file_sources is not None,
        file_sources=_resolved(body.file_sources),
        limits_addresses=root,
        private=endpoints.private == "allow",
        allow=endpoints.allow,
        registries=_registries(body.registries),
        state=str(state),
        limits_pool_files=root or pools.files is not None,
        pool_files=_resolved(pools.files),
        limits_devices=root,
        pool_devices=pools.devices,
        requires_pins=body.pinned == "required",
        requires_confinement=body.confinement == "required" or (root and body.confinement is None),
        enforced=enforced or host.policy is not None,
    )


def _resolved(paths: tuple[str, ...] | None) -> tuple[str, ...]:
    return tuple(os.path.realpath(path) for path in paths or ())


def _registries(body: RegistriesBody) -> Registries:
    return Registries(body.allow, body.plain_http, body.mirrors, body.ca_files, body.auth_file or "")

"""The fields of ``/etc/reconciler/host.yaml``. Read by ``host_policy``; ``explain`` and the schema follow from here. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reconciler.errors import ManifestsInvalid
from reconciler.manifests.faults import Fault, report, shown
from reconciler.manifests.fields import (
    AbsolutePath,
    AllowedAddress,
    DevicePattern,
    Fields,
    LabelKey,
    LabelValue,
    RegistryHost,
    Repositories,
    Root,
    validate,
)
from reconciler.manifests.files import ManifestFile
from reconciler.manifests.host_policy import DeclaredPolicy, HostValues
from reconciler.manifests.parser import Entries, Located, Reader
from reconciler.manifests.problems import DocumentInvalid
from reconciler.model import Where
from reconciler.policy.rules import Registries


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
    credentials: tuple[AllowedAddress, ...] | None = Field(
        default=None,
        description="The endpoints that get requests signed with the host's AWS credentials, besides Amazon's own over https. As "
        "root no others by default, otherwise all. Named as in `allow`; a name is not resolved for this.",
        examples=["minio.internal:9000"],
    )


class RegistriesBody(Fields):
    """Registries of OCI images."""

    allow: tuple[RegistryHost, ...] | None = Field(default=None, description="The only registries; every public one by default.")
    plain_http: tuple[RegistryHost, ...] = Field(default=(), description="Registries that are asked without TLS.")
    mirrors: dict[Repositories, tuple[Repositories, ...]] = Field(
        default={},
        description="Asked first, by registry or by a path below one. A mirror takes the place of that prefix in the name of a "
        "repository; the longest prefix counts.",
        examples=[{"docker.io": ["mirror.example/dockerhub"]}],
    )
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


def parse(file: ManifestFile) -> HostValues:
    """The values of the file. Raises ManifestsInvalid."""
    name = shown(file.path)
    reader = Reader(file.text, name)
    roots = [root for root, _ in reader.documents()]
    if not reader.faults and len(roots) == 1 and isinstance(root := roots[0], Entries):
        try:
            return _values(validate(HostFile, root, Located(name, root)))
        except DocumentInvalid as error:
            raise ManifestsInvalid(report(error.faults, file.path)) from None
    single = Fault(Where(name, 1, 1), "document", "is not one mapping with name, labels and policy")
    raise ManifestsInvalid(report(reader.faults or [single], file.path))


def _values(found: HostFile) -> HostValues:
    return HostValues(found.name, found.labels, _policy(found.policy) if found.policy else None)


def _policy(body: PolicyBody) -> DeclaredPolicy:
    endpoints, registries = body.endpoints, body.registries
    return DeclaredPolicy(
        file_sources=body.file_sources,
        allow=endpoints.allow,
        private=endpoints.private == "allow",
        credentials=endpoints.credentials,
        registries=Registries(
            registries.allow, registries.plain_http, registries.mirrors, registries.ca_files, registries.auth_file or ""
        ),
        pool_files=body.pools.files,
        pool_devices=body.pools.devices,
        requires_pins=body.pinned == "required",
        confinement=body.confinement,
    )

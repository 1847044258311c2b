"""What the host's policy permits: files, addresses, backing files and devices, pins, confinement. Values and checks.

``manifests.host_policy`` makes the ``Policy`` of ``host.yaml``; ``manifests.refusals`` asks it for each declared object, and the
modules that open a file, socket or device ask the one in force (``policy.force``) again. Paths are compared with their links
resolved, addresses as they are connected to. State: none; file systems and the routing table are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from reconciler.dataclass import dataclass, field, replace
from reconciler.errors import PolicyRefused
from reconciler.policy.addresses import AMAZON_S3, Address, Allowed, Scope, is_listed, is_local_name, literal, plain_name, scope

PORTS = {"http": 80, "https": 443}

HOST_FILE = "/etc/reconciler/host.yaml"


@dataclass(frozen=True, slots=True)
class Refusal:
    """``key`` is the field of the host file that permits it, ``add`` the value to add there; ``remedy`` where none permits it."""

    key: str
    message: str
    add: str = ""
    remedy: str = ""

    def of(self, subject: str) -> Refusal:
        """The same, about an object."""
        return replace(self, message=f"{subject}: {self.message}")

    def hint(self, file: str) -> str:
        if self.remedy:
            return self.remedy
        change = f"add {self.add!r} to {self.key}" if self.add else f"change {self.key}"
        return f"to permit it, {change} in {file} on this host"


@dataclass(frozen=True, slots=True)
class Registries:
    """Registries of OCI images. ``allow`` None: every public one."""

    allow: tuple[str, ...] | None = None
    plain_http: tuple[str, ...] = ()
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ca_files: Mapping[str, str] = field(default_factory=dict)
    auth_file: str = ""

    def lists(self, host: str) -> bool:
        """Whether ``allow`` names a registry."""
        return named(host, self.allow or ())

    def mirrors_of(self, host: str, repository: str) -> tuple[tuple[str, str], ...]:
        """The mirrors of a repository, each as host and repository: those of its longest prefix, whose place they take."""
        name = f"{host}/{repository}"
        prefix = max((one for one in self.mirrors if f"{name}/".startswith(f"{one}/")), key=len, default="")
        places = (f"{mirror}{name[len(prefix) :]}".partition("/") for mirror in self.mirrors.get(prefix, ()))
        return tuple((mirror, path) for mirror, _, path in places if path)


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one host. The defaults of the fields permit everything, as for a user who is not root.

    ``enforced`` False: what is not permitted is reported, and done.
    """

    file: str = HOST_FILE
    """The host file, as hints name it."""
    manifests: str = ""
    """The directory of manifests: files of its repository are permitted."""
    limits_files: bool = False
    file_sources: tuple[str, ...] = ()
    limits_addresses: bool = False
    """Refuse loopback, link-local and own addresses."""
    private: bool = True
    allow: tuple[Allowed, ...] = ()
    limits_credentials: bool = False
    """Sign requests for no other endpoint that a manifest names than Amazon's and those that are listed."""
    credentials: tuple[Allowed, ...] = ()
    registries: Registries = field(default_factory=Registries)
    state: str = ""
    """The state directory: pools may have their files in it."""
    limits_pool_files: bool = False
    pool_files: tuple[str, ...] = ()
    limits_devices: bool = False
    """Refuse devices that hold a signature, unless ``pool_devices`` lists them."""
    pool_devices: tuple[str, ...] | None = None
    """Patterns of device names; None where any name is permitted."""
    requires_pins: bool = False
    requires_confinement: bool = False
    enforced: bool = True

    # -- files

    def file_refusal(self, path: str) -> Refusal | None:
        """Whether a manifest may have this file read; links are resolved now."""
        return self._outside(path, os.path.realpath(path)) if self.limits_files else None

    def opened_refusal(self, path: str, fd: int) -> Refusal | None:
        """The same for a file that is open: its path is the kernel's, whatever has become of the links since."""
        if not self.limits_files:
            return None
        try:
            return self._outside(path, os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115 - Path costs as much again, for each file
        except OSError as error:
            return Refusal("policy.fileSources", f"{path}: /proc can't be read to find out where it lies: {error.strerror}")

    def _outside(self, path: str, real: str) -> Refusal | None:
        roots = (_cached_repository(self.manifests), *self.file_sources) if self.manifests else self.file_sources
        for root in roots:
            if is_within(real, root):
                return None
        where = f" (a link to {real})" if real != os.path.normpath(path) else ""
        message = f"{path}{where} is outside of the manifests' repository {roots[0]}" if self.manifests else f"{path}{where}"
        return Refusal("policy.fileSources", message, str(Path(real).parent))

    # -- addresses

    def host_refusal(self, host: str, port: int) -> Refusal | None:
        """Whether a manifest may name this host: an address, or a name that means this host. Other names are not resolved."""
        if not (self.limits_addresses or not self.private):
            return None
        if (address := literal(host)) is not None:
            return self.address_refusal(host, port, address)
        if not self.limits_addresses or not is_local_name(host):
            return None
        listed = any(is_listed(self.allow, host, port, literal(one)) for one in (host, "127.0.0.1", "::1"))
        return None if listed else _address_refusal(host, port, None, Scope.LOOPBACK)

    def address_refusal(self, host: str, port: int, address: Address) -> Refusal | None:
        """Whether a connection to ``address``, for a manifest that names ``host``, may be made."""
        if not self.limits_addresses and self.private:
            return None
        if (found := scope(address)) is Scope.PUBLIC or is_listed(self.allow, host, port, address):
            return None
        refused = not self.private if found is Scope.PRIVATE else self.limits_addresses
        return _address_refusal(host, port, address, found) if refused else None

    # -- registries

    def registry_refusal(self, host: str) -> Refusal | None:
        """Whether a manifest may name this registry (``host`` or ``host:port``); names are not resolved.

        One that is listed may have any address: the host file names it.
        """
        if self.registries.lists(host):
            return None
        if self.registries.allow is not None:
            return Refusal("policy.registries.allow", f"registry {host} is not listed", host)
        name, port = split_host(host)
        found = self.host_refusal(name, port or (80 if named(host, self.registries.plain_http) else 443))
        return found and Refusal("policy.registries.allow", found.message, host)

    def credentials_refusal(self, url: str) -> Refusal | None:
        """Whether requests to this endpoint, which a manifest names, may be signed with the host's credentials."""
        if not self.limits_credentials:
            return None
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)
        amazon = parts.scheme == "https" and AMAZON_S3.fullmatch(plain_name(host))
        if amazon or is_listed(self.credentials, host, port, literal(host)):
            return None
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        message = f"requests to {where} would be signed with this host's AWS credentials (a public bucket needs s3.anonymous)"
        return Refusal("policy.endpoints.credentials", message, where)

    # -- pools

    def pool_file_refusal(self, path: str, pool: str) -> Refusal | None:
        """Whether a pool may have its backing in this file, which need not exist."""
        real = os.path.realpath(path)
        roots = [os.path.realpath(self.state), *self.pool_files] if self.state else list(self.pool_files)
        permitted = any(is_within(real, root) for root in roots) and not self._is_of_state(real, pool)
        if not self.limits_pool_files or permitted:
            return None
        where = f" (a link to {real})" if real != path else ""
        if self._is_of_state(real, pool):
            message = f"{path}{where} is a file of the state directory itself, or of another pool"
            return Refusal("policy.pools.files", message, remedy="name another file")
        outside = f" is outside of the state directory {self.state}" if self.state else " is not listed"
        return Refusal("policy.pools.files", f"{path}{where}{outside}", str(Path(real).parent))

    def _is_of_state(self, real: str, pool: str) -> bool:
        """Whether a path is one of what ``settings`` places in the state directory, besides the directory of this pool."""
        state = os.path.realpath(self.state) if self.state else ""
        name, _, rest = (real.removeprefix(f"{state}/") if state and is_within(real, state) else "").partition("/")
        others = name == _POOLS and not rest.startswith(f"{pool}/")
        return name in _OF_STATE or name.startswith(_REGISTRY) or others

    def device_refusal(self, path: str) -> Refusal | None:
        """Whether a pool may use a device of this name; a link is followed, and its name or its target may be listed."""
        if self.pool_devices is None or self.lists_device(path):
            return None
        return Refusal("policy.pools.devices", f"{path} is not among the devices that pools may use", path)

    def lists_device(self, path: str) -> bool:
        names = (os.path.normpath(path), os.path.realpath(path))
        return any(fnmatchcase(name, pattern) for pattern in self.pool_devices or () for name in names)

    def signature_refusal(self, path: str, held: str) -> Refusal | None:
        """Whether a pool may be created on a device that holds something; ``held`` is empty where it holds nothing."""
        if not held or not self.limits_devices or self.lists_device(path):
            return None
        return Refusal("policy.pools.devices", f"{path} holds {held}", path)

    # -- all

    def error(self, refusal: Refusal) -> PolicyRefused:
        return PolicyRefused(f"refused by this host's policy: {refusal.message}", hint=refusal.hint(self.file))

    def require(self, refusal: Refusal | None) -> None:
        """Raise PolicyRefused for a refusal, where the policy is enforced."""
        if refusal is not None and self.enforced:
            raise self.error(refusal)


def named(host: str, entries: Iterable[str]) -> bool:
    """Whether a list of registries names one: with its port, or without any port."""
    wanted = {host.lower(), split_host(host)[0].lower()}
    return any(one.lower() in wanted for one in entries)


def split_host(host: str) -> tuple[str, int | None]:
    """The name, and the port where there is one."""
    name, colon, port = host.rpartition(":")
    return (name, int(port)) if colon and port.isdecimal() and not host.endswith("]") else (host, None)


_OF_STATE = frozenset(("index", "lock", "reserve", "running.json", "spool"))
_POOLS = "pools"
"""A directory for each pool."""

_REGISTRY = "registry.sqlite3"
"""Its log is beside it."""


def _address_refusal(host: str, port: int, address: Address | None, found: Scope) -> Refusal:
    named = f"{host}:{port}" if address is None or literal(host) == address else f"{host}:{port} resolves to {address}, which"
    shown = str(address or host)
    add = f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"
    return Refusal("policy.endpoints.allow", f"{named} is {found.value}", add)


# ------------------------------------------------------------------------------------------------------ paths

_SHARED_ROOTS = frozenset(("/", "/etc", "/home", "/mnt", "/opt", "/root", "/srv", "/usr", "/var", "/var/lib"))
"""Directories that hold more than manifests, also where they are work trees (etckeeper)."""


def repository(manifests: str) -> str:
    """The work tree that the manifests are part of, links resolved; their own directory where there is none."""
    real = os.path.realpath(manifests)
    for above in (Path(real), *Path(real).parents):
        if str(above) in _SHARED_ROOTS:
            break
        if (above / ".git").exists():
            return str(above)
    return real


def _cached_repository(manifests: str) -> str:
    """The same, found once for each directory that the path has led to: thousands of files are compared with it."""
    try:
        found = os.stat(manifests)  # noqa: PTH116 - as above
    except OSError:
        return repository(manifests)
    return _repository_of(manifests, found.st_dev, found.st_ino)


@lru_cache(maxsize=8)
def _repository_of(manifests: str, device: int, inode: int) -> str:
    return repository(manifests)


def is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")

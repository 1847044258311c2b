"""What manifests and the host file were parsed to, kept for later invocations: those import neither YAML nor pydantic.

Three files of the state directory, each with one result, keyed by everything that it was made of: the texts and their names, this
host, this version of the parser. Only a run writes them (``write``); what is missing, damaged or of another owner counts as not
there. With any fault nothing is kept. Called by ``last_good`` and ``host_reader``. State: the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import reconciler
from reconciler import atomic_file
from reconciler.dataclass import dataclass
from reconciler.image.oci.platform import host as host_platform
from reconciler.manifests.faults import Fault
from reconciler.manifests.files import MAX_TREE_BYTES, ManifestFile
from reconciler.manifests.values import Decoder, Encoder
from reconciler.model import Desired, HostFacts, ImageSpec, PoolSpec

FORMAT = "reconciler/parsed-1"
MANIFESTS, DOCUMENTS, HOST = "manifests", "documents", "host"
MAX_BYTES = 2 * MAX_TREE_BYTES
"""Of one file: a larger result is parsed anew each time."""

T = TypeVar("T")

_ROOT = Path(reconciler.__file__).parent
_SHAPING = ("", "manifests", "image", "image/oci", "image/ext4", "pool", "policy")
"""Directories of the modules that decide what a text is parsed to."""

_DAMAGED = (TypeError, ValueError, LookupError, AttributeError, RecursionError)


class Store:
    """The results in a directory; and those of this invocation, written by ``write``, where it ``writes``."""

    def __init__(self, directory: Path, *, writes: bool = False) -> None:
        self._directory = directory
        self.writes = writes
        self._new: dict[str, tuple[str, Any]] = {}

    def read(self, kind: type[T], name: str, key: str) -> T | None:
        """What an earlier invocation kept under the key; None where there is nothing, or it is damaged."""
        with suppress(OSError, *_DAMAGED):
            header, _, body = _bytes(self._directory / name).partition(b"\n")
            if header.decode() == _header(key, body):
                found = json.loads(body)
                value: T = Decoder(found["shared"]).decode(kind, found["value"])
                return value
        return None

    def is_used(self, name: str) -> bool:
        """Whether there is something to read or to write: only then a key is worth its computation."""
        return self.writes or os.path.exists(self._directory / name)  # noqa: PTH110 - also where it can't be looked for

    def keep(self, name: str, key: str, found: Any) -> None:
        if self.writes:
            self._new[name] = key, found

    def write(self) -> None:
        """Write the results of this invocation; where that is not possible the next one parses again. Callers hold the lock."""
        with suppress(OSError):
            for name, (key, found) in self._new.items():
                encoder = Encoder()
                body = json.dumps({"value": encoder.encode(found), "shared": encoder.shared}, separators=(",", ":")).encode()
                if len(body) <= MAX_BYTES:
                    atomic_file.make_directory(self._directory)
                    content = _header(key, body).encode() + b"\n" + body
                    atomic_file.write(self._directory / name, content, durable=False)
        self._new.clear()


def _header(key: str, body: bytes) -> str:
    return f"{FORMAT} {key} {hashlib.sha256(body).hexdigest()}"


def _bytes(path: Path) -> bytes:
    """The content of a file that only this user or root can write to. Raises OSError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise PermissionError(f"{path}: not a file that this user alone writes")
        return file.read()


# ------------------------------------------------------------------------------------------------------ keys


def key_of(*parts: str) -> str:
    """The key of a result that was made of these texts by this version."""
    digest = hashlib.sha256()
    for part in (_version(), *parts):
        data = part.encode(errors="surrogatepass")
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()


def key_of_tree(files: Iterable[ManifestFile], source: str, host: HostFacts) -> str:
    """Relative sources start from the working directory."""
    own = (host.name, host.id, *(f"{key}={value}" for key, value in sorted(host.labels.items())))
    texts = (part for file in files for part in (file.path, file.text))
    return key_of(str(Path.cwd()), str(host_platform()), source, str(len(own)), *own, *texts)


@cache
def _version() -> str:
    """Differs with the version, and where the program runs from sources, with each change of them."""
    found = []
    for directory in _SHAPING:
        with os.scandir(_ROOT / directory) as entries:
            modules = sorted((one.name, one.stat()) for one in entries if one.name.endswith(".py"))
            found += [f"{directory}/{name} {about.st_size} {about.st_mtime_ns}" for name, about in modules]
    return "\n".join((FORMAT, reconciler.__version__, *found))


# ---------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the manifests declare; ``notes`` are documents that are ignored."""

    pools: tuple[PoolSpec, ...]
    images: tuple[ImageSpec, ...]
    notes: tuple[Fault, ...]

    @classmethod
    def of(cls, desired: Desired, notes: Iterable[Fault]) -> Parsed:
        return cls(tuple(desired.pools.values()), tuple(desired.images.values()), tuple(notes))

    def desired(self, source: str, host: HostFacts) -> Desired:
        return Desired({one.name: one for one in self.pools}, {one.name: one for one in self.images}, source, host.name)


@dataclass(frozen=True, slots=True)
class Normalized:
    """Documents by name, as JSON, in one spelling."""

    images: Mapping[str, Any]
    pools: Mapping[str, Any]

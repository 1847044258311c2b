"""What one snapshot has besides its image: a size, files, an identity, a seed. Values, what they hold, and their digest.

Made by ``manifests``, compared by ``planner``, carried out by ``host.customizing``. A file's content is in the manifest, or in a
file of the host (``source``); the registry keeps digests only. Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from reconciler.dataclass import dataclass, field

_PLACEHOLDER = re.compile(r"\{(snapshot|index|image|host)\}")

UNKNOWN = "unknown"
"""The digest of what a snapshot gets where a file that it gets can't be read."""

READ_ONLY = "-ro"
"""The end of the digest of a read-only snapshot: drivers keep the digest, and activate the snapshot accordingly."""

SEED = "-seed"
"""In the digest of a snapshot with a seed: a disk beside it, which is named by the digest."""

FILE_BYTES = 1 << 20
"""Most bytes of one file."""

_DIGEST = 64


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A file of a snapshot. ``source`` is the absolute path of its content, empty where ``content`` is that."""

    path: str
    content: str = field(default="", repr=False)
    source: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Names:
    """What the placeholders of a content stand for."""

    snapshot: str
    index: int
    image: str
    host: str

    def fill(self, content: str) -> str:
        values = {"snapshot": self.snapshot, "index": str(self.index), "image": self.image, "host": self.host}
        return _PLACEHOLDER.sub(lambda match: values[match[1]], content)

    def fill_bytes(self, content: bytes) -> bytes:
        return self.fill(content.decode(errors="surrogateescape")).encode(errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class CustomSpec:
    """``size`` in bytes, 0 for the image's; ``index`` is the snapshot's among those that are declared with it.

    ``seed``: the files of the disk for cloud-init (NoCloud), by name, each the absolute path of a file with placeholders.
    """

    size: int = 0
    unique_ids: bool = False
    files: tuple[FileSpec, ...] = ()
    index: int = 0
    read_only: bool = False
    seed: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """All that is declared."""
        return f"{self!r}{[file.content for file in self.files]}{self.seed or ''}"

    @property
    def edits(self) -> bool:
        """Whether anything is written into the snapshot."""
        return bool(self.size or self.unique_ids or self.files)

    @property
    def sources(self) -> tuple[str, ...]:
        """The paths of the host's files that it has content from, each once."""
        return tuple(dict.fromkeys([*(one.source for one in self.files if one.source), *(path for _, path in self.seed)]))

    def digest(self, names: Names, sums: Mapping[str, str]) -> str:
        """Of everything that it gives a snapshot; empty for nothing.

        ``sums`` has the ``sum_of`` each source; ``UNKNOWN`` where one is missing.
        """
        end = READ_ONLY if self.read_only else ""
        if not (self.edits or self.seed):
            return end
        if not all(sums.get(path) for path in self.sources):
            return UNKNOWN
        files = []
        for one in self.files:
            found = sums[one.source][:_DIGEST] if one.source else digest_of(names.fill(one.content).encode())
            files.append([one.path, found, one.mode, one.uid, one.gid])
        seed = [[[name, names.fill(sums[path])] for name, path in self.seed]] if self.seed else []
        return digest_of(json.dumps([1, self.size, self.unique_ids, files, *seed]).encode()) + (SEED if seed else "") + end


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sum_of(content: bytes) -> str:
    """The digest of a source, and the placeholders in it: filled in, they identify what a seed has of it."""
    found = {match[0] for match in _PLACEHOLDER.finditer(content.decode(errors="surrogateescape"))}
    return digest_of(content) + "".join(sorted(found))


def has_seed(custom: str) -> bool:
    """Whether the snapshot of this digest has a seed."""
    return SEED in custom

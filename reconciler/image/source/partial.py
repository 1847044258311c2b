"""A download that is not whole yet: its bytes, and a record from which another process continues it.

``<key>.part`` holds the bytes, ``<key>.json`` the object's ETag and length, and proofs: digests of ever longer prefixes.
Nothing is synced: a resumed download hashes the bytes again and continues after the longest prefix that its proof confirms. Bytes
that a power cut took are thus fetched again, and a damaged prefix is never built upon. Used by ``download`` and ``spool``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from reconciler import atomic_file
from reconciler.dataclass import dataclass

BYTES, RECORD = ".part", ".json"
DRAFT = ".json.partial"
"""How the private name of a record ends (``atomic_file``); it begins with a dot."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The first ``length`` bytes have this sha256 (64 hex digits)."""

    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """Which object the bytes are of, and how far they can be trusted; proofs by ascending length."""

    etag: str
    size: int
    proofs: tuple[Proof, ...] = ()

    @property
    def length(self) -> int:
        return self.proofs[-1].length if self.proofs else 0


@dataclass(frozen=True, slots=True)
class Partial:
    """The two files of one unfinished download."""

    bytes: Path
    record: Path

    @classmethod
    def of(cls, directory: Path, key: str) -> Partial:
        return cls(directory / (key + BYTES), directory / (key + RECORD))

    def load(self) -> Record | None:
        """What an earlier process left to go on from; None where there is nothing, or nothing that makes sense."""
        try:
            record = _parsed(json.loads(self.record.read_bytes()))
            return record if 0 < record.length <= self.bytes.stat().st_size else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def save(self, record: Record) -> None:
        """Replace the record in one step."""
        told = {"etag": record.etag, "size": record.size, "proofs": [[proof.length, proof.sha256] for proof in record.proofs]}
        atomic_file.write(self.record, json.dumps(told), durable=False)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor to read and write the bytes."""
        descriptor = os.open(self.bytes, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def discard(self) -> None:
        for path in (self.record, self.bytes):
            path.unlink(missing_ok=True)


def _parsed(told: dict[str, Any]) -> Record:
    proofs = tuple(Proof(int(length), str(sha256)) for length, sha256 in told["proofs"])
    ascending = all(a.length < b.length for a, b in pairwise(proofs))
    record = Record(str(told["etag"]), int(told["size"]), proofs)
    if not record.etag or not ascending or record.length > record.size:
        raise ValueError("not a record that this program has written")
    return record

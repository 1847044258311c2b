"""The values that define what goes into a file system: sources, layers, limits, chain ids.

Frozen and free of side effects; imported by every package, imports nothing of ours. No state.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

LAYOUT = 2
"""Version of what is made of a layer's bytes: the rules of ``archive`` and ``tree``, and the ext4 writer's layout. A change of
the bytes that are written from the same input raises it."""

OLDER_LAYOUTS = (1,)
"""Versions that are not written any more. Volumes of theirs stay in use until something else changes (``planner.goals``)."""

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class S3Options:
    """How to reach a bucket. None leaves the value to the AWS environment."""

    endpoint_url: str | None = None
    region: str | None = None
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Where a layer's bytes are: ``s3://bucket/key``, or an absolute path of this host."""

    url: str
    s3: S3Options = field(default_factory=S3Options)

    @property
    def is_s3(self) -> bool:
        return self.url.startswith("s3://")

    @property
    def bucket_key(self) -> tuple[str, str]:
        """The bucket and the key of an S3 source."""
        bucket, _, key = self.url.removeprefix("s3://").partition("/")
        return bucket, key


@dataclass(frozen=True, slots=True)
class Layer:
    """One tar as stored. ``sha256`` (64 hex digits, of the stored bytes) is its identity; None where it is unpinned.

    ``learnt``: no manifest names the digest; an earlier fetch of the same ETag had it.
    """

    source: Source
    sha256: str | None = None
    learnt: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a layer may cost, and what is done with members that some images need and others should not have.

    Bytes count the decompressed stream (unpacked) and apparent sizes (file). ``max_ratio`` is decompressed bytes by stored bytes,
    applied once ``ratio_floor_bytes`` have been decompressed. ``max_name_bytes`` bounds a component of a path;
    ``max_metadata_bytes`` the long names and extended headers, ``max_xattr_bytes`` the names and values of the attributes, of one
    member. ``max_seconds`` are the builder's seconds of CPU for one layer. The values of a policy are in ``POLICIES``.
    """

    max_unpacked_bytes: int = 32 * GIB
    max_file_bytes: int = 16 * GIB
    max_entries: int = 1_000_000
    max_ratio: int = 200
    max_depth: int = 256
    ratio_floor_bytes: int = 64 * MIB
    max_name_bytes: int = 255
    max_path_bytes: int = 4096
    max_xattr_bytes: int = 64 * KIB
    max_metadata_bytes: int = MIB
    max_seconds: int = 3600
    climbing_links: str = "refuse"
    devices: str = "keep"
    setuid: str = "keep"
    trailing_data: str = "refuse"
    missing_end_marker: str = "refuse"
    foreign_attributes: str = "drop"
    times: str = "clamp"

    @property
    def policy(self) -> str:
        """The policies that differ from the default, part of what a chain is: no image gets what its own policies refuse."""
        chosen = ((name, str(getattr(self, name))) for name in POLICIES)
        return "".join(f" {name}={value}" for name, value in chosen if value != POLICIES[name][0])


POLICIES = {
    "climbing_links": ("refuse", "resolve"),
    "devices": ("keep", "refuse"),
    "setuid": ("keep", "strip", "refuse"),
    "trailing_data": ("refuse", "ignore"),
    "missing_end_marker": ("refuse", "accept"),
    "foreign_attributes": ("drop", "refuse"),
    "times": ("clamp", "refuse"),
}
"""What each policy can be, the default first."""


def base_id(size: int, policy: str = "", layout: int = LAYOUT) -> str:
    """Id that every chain of file systems of ``size`` bytes and one ``Limits.policy`` starts from (64 hex digits)."""
    return hashlib.sha256(f"reconciler/ext4 layout={layout} size={size}{policy}".encode()).hexdigest()


def chain_ids(size: int, digests: Iterable[str], policy: str = "", layout: int = LAYOUT) -> tuple[str, ...]:
    """Ids of the chain's prefixes, the whole chain last, in the manner of OCI's ChainID.

    >>> len(chain_ids(8 * GIB, ["a" * 64, "b" * 64]))
    2
    """
    ids: list[str] = []
    parent = base_id(size, policy, layout)
    for digest in digests:
        parent = hashlib.sha256(f"{parent} {digest}".encode()).hexdigest()
        ids.append(parent)
    return tuple(ids)


def filesystem_uuid(chain: str) -> uuid.UUID:
    """UUID of the file system of a chain: the same layers and size give the same one, anywhere."""
    return uuid.uuid5(uuid.UUID("6d0c7f0e-5a3b-5c1e-9d57-0b7a3a1f4e52"), chain)

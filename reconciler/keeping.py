"""What a person looks up and changes in the registry alone: all its rows, an image's name, an image that is to be forgotten.

Called by ``verbs`` with a Host; those that change something hold the lock. Pools and devices are not touched. No state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.errors import Guarded, UsageError
from reconciler.host import Host
from reconciler.model import ImageRow, Kind, SnapshotRow
from reconciler.pool.journal import identified


@dataclass(frozen=True, slots=True)
class Row:
    """``identity`` is the driver's own; an image has none."""

    kind: Kind
    name: str
    pool: str
    chain: str | None
    identity: str | None = None
    image: str | None = None


def rows(host: Host) -> tuple[Row, ...]:
    """Everything that the registry says exists: images, volumes, snapshots."""
    return tuple(_rows(host))


def _rows(host: Host) -> Iterator[Row]:
    for image in host.records.images().values():
        yield Row(Kind.IMAGE, image.name, image.pool, image.chain)
    for volume in host.records.volumes().values():
        yield Row(Kind.VOLUME, volume.chain[:12], volume.pool, volume.chain, volume.identity)
    for snapshot in host.records.snapshots().values():
        yield Row(Kind.SNAPSHOT, snapshot.name, snapshot.pool, snapshot.chain, snapshot.identity, snapshot.image)


def move(host: Host, old: str, new: str) -> str:
    """Give an image the name that its manifest has now; say what came with it. Raises UsageError, Guarded."""
    row = known(host, old)
    if new in host.records.images():
        hint = f"they are two images now: --prune removes what image {new} has not taken over"
        raise Guarded(f"image {new!r} is in the registry already", hint=hint)
    if old in host.desired.images:
        raise Guarded(f"image {old!r} is still declared", hint="a run would make it again: take it out of the manifests first")
    spec = host.desired.images.get(new)
    if spec is None:
        raise Guarded(f"image {new!r} is not declared", hint="declare it under its new name first")
    if spec.pool != row.pool:
        raise Guarded(f"image {old!r} is in pool {row.pool}, and image {new!r} is declared in pool {spec.pool}")
    count = len(snapshots(host, old))
    message = f"image {old} is image {new} now, with {count} snapshot{'' if count == 1 else 's'}"
    host.registry.move_image(old, new, message)
    return message


def forget(host: Host, name: str) -> str:
    """Forget an image that is no longer declared: what it has stays in its pool, and is nobody's. Raises UsageError, Guarded."""
    known(host, name)
    if name in host.desired.images:
        raise Guarded(f"image {name!r} is declared", hint="a run would make it again: take it out of the manifests first")
    left = snapshots(host, name)
    count = f"{len(left)} snapshot{'' if len(left) == 1 else 's'}"
    message = f"image {name} is forgotten; {count} of it left where they are" if left else f"image {name} is forgotten"
    host.registry.abandon_image(name, [(row.pool, thin[0]) for row in left if (thin := identified(row.identity))], message)
    return message


def known(host: Host, name: str) -> ImageRow:
    row = host.records.images().get(name)
    if row is None:
        raise UsageError(f"there is no image {name!r} in the registry", hint="see them with: reconcile state ls")
    return row


def snapshots(host: Host, image: str) -> list[SnapshotRow]:
    return [row for row in host.records.snapshots().values() if row.image == image]

"""Edits of the registry: list its rows, rename an image, forget one, register an existing snapshot file.

Called by ``cli``; edits need the writer's lock. Pools and devices are not touched. No state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from reconciler.errors import Guarded, UsageError
from reconciler.image.spec import LAYOUT, OLDER_LAYOUTS, chain_ids, filesystem_uuid
from reconciler.model import Desired, ImageRow, Key, Kind, SnapshotMade, SnapshotRow
from reconciler.pool.driver import Driver
from reconciler.pool.file.identity import examine, filesystem
from reconciler.pool.file.pool import FilePool
from reconciler.pool.thin.journal import identified
from reconciler.registry.reader import Records

if TYPE_CHECKING:
    from reconciler.registry.writer import Registry


class Context(Protocol):
    """What an edit needs of an invocation (``host.context.Host``)."""

    @property
    def desired(self) -> Desired: ...
    @property
    def records(self) -> Records: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def drivers(self) -> Mapping[str, Driver]: ...


@dataclass(frozen=True, slots=True)
class Row:
    """``identity`` is the driver's own; an image has none."""

    kind: Kind
    name: str
    pool: str
    chain: str | None
    identity: str | None = None
    image: str | None = None


def rows(host: Context) -> tuple[Row, ...]:
    """All images, volumes and snapshots of the registry."""
    return tuple(_rows(host))


def _rows(host: Context) -> Iterator[Row]:
    for image in host.records.images().values():
        yield Row(Kind.IMAGE, image.name, image.pool, image.chain)
    for volume in host.records.volumes().values():
        yield Row(Kind.VOLUME, volume.chain[:12], volume.pool, volume.chain, volume.identity)
    for snapshot in host.records.snapshots().values():
        yield Row(Kind.SNAPSHOT, snapshot.name, snapshot.pool, snapshot.chain, snapshot.identity, snapshot.image)


def move(host: Context, old: str, new: str) -> str:
    """Rename an image as its manifest was; return what moved with it. Raises UsageError, Guarded."""
    row = known(host, old)
    if new in host.records.images():
        hint = f"they are two images now: --prune removes what belongs to image {old} alone"
        raise Guarded(f"image {new!r} is in the registry already", hint=hint)
    if old in host.desired.images:
        raise Guarded(f"image {old!r} is still declared", hint="a run would create it again: remove it from the manifests first")
    spec = host.desired.images.get(new)
    if spec is None:
        raise Guarded(f"image {new!r} is not declared", hint="declare it under its new name first")
    if spec.pool != row.pool:
        raise Guarded(f"image {old!r} is in pool {row.pool}, and image {new!r} is declared in pool {spec.pool}")
    count = len(snapshots(host, old))
    message = f"image {old} is image {new} now, with {count} snapshot{'' if count == 1 else 's'}"
    host.registry.move_image(old, new, message)
    return message


def forget(host: Context, name: str) -> str:
    """Delete the rows of an image that is no longer declared; its data stays, unmanaged. Raises UsageError, Guarded."""
    known(host, name)
    if name in host.desired.images:
        raise Guarded(f"image {name!r} is declared", hint="a run would create it again: remove it from the manifests first")
    left = snapshots(host, name)
    count = f"{len(left)} snapshot{'' if len(left) == 1 else 's'}"
    message = f"image {name} is no longer in the registry" + (f"; {count} of it stay on disk, unmanaged" if left else "")
    host.registry.abandon_image(name, [(row.pool, thin[0]) for row in left if (thin := identified(row.identity))], message)
    return message


def register_snapshot(host: Context, name: str, image: str, pool: str = "") -> str:
    """Register an existing snapshot file of the image's pool; return what was registered. Raises UsageError, Guarded.

    The UUID of its file system follows from its chain, and identifies it. Thin pools have ``adopt`` for this.
    """
    spec = host.desired.images.get(image)
    if spec is None or name not in spec.snapshots:
        raise UsageError(f"image {image!r} declares no snapshot {name!r}", hint="declare it first: a run ignores it otherwise")
    if pool not in ("", spec.pool):
        raise UsageError(f"image {image!r} is in pool {spec.pool}, not in {pool}", hint=f"write snapshot/{spec.pool}/{name}")
    driver = host.drivers[spec.pool]
    if not isinstance(driver, FilePool):
        raise UsageError(f"pool {spec.pool} is a thin pool", hint=f"register its devices with: reconcile adopt {spec.pool}")
    if (spec.pool, name) in host.records.snapshots():
        raise Guarded(f"snapshot {name!r} of pool {spec.pool} is in the registry already")
    row = SnapshotRow(spec.pool, name, image, *_proof(host, driver, name))
    host.registry.apply([SnapshotMade(row)])
    message = f"snapshot {name} is registered; it was made from chain {row.chain[:12]}"
    host.registry.event(Key(Kind.SNAPSHOT, spec.pool, name), "Imported", message)
    return message


def _proof(host: Context, driver: FilePool, name: str) -> tuple[str, str]:
    """Chain and identity of a whole snapshot. Raises UsageError where there is none, Guarded without proof."""
    path = driver.snapshot_path(name)
    found = examine(path)
    if found is None:
        raise UsageError(f"there is no {path}")
    chain = chains(host).get(found.identity.uuid or "") if found.regular else None
    if chain is None:
        what = f"its file system's UUID is {found.identity.uuid}" if found.identity.uuid else "there is no ext4 file system in it"
        hint = "a run sets the file aside and creates the snapshot again; keep a copy if you need its contents"
        raise Guarded(f"{path} is of no chain that is declared or recorded here: {what}", hint=hint)
    size = filesystem(path)[0] or 0
    if found.identity.size < size:
        raise Guarded(f"{path} is not whole: {found.identity.size} bytes of a file system of {size}", hint="copy it again")
    return chain, str(found.identity)


def chains(host: Context) -> dict[str, str]:
    """The chain of each file system that is declared or recorded, by its UUID."""
    known = {row.chain for row in host.records.volumes().values()}
    for image in host.desired.images.values():
        digests = [layer.sha256 for layer in image.layers]
        pinned = digests[: digests.index(None)] if None in digests else digests
        for layout in (*OLDER_LAYOUTS, LAYOUT):
            known.update(chain_ids(image.size, [digest for digest in pinned if digest], image.limits.policy, layout))
    return {str(filesystem_uuid(chain)): chain for chain in known}


def known(host: Context, name: str) -> ImageRow:
    row = host.records.images().get(name)
    if row is None:
        raise UsageError(f"there is no image {name!r} in the registry", hint="see them with: reconcile state ls")
    return row


def snapshots(host: Context, image: str) -> list[SnapshotRow]:
    return [row for row in host.records.snapshots().values() if row.image == image]

"""Edits of the registry: list its rows, rename an image, forget one, register an existing snapshot file.

Called by ``cli``; edits need the writer's lock. Pools and devices are not touched. No state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from reconciler.errors import Guarded, UsageError
from reconciler.image.spec import LAYOUT, OLDER_LAYOUTS, chain_ids, filesystem_uuid
from reconciler.model import Desired, ImageRow, Key, Kind, SnapshotMade, SnapshotRow, VolumeGone
from reconciler.pool.driver import Condition, Driver
from reconciler.pool.file.identity import Identity, examine, filesystem, judge_snapshot
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


def forget_volume(host: Context, key: Key) -> str:
    """Delete the row of a thin pool's volume; the next run rebuilds it if it is needed, and removes the old device.

    Raises UsageError. A file pool's volume is a file: removing that is enough.
    """
    named = [row for row in host.records.volumes().values() if row.chain.startswith(key.name) and key.pool in ("", row.pool)]
    if len(named) != 1:
        pools = ", ".join(sorted(row.pool for row in named))
        hint = f"write volume/POOL/{key.name}, with a pool of {pools}" if named else "see `reconcile state ls`"
        raise UsageError(f"volume {key.name!r} is {'in several pools' if named else 'not in the registry'}", hint=hint)
    (row,) = named
    if isinstance(driver := host.drivers.get(row.pool), FilePool):
        raise UsageError(f"pool {row.pool} is a file pool", hint=f"remove the volume's file: rm {driver.volume_path(row.chain)}")
    message = f"volume {row.chain[:12]} of pool {row.pool} is no longer in the registry: the next run rebuilds it if it is needed"
    host.registry.apply([VolumeGone(row.pool, row.chain)])
    host.registry.event(Key(Kind.VOLUME, row.pool, row.chain[:12]), "Forgotten", message)
    return message


def register_snapshots(host: Context, keys: Sequence[Key], image: str, chain: str = "") -> str:
    """Register them one by one; return what was registered. Raises UsageError, Guarded at the first that can't be."""
    return "\n".join(register_snapshot(host, key.name, image, key.pool, chain) for key in keys)


def register_snapshot(host: Context, name: str, image: str, pool: str = "", chain: str = "") -> str:
    """Register an existing snapshot file of the image's pool; return what was registered. Raises UsageError, Guarded.

    The operator vouches for the file. Its chain is that of the registry's row, else ``chain``, else the one that the UUID of its
    file system belongs to. Thin pools have ``adopt`` for this.
    """
    spec = host.desired.images.get(image)
    if spec is None or name not in spec.snapshots:
        raise UsageError(f"image {image!r} declares no snapshot {name!r}", hint="declare it first: a run ignores it otherwise")
    if pool not in ("", spec.pool):
        raise UsageError(f"image {image!r} is in pool {spec.pool}, not in {pool}", hint=f"write snapshot/{spec.pool}/{name}")
    driver = host.drivers[spec.pool]
    if not isinstance(driver, FilePool):
        raise UsageError(f"pool {spec.pool} is a thin pool", hint=f"register its devices with: reconcile adopt {spec.pool}")
    before = host.records.snapshots().get((spec.pool, name))
    found = _whole(driver, name, before)
    made = before.chain if before else _chain_of(host, driver, name, chain)
    row = SnapshotRow(spec.pool, name, image, made, str(found))
    host.registry.apply([SnapshotMade(row)])
    message = f"snapshot {name} is registered; it was made from chain {row.chain[:12]}"
    host.registry.event(row.key, "Imported", message)
    return message


def _whole(driver: FilePool, name: str, before: SnapshotRow | None) -> Identity:
    """The identity of a file that has a snapshot's name and is not registered. Raises UsageError, Guarded."""
    path = driver.snapshot_path(name)
    found = examine(path)
    if found is None:
        raise UsageError(f"there is no {path}")
    if before and judge_snapshot(before.identity, found)[0] is Condition.INTACT:
        raise Guarded(f"snapshot {name!r} of pool {driver.name} is in the registry already")
    if not found.regular:
        raise Guarded(f"{path} is not a regular file", hint=f"reconcile retry --recreate snapshot/{driver.name}/{name}")
    was = Identity.parse(before.identity) if before else None
    least = max(filesystem(path)[0] or 0, was.size if was else 0)
    if found.identity.size < least:
        raise Guarded(f"{path} is not whole: {found.identity.size} bytes of a file system of {least}", hint="copy it again")
    return found.identity


def _chain_of(host: Context, driver: FilePool, name: str, given: str) -> str:
    """The chain of a snapshot file. Raises Guarded where it is of none that is declared or recorded."""
    path, known = driver.snapshot_path(name), chains(host)
    uuid = filesystem(path)[1]
    chain = next((one for one in known.values() if given and one.startswith(given)), None) or known.get(uuid or "")
    if chain is None or (given and not chain.startswith(given)):
        what = f"its file system's UUID is {uuid}" if uuid else "there is no ext4 file system in it"
        hint = f"name its chain with --chain, or `reconcile retry --recreate snapshot/{driver.name}/{name}` sets the file aside"
        raise Guarded(f"{path} is of no chain that is declared or recorded here: {what}", hint=hint)
    return chain


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

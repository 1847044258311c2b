"""Edits of the registry: list its rows, rename an image, forget one, register an existing snapshot file.

Called by ``cli``; edits need the writer's lock. Pools and devices are not touched. No state.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from reconciler.claim import Moment
from reconciler.dataclass import dataclass
from reconciler.engine.facts import SnapshotMade, VolumeGone
from reconciler.errors import Guarded, UsageError
from reconciler.image.spec import LAYOUT, OLDER_LAYOUTS, chain_ids, filesystem_uuid
from reconciler.model import Desired, ImageRow, Key, Kind, SnapshotRow
from reconciler.pool.driver import UNKNOWN_CHAIN, Condition, Driver
from reconciler.pool.file.identity import Identity, examine, filesystem, judge_snapshot
from reconciler.pool.file.pool import FilePool
from reconciler.pool.thin.journal import identified
from reconciler.registry.reader import Records

if TYPE_CHECKING:
    from reconciler.registry.writer import Registry


_CHAIN = re.compile("[0-9a-f]{64}")


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

    The operator vouches for the file. A claim keeps it in use: it may hold a user's data. Its chain is that of the registry's
    row, else ``chain``, else unknown: a guest can write the UUID of its file system. Thin pools have ``adopt`` for this.
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
    unproved = bool(chain and before and before.chain == UNKNOWN_CHAIN)
    found = _whole(driver, name, before, again=unproved)
    made, shown = (before.chain, "") if before and not unproved else _chain_of(host, driver, name, chain)
    row = SnapshotRow(spec.pool, name, image, made, str(found))
    message = f"snapshot {name} is registered; {shown or f'it was made from chain {row.chain[:12]}'}"
    with host.registry.together():
        host.registry.apply([SnapshotMade(row)])
        host.registry.event(row.key, "Imported", message)
        host.registry.keep_in_use([row], "reconcile import", Moment.now())
    claim = host.records.claims()[row.pool, row.name]
    return f"{message}; {claim} keeps it in use: `reconcile release {claim.id}` once its data is not needed any more"


def _whole(driver: FilePool, name: str, before: SnapshotRow | None, *, again: bool) -> Identity:
    """The identity of a file that has a snapshot's name and is not registered, or is ``again``. Raises UsageError, Guarded."""
    path = driver.snapshot_path(name)
    found = examine(path)
    if found is None:
        raise UsageError(f"there is no {path}")
    if before and not again and judge_snapshot(before.identity, found)[0] is Condition.INTACT:
        raise Guarded(f"snapshot {name!r} of pool {driver.name} is in the registry already")
    if not found.regular:
        raise Guarded(f"{path} is not a regular file", hint=f"reconcile retry --recreate snapshot/{driver.name}/{name}")
    was = Identity.parse(before.identity) if before else None
    least = max(filesystem(path)[0] or 0, was.size if was else 0)
    if found.identity.size < least:
        raise Guarded(f"{path} is not whole: {found.identity.size} bytes of a file system of {least}", hint="copy it again")
    return found.identity


def _chain_of(host: Context, driver: FilePool, name: str, given: str) -> tuple[str, str]:
    """The chain of a snapshot file and, where it is unknown, what the file shows.

    Raises UsageError, and Guarded where the file shows no chain that is declared or recorded: it may be no snapshot at all.
    """
    if given:
        return chain_named(host, name, given), ""
    path = driver.snapshot_path(name)
    uuid = filesystem(path)[1]
    shown = chains(host).get(uuid or "")
    if shown is None:
        what = f"its file system's UUID is {uuid}" if uuid else "there is no ext4 file system in it"
        hint = f"name its chain with --chain, or `reconcile retry --recreate snapshot/{driver.name}/{name}` sets the file aside"
        raise Guarded(f"{path} is of no chain that is declared or recorded here: {what}", hint=hint)
    guess = f"its superblock, which its guest can write, shows {shown[:12]}"
    return UNKNOWN_CHAIN, f"its chain is unknown: {guess}; if that is right, repeat the command with --chain {shown[:12]}"


def chain_named(host: Context, snapshot: str, given: str) -> str:
    """The chain that an operator has named: the start of one that is declared or recorded, or any whole one. Raises Guarded."""
    known = sorted({one for one in chains(host).values() if one.startswith(given)})
    if len(known) == 1:
        return known[0]
    if _CHAIN.fullmatch(given):
        return given
    what = f"is the beginning of {len(known)} chains" if known else "is not a chain that is declared or recorded here"
    raise Guarded(f"the chain of snapshot {snapshot}: {given} {what}", hint="give all its 64 digits")


def chains(host: Context) -> dict[str, str]:
    """The chain of each file system that is declared or recorded, by its UUID."""
    known = {row.chain for row in host.records.volumes().values()}
    images = host.desired.images.values()
    referred = host.records.recorded([image.reference for image in images if image.reference])
    for image in images:
        found = referred.get(image.reference) if image.reference else None
        digests = [layer.sha256 for layer in (found.layers if found else image.layers)]
        pinned = digests[: digests.index(None)] if None in digests else digests
        for layout in (*OLDER_LAYOUTS, LAYOUT):
            whole = [digest for digest in pinned if digest]
            known.update(chain_ids(image.size, whole, image.limits.policy, layout, image.bytes_per_inode))
    return {str(filesystem_uuid(chain)): chain for chain in known}


def known(host: Context, name: str) -> ImageRow:
    row = host.records.images().get(name)
    if row is None:
        raise UsageError(f"there is no image {name!r} in the registry", hint="see them with: reconcile state ls")
    return row


def snapshots(host: Context, image: str) -> list[SnapshotRow]:
    return [row for row in host.records.snapshots().values() if row.image == image]

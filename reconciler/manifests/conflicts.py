"""Faults between documents: names that must be unique, references, devices of pools, digests that contradict each other.

Called by ``loader`` once every document is parsed, before ``desired.assemble``. Pure. Every host checks the images of all hosts,
so that a fault shows wherever the repository is read first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from reconciler import sizes
from reconciler.dataclass import dataclass, field
from reconciler.errors import Terminal
from reconciler.image.spec import Layer, Source
from reconciler.manifests.desired import DEFAULT_POOL, Declared, Document, Documents
from reconciler.manifests.faults import Fault, Loc, did_you_mean, quoted
from reconciler.manifests.image import ImageDocument, SnapshotBody
from reconciler.manifests.pool import PoolDocument

MAX_DEVICE_NAME = 127
"""Bytes of a device-mapper name (DM_NAME_LEN without its final NUL); a snapshot's is ``<pool>-<snapshot>``."""
MAX_SNAPSHOTS = 100_000

_NAME = "metadata", "name"


@dataclass(frozen=True)
class Taken:
    """What all manifests may declare only once, with the image that declares it."""

    images: dict[str, Declared[ImageDocument]] = field(default_factory=dict)
    snapshots: dict[tuple[str, str], _SnapshotEntry] = field(default_factory=dict)
    pinned: dict[Source, tuple[Layer, Declared[ImageDocument], int]] = field(default_factory=dict)


def check(documents: Documents, *, has_every_pool: bool = True, taken: Taken | None = None) -> Iterator[Fault]:
    """Faults between documents, each of which is valid by itself.

    ``has_every_pool`` is false where a fault may hide a Pool: references to pools then go unchecked. Fills ``taken``.
    """
    taken = taken or Taken()
    yield from _repeated("Pool", documents.pools, {})
    yield from _repeated("Image", documents.images, taken.images)
    if has_every_pool:
        yield from _dangling(documents)
    yield from _backing_faults(documents.pools)
    yield from _snapshot_faults(documents, taken.snapshots)
    yield from _contradicting_digests(documents.images, taken.pinned)
    yield from _customizing_faults(documents)


def fits(few: Documents, taken: Taken, instead_of: Collection[Declared[ImageDocument]]) -> bool:
    """Whether a few images certainly don't contradict the images that were checked before, except those they replace.

    Not certain where the digest of a pinned source changes: other images may pin it, too.
    """
    own = Taken()
    if next(check(few, taken=own), None) is not None:
        return False
    others = [
        *(taken.images.get(name) for name in own.images),
        *(entry.image for key in own.snapshots if (entry := taken.snapshots.get(key))),
    ]
    before = ((layer, taken.pinned.get(source)) for source, (layer, _, _) in own.pinned.items())
    return all(other is None or other in instead_of for other in others) and all(
        found is None or found[0].sha256 == layer.sha256 for layer, found in before
    )


def _repeated(kind: str, declared: Iterable[Declared[Document]], first: dict[str, Declared[Document]]) -> Iterator[Fault]:
    for one in declared:
        other = first.setdefault(one.name, one)
        if other is not one:
            yield one.fault(f"{kind} {quoted(one.name)} is already declared at {other.origin.where(_NAME)}", *_NAME)


def _dangling(documents: Documents) -> Iterator[Fault]:
    names = documents.pool_names
    for image, pool in documents.placed:
        if pool is not None:
            continue
        named = image.document.spec.pool
        if named is None:
            yield image.fault(f"is required where several pools are declared: {', '.join(names)}", "spec", "pool")
        elif documents.pools:
            yield image.fault(f"no Pool is named {quoted(named)}{did_you_mean(named, names)}", "spec", "pool")
        else:
            yield image.fault(
                f"no Pool is named {quoted(named)}; none is declared, so there is only {DEFAULT_POOL!r}", "spec", "pool"
            )


def _backing_faults(pools: Iterable[Declared[PoolDocument]]) -> Iterator[Fault]:
    """Two pools on one device would write over each other. Paths are compared as they are written."""
    first: dict[str, tuple[Declared[PoolDocument], Loc]] = {}
    for pool in pools:
        thin = pool.document.spec.thin
        for role, backing in (("data", thin.data), ("metadata", thin.metadata)) if thin else ():
            field, path = ("device", backing.device) if backing.device else ("file", backing.file)
            loc: Loc = ("spec", "thin", role, field)
            other, other_loc = first.setdefault(path or "", (pool, loc))
            if other is not pool and other.name != pool.name:
                yield pool.fault(f"pool {quoted(other.name)} is on it already, at {other.origin.where(other_loc)}", *loc)


def _snapshot_faults(documents: Documents, first: dict[tuple[str, str], _SnapshotEntry]) -> Iterator[Fault]:
    """Names are compared as the pool uses them: each file pool has a directory, thin pools share ``/dev/mapper``."""
    thin = {pool.name: pool for pool in documents.pools if pool.document.spec.thin}
    total = 0
    for entry in _snapshot_entries(documents):
        names = entry.snapshot.set
        total += names.most
        if total > MAX_SNAPSHOTS:
            yield entry.fault(f"with this one more than {MAX_SNAPSHOTS} snapshots are declared")
            return
        is_thin = entry.pool in thin
        for name in names.names:
            device = f"{entry.pool}-{name}"
            if len(device) > MAX_DEVICE_NAME:
                yield entry.fault(f"its device's name, {quoted(device)}, has more than {MAX_DEVICE_NAME} characters")
                break
            if is_thin and device in thin:
                place = thin[device].origin.where(_NAME)
                yield entry.fault(f"its device, {device}, has the name of pool {quoted(device)}, which is declared at {place}")
                break
            other = first.setdefault(("", device) if is_thin else (entry.pool, name), entry)
            if other is not entry:
                yield entry.fault(
                    _taken(f"snapshot {name!r} of pool {entry.pool!r}", f" (device {device})" if is_thin else "", other)
                )
                break


def _customizing_faults(documents: Documents) -> Iterator[Fault]:
    """Sizes that no file system of the image can be grown to, and paths that two files have."""
    for image in documents.images:
        spec = image.document.spec
        for index, snapshot in enumerate(spec.snapshots):
            loc: Loc = ("spec", "snapshots", index)
            if snapshot.size and (message := _size_fault(snapshot.size, spec.size, spec.bytes_per_inode)):
                yield image.fault(message, *loc, "size")
            paths = [one.path for one in snapshot.files]
            for at, path in enumerate(paths):
                if path in paths[:at]:
                    yield image.fault(f"another file has the path {quoted(path)} already", *loc, "files", at, "path")


def _size_fault(size: int, of_image: int, bytes_per_inode: int | None) -> str:
    if size < of_image:
        return f"is less than the image's {sizes.format_size(of_image)}: a file system is grown, never shrunk"
    from reconciler.image.ext4.grow import grown
    from reconciler.image.ext4.layout import Geometry

    try:
        grown(Geometry.of_bytes(of_image, bytes_per_inode), size)
    except Terminal as error:
        return f"can't be reached from the image's {sizes.format_size(of_image)}: {error.hint}"
    return ""


@dataclass(frozen=True, slots=True, eq=False)
class _SnapshotEntry:
    """One item of an image's ``snapshots``."""

    image: Declared[ImageDocument]
    pool: str
    index: int
    snapshot: SnapshotBody

    @property
    def loc(self) -> Loc:
        return "spec", "snapshots", self.index, "name"

    def fault(self, message: str) -> Fault:
        return self.image.fault(message, *self.loc)


def _snapshot_entries(documents: Documents) -> Iterator[_SnapshotEntry]:
    for image, placed in documents.placed:
        pool = placed or image.document.spec.pool or DEFAULT_POOL
        for index, snapshot in enumerate(image.document.spec.snapshots):
            yield _SnapshotEntry(image, pool, index, snapshot)


def _taken(what: str, device: str, other: _SnapshotEntry) -> str:
    return f"{what}{device} is already declared by image {other.image.name!r} at {other.image.origin.where(other.loc)}"


def _contradicting_digests(
    images: Iterable[Declared[ImageDocument]], first: dict[Source, tuple[Layer, Declared[ImageDocument], int]]
) -> Iterator[Fault]:
    for image in images:
        for index, layer in enumerate(image.layers):
            if layer.sha256 is None:
                continue
            other = first.get(layer.source)
            if other is None:
                first[layer.source] = layer, image, index
            elif other[0].sha256 != layer.sha256:
                place = other[1].origin.where(("spec", "layers", other[2], "sha256"))
                message = f"contradicts {place}, which pins the same source to {str(other[0].sha256)[:12]}…"
                yield image.fault(message, "spec", "layers", index, "sha256")

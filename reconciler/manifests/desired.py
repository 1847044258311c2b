"""What valid documents declare together: references, names that must be unique, and the images of this host.

Called by ``loader`` once every document is parsed: first ``check``, then, where nothing is wrong, ``assemble``. Pure.
Every host checks the images of all hosts, so that a fault shows wherever the repository is read first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

from reconciler.image.spec import Layer, Limits, S3Options, Source
from reconciler.manifests.documents import Backing, Expression, Hosts, ImageDocument, LimitsBody, PoolDocument, SnapshotBody
from reconciler.manifests.faults import Fault, Loc, Origin, did_you_mean, quoted
from reconciler.manifests.location import resolve
from reconciler.model import BackingSpec, Desired, HostFacts, ImageSpec, PoolSpec, ReplacePolicy, ThinSpec

DEFAULT_POOL = "default"
"""The file pool that exists where no Pool is declared at all: the smallest repository is one Image."""
MAX_DEVICE_NAME = 127
"""Bytes of a device-mapper name (DM_NAME_LEN without its final NUL); a snapshot's is ``<pool>-<snapshot>``."""
MAX_SNAPSHOTS = 100_000

NO_LIMITS, NO_OPTIONS = Limits(), S3Options()
"""None but the usual ones: most images have these, and share them."""

_NAME = "metadata", "name"

D = TypeVar("D", PoolDocument, ImageDocument)


@dataclass(frozen=True, eq=False)
class Declared(Generic[D]):
    """A document and where it was read; relative paths start from ``directory``.

    What follows from the document alone is computed once: a service combines the same documents again and again.
    """

    document: D
    directory: str
    origin: Origin
    _images: dict[str, ImageSpec] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        return self.document.metadata.name

    def fault(self, message: str, *loc: str | int) -> Fault:
        return self.origin.fault(loc, message)

    @cached_property
    def layers(self: Declared[ImageDocument]) -> tuple[Layer, ...]:
        return tuple(_layers(self))

    def image(self: Declared[ImageDocument], pool: str) -> ImageSpec:
        """The image that is declared, in the pool that the manifests together put it in."""
        if pool not in self._images:
            self._images[pool] = _image(self, pool)
        return self._images[pool]


@dataclass(frozen=True)
class Documents:
    """All that the manifests declare, in their order."""

    pools: tuple[Declared[PoolDocument], ...]
    images: tuple[Declared[ImageDocument], ...]

    @cached_property
    def pool_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(pool.name for pool in self.pools)) or (DEFAULT_POOL,)

    @cached_property
    def placed(self) -> tuple[tuple[Declared[ImageDocument], str | None], ...]:
        """Each image with its pool."""
        return tuple((image, self.pool_of(image.document)) for image in self.images)

    def pool_of(self, image: ImageDocument) -> str | None:
        """The pool of an image; None where the manifests don't determine it."""
        named, names = image.spec.pool, self.pool_names
        if named is None:
            return names[0] if len(names) == 1 else None
        return named if named in names else None


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


def assemble(documents: Documents, *, source: str, host: HostFacts | None) -> Desired:
    """What the documents declare for this host; for all hosts where ``host`` is None."""
    pools = {pool.name: _pool(pool) for pool in documents.pools}
    if documents.images and not pools:
        pools = {DEFAULT_POOL: PoolSpec(DEFAULT_POOL)}
    images = {
        image.name: image.image(pool or DEFAULT_POOL)
        for image, pool in documents.placed
        if host is None or image.document.spec.hosts is None or selects(image.document.spec.hosts, host, image.name)
    }
    return Desired(pools, images, source)


def selects(hosts: Hosts | None, host: HostFacts, image: str) -> bool:
    """Whether ``hosts`` selects this host, by the rules of Kubernetes' label selectors: all conditions hold."""
    if hosts is None:
        return True
    labels = host.labels
    if not (hosts.match_labels.items() <= labels.items() and all(_holds(e, labels.get(e.key)) for e in hosts.match_expressions)):
        return False
    return hosts.percent is None or bucket(host.id, image) < hosts.percent


def bucket(host: str, image: str) -> int:
    """A stable hash of host id and image name, 0 to 99: a higher percentage adds hosts and removes none."""
    return int.from_bytes(hashlib.sha256(f"{host}/{image}".encode()).digest()[:8], "big") % 100


def _holds(expression: Expression, value: str | None) -> bool:
    match expression.operator:
        case "In":
            return value in expression.values
        case "NotIn":
            return value not in expression.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None


# ------------------------------------------------------------------------------------------- faults between documents


def _repeated(kind: str, declared: Iterable[Declared[D]], first: dict[str, Declared[D]]) -> Iterator[Fault]:
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
        total += entry.snapshot.count or 1
        if total > MAX_SNAPSHOTS:
            yield entry.fault(f"with this one more than {MAX_SNAPSHOTS} snapshots are declared")
            return
        is_thin = entry.pool in thin
        for name in entry.snapshot.names:
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


# ------------------------------------------------------------------------------------------------- documents to values


def _pool(pool: Declared[PoolDocument]) -> PoolSpec:
    spec = pool.document.spec
    thin = ThinSpec(_backing(spec.thin.data), _backing(spec.thin.metadata), spec.thin.block_size) if spec.thin else None
    return PoolSpec(pool.name, thin, spec.reserve.data_percent, spec.reserve.metadata_percent, pool.origin.where(()))


def _backing(backing: Backing) -> BackingSpec:
    return BackingSpec(backing.device, backing.file, backing.size)


def _image(image: Declared[ImageDocument], pool: str) -> ImageSpec:
    spec = image.document.spec
    return ImageSpec(
        name=image.name,
        pool=pool,
        size=spec.size,
        layers=image.layers,
        snapshots=tuple(name for snapshot in spec.snapshots for name in snapshot.names),
        limits=_limits(spec.limits),
        labels=image.document.metadata.labels,
        retain=spec.deletion_policy == "Retain",
        suspend=spec.suspend,
        where=image.origin.where(()),
        replace=ReplacePolicy(spec.replace_policy),
    )


def _limits(body: LimitsBody) -> Limits:
    """Most images have none of their own."""
    return Limits(**body.model_dump()) if body.model_fields_set else NO_LIMITS


def _layers(image: Declared[ImageDocument]) -> Iterator[Layer]:
    """Layers with absolute sources. Only S3 sources get S3 options, so that a file is the same source for every image."""
    spec, s3 = image.document.spec, image.document.spec.s3
    options = S3Options(s3.endpoint_url, s3.region, s3.anonymous) if s3.model_fields_set else NO_OPTIONS
    for layer in spec.layers:
        source = Source(resolve(layer.source, image.directory), NO_OPTIONS)
        yield Layer(Source(source.url, options) if source.is_s3 and s3.model_fields_set else source, layer.sha256)

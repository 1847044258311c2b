"""The values of valid documents: ``Declared`` documents with their place, and ``Desired`` for one host.

Called by ``loader``: ``assemble`` makes ``Desired`` where ``conflicts`` finds nothing wrong. Pure; a ``Declared`` document caches
the values that follow from it alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Generic, TypeVar

from reconciler.dataclass import dataclass, field
from reconciler.image.custom import CustomSpec, FileSpec
from reconciler.image.oci.platform import host as host_platform
from reconciler.image.oci.reference import Reference
from reconciler.image.spec import ImageReference, Layer, Limits, S3Options, Source
from reconciler.manifests.faults import Fault, Origin
from reconciler.manifests.hosts import selects
from reconciler.manifests.image import ImageDocument, LimitsBody
from reconciler.manifests.location import resolve
from reconciler.manifests.pool import Backing, PoolDocument
from reconciler.model import AccessSpec, BackingSpec, Desired, HostFacts, ImageSpec, PoolSpec, ReplacePolicy, ThinSpec

DEFAULT_POOL = "default"
"""The file pool that exists where no Pool is declared at all: the smallest repository is one Image."""

NO_LIMITS, NO_OPTIONS = Limits(), S3Options()
"""The defaults: most images share them."""

Document = TypeVar("Document", PoolDocument, ImageDocument)


@dataclass(frozen=True, eq=False)
class Declared(Generic[Document]):
    """A document and where it was read; relative paths start from ``directory``.

    What follows from the document alone is computed once: a service combines the same documents again and again.
    """

    document: Document
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

    @cached_property
    def reference(self: Declared[ImageDocument]) -> ImageReference | None:
        spec = self.document.spec
        if spec.source is None:
            return None
        reference = Reference.parse(spec.source).resolve(self.directory)
        return ImageReference(
            Source(str(reference), _options(self) if reference.is_s3 else NO_OPTIONS), spec.platform or str(host_platform())
        )

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
    return Desired(pools, images, source, host.name if host else "")


def _pool(pool: Declared[PoolDocument]) -> PoolSpec:
    spec = pool.document.spec
    thin = ThinSpec(_backing(spec.thin.data), _backing(spec.thin.metadata), spec.thin.block_size) if spec.thin else None
    access = AccessSpec(spec.access.owner, spec.access.group, int(spec.access.mode, 8)) if spec.access else None
    return PoolSpec(pool.name, thin, spec.reserve.data_percent, spec.reserve.metadata_percent, pool.origin.where(()), access)


def _backing(backing: Backing) -> BackingSpec:
    return BackingSpec(backing.device, backing.file, backing.size)


def _image(image: Declared[ImageDocument], pool: str) -> ImageSpec:
    spec = image.document.spec
    sets = tuple(snapshot.set for snapshot in spec.snapshots)
    return ImageSpec(
        name=image.name,
        pool=pool,
        size=spec.size,
        layers=image.layers,
        snapshots=tuple(name for one in sets for name in one.names),
        limits=_limits(spec.limits),
        labels=image.document.metadata.labels,
        retain=spec.deletion_policy == "Retain",
        suspend=spec.suspend,
        not_before=(spec.hosts and spec.hosts.not_before) or 0.0,
        where=image.origin.where(()),
        replace=ReplacePolicy(spec.replace_policy),
        reference=image.reference,
        bytes_per_inode=spec.bytes_per_inode or 0,
        sets=sets,
        custom=dict(_customized(image)),
    )


def _customized(image: Declared[ImageDocument]) -> Iterator[tuple[str, CustomSpec]]:
    """What snapshots have besides the image; files are shared by all that are declared together."""
    for body in image.document.spec.snapshots:
        if body.customized:
            files = tuple(
                FileSpec(
                    one.path,
                    one.content or "",
                    resolve(one.from_, image.directory) if one.from_ is not None else "",
                    int(one.mode, 8),
                    one.uid,
                    one.gid,
                )
                for one in body.files
            )
            given = body.seed.nocloud.files if body.seed else {}
            seed = tuple((name, resolve(path, image.directory)) for name, path in given.items())
            for index, name in enumerate(body.set.names):
                yield name, CustomSpec(body.size or 0, body.unique_ids, files, index, body.read_only, seed)


def _limits(body: LimitsBody) -> Limits:
    """Most images have none of their own."""
    return Limits(**body.model_dump()) if body.model_fields_set else NO_LIMITS


def _layers(image: Declared[ImageDocument]) -> Iterator[Layer]:
    """Layers with absolute sources. Only S3 sources get S3 options, so that a file is the same source for every image."""
    options = _options(image)
    for layer in image.document.spec.layers or ():
        source = Source(resolve(layer.source, image.directory), NO_OPTIONS)
        yield Layer(Source(source.url, options) if source.is_s3 and options is not NO_OPTIONS else source, layer.sha256)


def _options(image: Declared[ImageDocument]) -> S3Options:
    s3 = image.document.spec.s3
    return S3Options(s3.endpoint_url, s3.region, s3.anonymous) if s3.model_fields_set else NO_OPTIONS

"""The frozen values that packages exchange: Desired, Observed, Action, Plan, Finding, Key. No state.

``manifests`` makes Desired, ``controller/observe`` Observed; ``planner`` compares them; the controller carries out the Plan.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from reconciler.claim import Claim, Recycle, SnapshotSet
from reconciler.dataclass import dataclass, field, replace
from reconciler.image.custom import CustomSpec
from reconciler.image.spec import ImageReference, Layer, Limits, Packed, Resolved, Source
from reconciler.pool.driver import PoolState, SnapshotState, VolumeState
from reconciler.pool.spec import AccessSpec as AccessSpec
from reconciler.pool.spec import BackingSpec as BackingSpec
from reconciler.pool.spec import ThinSpec as ThinSpec
from reconciler.settings import HostFacts as HostFacts


class Kind(StrEnum):
    POOL = "Pool"
    IMAGE = "Image"
    VOLUME = "Volume"
    SNAPSHOT = "Snapshot"
    LAYER = "Layer"
    HOST = "Host"
    """The host itself: the subject of findings about tools, the state directory, the registry and the manifests."""

    __hash__ = str.__hash__
    """That of an enumeration is Python code, and every look-up by ``Key`` needs it."""


class Key(NamedTuple):
    """The key of one object: two pools may hold snapshots, or volumes, of one name. ``pool`` is empty for all other kinds."""

    kind: Kind
    pool: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"

    @property
    def with_pool(self) -> str:
        """For people, where the name alone is ambiguous; the command line accepts it as well."""
        return "/".join(filter(None, (self.kind.lower(), self.pool, self.name)))

    @property
    def path(self) -> str:
        """For programs: the kind as manifests spell it, the pool where there is one."""
        return "/".join(filter(None, (self.kind.value, self.pool, self.name)))


def labels(keys: Iterable[Key]) -> dict[Key, str]:
    """What to call each of them in one text: with its pool where another has the same kind and name."""
    every = dict.fromkeys(keys)
    alike = Counter((key.kind, key.name) for key in every)
    return {key: key.with_pool if alike[key.kind, key.name] > 1 else str(key) for key in every}


@dataclass(frozen=True, slots=True)
class Where:
    """The place in a manifest that declares something (1-based line and column)."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """``thin`` None means the file driver. Reserves are per cent of the pool that new work must leave free."""

    name: str
    thin: ThinSpec | None = None
    reserve_data_percent: int = 10
    reserve_metadata_percent: int = 20
    where: Where | None = None
    access: AccessSpec | None = None
    """Of its snapshots; None leaves them to the operator."""


class ReplacePolicy(StrEnum):
    """What happens to a snapshot whose image has another chain now."""

    KEEP = "Keep"
    """It is kept until it is removed by hand."""
    ON_RELEASE = "OnRelease"
    """It is replaced once it is not in use."""
    RECREATE = "Recreate"
    """It is replaced now; while it is in use that is an error."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """``snapshots`` holds the reserved names, of all ``sets``, in the manifest's order. ``size`` in bytes.

    Before ``not_before`` (seconds since the epoch) an assessment makes the image ``scheduled``: suspended by the time alone.
    ``bytes_per_inode`` is 0 where the manifest leaves it out; ``custom`` is what snapshots have besides the image, by name.
    With a ``reference`` the manifest lists no layers: they are those of its resolution, empty before (``planner.references``).
    """

    name: str
    pool: str
    size: int
    layers: tuple[Layer, ...]
    snapshots: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    labels: Mapping[str, str] = field(default_factory=dict)
    retain: bool = False
    suspend: bool = False
    not_before: float = field(default=0.0, repr=False)
    scheduled: str = field(default="", repr=False)
    where: Where | None = None
    replace: ReplacePolicy = ReplacePolicy.KEEP
    reference: ImageReference | None = field(default=None, repr=False)
    bytes_per_inode: int = 0
    sets: tuple[SnapshotSet, ...] = field(default=(), repr=False)
    custom: Mapping[str, CustomSpec] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> Key:
        return Key(Kind.IMAGE, "", self.name)

    @property
    def digest(self) -> str:
        """Of the specification alone: comments, order and labels of the manifest don't change it."""
        specified = replace(self, labels={}, where=None, suspend=self.suspend and not self.scheduled)
        referred = repr(self.reference) if self.reference else ""
        referred += repr(self.not_before) if self.not_before else ""
        if claimed := [one for one in self.sets if one.ttl or one.is_elastic or one.recycle is not Recycle.NEVER]:
            referred += repr(claimed)
        referred += "".join(f"{name}{one.text}" for name, one in self.custom.items())
        return hashlib.sha256(f"{specified!r}{referred}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Desired:
    """What the manifests declare for this host, whose name is ``host``. ``source`` is the directory that it was read from."""

    pools: Mapping[str, PoolSpec]
    images: Mapping[str, ImageSpec]
    source: str = ""
    host: str = ""
    upgraded: Collection[str] = ()
    """Images that get the newest layout although nothing else of them differs (``--upgrade-layout``)."""
    revision: str = field(default="", compare=False)
    """The commit or the target of the link that ``source`` was at before it was read; empty where it is neither."""


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image that was declared once and is not gone yet. ``layers`` holds the digests of the chain last applied."""

    name: str
    pool: str
    chain: str | None
    size: int
    retain: bool


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume that a run has sealed. ``identity`` is the driver's, opaque to everybody else."""

    pool: str
    chain: str
    parent: str | None
    size: int
    digests: tuple[str, ...]
    identity: str


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """``custom`` is the digest of what it was created with besides its chain, ``size`` a size of its own; empty and 0 if none.

    ``filesystem`` is the size of the file system that it was created with, where it has grown since; 0 elsewhere. Bytes, both.
    """

    pool: str
    name: str
    image: str
    chain: str
    identity: str
    custom: str = ""
    size: int = 0
    filesystem: int = 0

    @property
    def key(self) -> Key:
        return Key(Kind.SNAPSHOT, self.pool, self.name)


@dataclass(frozen=True, slots=True)
class Failure:
    """The last word of the last run of an object, where that run failed or waits to be tried again."""

    kind: Kind
    name: str
    reason: str
    message: str
    waits_for_person: bool = False
    pool: str = ""

    @property
    def key(self) -> Key:
        return Key(self.kind, self.pool, self.name)


@dataclass(frozen=True, slots=True)
class Resolution:
    """The state of an unpinned source: its current ETag and length, and the digest of those bytes.

    ``digest`` is None until the bytes have been fetched once. ``error`` is why the source did not answer.
    """

    source: Source
    etag: str | None = None
    size: int | None = None
    digest: str | None = None
    error: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ImageResolution:
    """What the reference of an image stands for now.

    ``error``: why that is unknown; ``found`` is then what it stood for last. ``packed``: its archive is to be decompressed.
    """

    reference: ImageReference
    found: Resolved | None = None
    error: str = ""
    reason: str = ""
    packed: Packed | None = None


@dataclass(frozen=True, slots=True)
class PoolObserved:
    """``state`` is None where the pool can't be read, which is not the same as empty; ``problem`` is the reason."""

    name: str
    shares_blocks: bool
    state: PoolState | None
    problem: str = ""
    waited: float = 0.0
    """Seconds that it has not answered for; 0 where it has."""
    reason: str = "PoolUnavailable"


@dataclass(frozen=True, slots=True)
class Observed:
    """Registry rows joined with what the pools hold. Volumes and snapshots are keyed by (pool, chain) and (pool, name).

    ``files``: digests of the host's files that snapshots get; ``unreadable``: why others can't be read. ``spooled``: see
    ``Spool.whole_layers``.
    """

    pools: Mapping[str, PoolObserved]
    images: Mapping[str, ImageRow] = field(default_factory=dict)
    volumes: Mapping[tuple[str, str], VolumeRow] = field(default_factory=dict)
    snapshots: Mapping[tuple[str, str], SnapshotRow] = field(default_factory=dict)
    resolutions: Mapping[Source, Resolution] = field(default_factory=dict)
    references: Mapping[ImageReference, ImageResolution] = field(default_factory=dict)
    spooled: frozenset[str] = frozenset()
    failures: Mapping[Key, Failure] = field(default_factory=dict)
    spared: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Images that must not be pruned now: reason and message."""
    due: Mapping[str, str] = field(default_factory=dict)
    """Where nothing is pruned anyhow: when the grace period of an undeclared image ends, in words."""
    refused: Mapping[Key, Finding] = field(default_factory=dict)
    """Images that this host's policy refuses (ERROR), or would refuse if it were enforced (WARNING)."""
    files: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    holders: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Who holds a snapshot, by (pool, name); asked only of those that are to be replaced (``planner.replacing``)."""
    asides: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """What `retry --recreate` sets aside, by (pool, name) of the snapshot whose name it has: its identity then."""
    claims: Mapping[tuple[str, str], Claim] = field(default_factory=dict)
    """Claims that have not ended, by (pool, name) of the snapshot, in the state that they have now."""

    def volume_state(self, pool: str, chain: str) -> VolumeState | None:
        state = self.pools[pool].state if pool in self.pools else None
        return state.volumes.get(chain) if state else None

    def snapshot_state(self, pool: str, name: str) -> SnapshotState | None:
        state = self.pools[pool].state if pool in self.pools else None
        return state.snapshots.get(name) if state else None


class Verb(StrEnum):
    ASSEMBLE = "assemble"
    """Make a pool usable: after a reboot, for the first time, or after a crash. Its content is observed again afterwards."""
    RESOLVE = "resolve"
    """Fetch an unpinned layer or a compressed archive once; the chain is not resolved before."""
    BUILD = "build"
    REBUILD = "rebuild"
    CREATE = "create"
    REPAIR = "repair"
    ACTIVATE = "activate"
    """Bring an intact snapshot back to its path; its content does not change."""
    GROW = "grow"
    """Give a snapshot's device or file a larger size; its content does not change."""
    REPLACE = "replace"
    """Give a snapshot's name to a new one of another chain, in one step; data written to the old one is discarded."""
    RECORD = "record"
    """Write an image's row: declared for the first time, or its chain has moved."""
    REMOVE = "remove"
    FORGET = "forget"
    """Drop the row of an image that is no longer declared (its data is retained, or already gone)."""


@dataclass(frozen=True, slots=True)
class Action:
    """One difference to remove, ``because`` of what differs, once all actions with the keys in ``after`` have succeeded."""

    verb: Verb
    kind: Kind
    name: str
    because: str
    pool: str = ""
    image: str = ""
    chain: str | None = None
    parent: str | None = None
    size: int = 0
    layers: tuple[Layer, ...] = ()
    """BUILD: every layer of the chain from the bottom, all pinned; RESOLVE: the one layer, or the archive of ``unpack``."""
    unpack: ImageReference | None = None
    limits: Limits = field(default_factory=Limits)
    bytes_per_inode: int = 0
    """BUILD: 0 where no manifest declares it."""
    after: tuple[Key, ...] = ()
    images: tuple[str, ...] = ()
    """The images that want it; one that fails makes these fail."""
    fetch: int = field(default=0, compare=False)
    """Bytes that have to be fetched for it, and for no action before it; as far as their sizes are known."""
    custom: str = ""
    """The digest of what a snapshot gets besides its chain (``Inputs.custom``). ACTIVATE: as recorded, where it has a seed."""
    identity: str = ""
    """ACTIVATE, GROW and REPLACE: the registry's, of the existing snapshot. CREATE and REPAIR: of what is set aside before."""

    @property
    def key(self) -> Key:
        return Key(self.kind, self.pool, self.name)

    @property
    def provisional(self) -> bool:
        """Whether a layer is unresolved that decides what it makes, or whether it is due at all. It is never carried out."""
        return self.chain is None and self.kind in (Kind.VOLUME, Kind.SNAPSHOT)


class Severity(StrEnum):
    OK = "ok"
    NOTE = "note"
    WARNING = "warn"
    ERROR = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with an object, or worth a note, and is removed by no action. ``hint`` is what to do about it.

    ``plan`` has those of what is declared and of pools; ``health`` and ``verify`` have one for each check, OK included.
    """

    severity: Severity
    subject: Key
    reason: str
    message: str
    hint: str = ""

    @property
    def text(self) -> str:
        """Message and hint in one line, for people."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Plan:
    """``actions`` are in dependency order. ``held`` are removals that only ``--prune`` carries out.

    ``blocked`` are images that can't be planned at all, with the reason.
    Converged is ``not plan.actions and not plan.blocked``.
    """

    actions: tuple[Action, ...] = ()
    held: tuple[Action, ...] = ()
    blocked: tuple[Failure, ...] = ()
    findings: tuple[Finding, ...] = ()
    unchanged: tuple[Key, ...] = ()

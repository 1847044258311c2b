"""What a run has found to be true: the registry records it in the transaction of the step, or on its own.

Made by ``host``, converted by ``registry.rows``. Frozen values, no state.
"""

from __future__ import annotations

from reconciler.dataclass import dataclass
from reconciler.image.spec import ImageReference, Resolved, Source
from reconciler.model import SnapshotRow, VolumeRow


@dataclass(frozen=True, slots=True)
class VolumeSealed:
    row: VolumeRow


@dataclass(frozen=True, slots=True)
class VolumeGone:
    pool: str
    chain: str


@dataclass(frozen=True, slots=True)
class SnapshotMade:
    row: SnapshotRow

    @property
    def place(self) -> tuple[str, str]:
        return self.row.pool, self.row.name


@dataclass(frozen=True, slots=True)
class SnapshotGone:
    pool: str
    name: str

    @property
    def place(self) -> tuple[str, str]:
        return self.pool, self.name


@dataclass(frozen=True, slots=True)
class SnapshotGrown:
    """Its device or file has ``size`` bytes now; the file system in it is the one that it was created with."""

    pool: str
    name: str
    identity: str
    size: int


@dataclass(frozen=True, slots=True)
class LayerSeen:
    """The bytes of ``source`` with this ETag and length have this digest."""

    source: Source
    etag: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class ReferenceResolved:
    reference: ImageReference
    found: Resolved


@dataclass(frozen=True, slots=True)
class ReferenceGone:
    url: str
    platform: str


RowFact = VolumeSealed | VolumeGone | SnapshotMade | SnapshotGone | LayerSeen | ReferenceResolved | ReferenceGone
"""A whole row that is there, or gone."""
Fact = RowFact | SnapshotGrown
"""What is recorded with the step's transition, or on its own."""

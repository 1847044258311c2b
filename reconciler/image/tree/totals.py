"""What a layer holds, counted as its members pass: for ``inspect`` and the recap.

Filled by ``judge``. State: the counts, and a few names for each list, however many members there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappush, heappushpop

from reconciler.dataclass import dataclass, field
from reconciler.image.archive.member import TYPE_NAMES, Member, shown

LISTED = 10
"""How many names a list keeps; the counts go on."""

LISTED_ATTRIBUTES, OTHERS = 16, b"others"
"""How many names of dropped attributes are counted by themselves."""


@dataclass(slots=True)
class Named:
    """A count, and the first names of what was counted."""

    count: int = 0
    names: list[bytes] = field(default_factory=list)
    limit: int = LISTED
    distinct: bool = False

    def add(self, name: bytes) -> None:
        self.count += 1
        if len(self.names) < self.limit and not (self.distinct and name in self.names):
            self.names.append(name)

    def document(self) -> dict[str, object]:
        return {"count": self.count, "names": [shown(name) for name in self.names]}


@dataclass(slots=True)
class Totals:
    """``file_bytes`` are apparent, holes included. ``setuid`` counts files with setuid, setgid or capabilities."""

    entries: int = 0
    file_bytes: int = 0
    by_type: dict[int, int] = field(default_factory=lambda: dict.fromkeys(TYPE_NAMES, 0))
    setuid: Named = field(default_factory=Named)
    devices: Named = field(default_factory=Named)
    whiteouts: int = 0
    stripped: int = 0
    """Files that lost those privileges by policy."""
    clamped: Named = field(default_factory=Named)
    """Members whose time was out of ext4's range."""
    unknown: Named = field(default_factory=lambda: Named(distinct=True))
    """Entries of access control lists that are dropped: the image has no user or group of that name (``accounts``)."""
    aufs: int = 0
    """Members that are AUFS' metadata."""
    dropped: dict[bytes, int] = field(default_factory=dict)
    """Extended attributes that no image keeps, with how many members had them; names behind the first few as ``OTHERS``."""
    largest: list[tuple[int, bytes]] = field(default_factory=list)
    """A heap of (bytes, name)."""

    def count_file(self, member: Member) -> None:
        self.file_bytes += member.size
        if len(self.largest) < LISTED:
            heappush(self.largest, (member.size, member.name))
        elif member.size > self.largest[0][0]:
            heappushpop(self.largest, (member.size, member.name))

    def count_dropped(self, names: Iterable[bytes]) -> None:
        for name in names:
            if name not in self.dropped and len(self.dropped) >= LISTED_ATTRIBUTES:
                name = OTHERS
            self.dropped[name] = self.dropped.get(name, 0) + 1

    def document(self) -> dict[str, object]:
        """As reports show it; a few KiB at most, whatever the layer holds."""
        return {
            "entries": self.entries,
            "fileBytes": self.file_bytes,
            "types": {TYPE_NAMES[kind]: count for kind, count in self.by_type.items() if count},
            "whiteouts": self.whiteouts,
            "setuid": self.setuid.document(),
            "stripped": self.stripped,
            "clampedTimes": self.clamped.document(),
            "unknownAclNames": self.unknown.document(),
            "aufsMetadata": self.aufs,
            "devices": self.devices.document(),
            "largest": [{"name": shown(name), "bytes": size} for size, name in sorted(self.largest, reverse=True)],
            "droppedXattrs": {shown(name): count for name, count in sorted(self.dropped.items())},
        }

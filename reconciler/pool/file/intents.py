"""The intents of a file pool: which file is about to get the name of a snapshot. The registry implements ``Intents``.

Pool and registry are two stores; neither can commit for the other. A new snapshot's file is complete and has its inode before its
intent is on disk, and gets its name after that. The row of the snapshot replaces the intent. So whatever an interruption leaves
under the name, the registry alone decides which file it is: nothing that a guest can write is read.

Called by ``pool.file.pool``. No state here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from reconciler.dataclass import dataclass
from reconciler.pool.file.identity import FileState, Identity


@dataclass(frozen=True, slots=True)
class Intent:
    """A file with this identity is about to get the name; ``content`` is what it is made of (``driver.content``)."""

    identity: str
    content: str

    def names(self, found: FileState | None) -> bool:
        """Whether the file that has the name is this one."""
        was = Identity.parse(self.identity)
        return found is not None and found.regular and was is not None and was.is_file(found.identity)


class Intents(Protocol):
    """One pool's intents, by the name of the snapshot. A write is one transaction, on disk when the method returns."""

    def read(self) -> Mapping[str, Intent]: ...

    def write(self, put: Mapping[str, Intent], drop: Collection[str] = ()) -> None: ...

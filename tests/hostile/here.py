"""The builder's own loop in this process: what becomes of layers, and the tree that is left, as facts that a case can check."""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.tar import Reader
from reconciler.image.ext4.writer import Writer
from reconciler.image.spec import GIB, Limits
from reconciler.image.tree.inode import Inode
from reconciler.image.tree.judge import Judge
from reconciler.image.tree.tree import Tree
from tests.support.compare import ROOT, Facts, grouped

SIZE = 4 * GIB
"""Enough for 262,144 inodes."""
DIGESTED = 1 << 24
"""Files up to this size have their content compared."""

Piece = bytes | memoryview


class Bench:
    """A tree, and a volume that is only imagined. ``apply`` raises what the builder would tell."""

    def __init__(self, limits: Limits) -> None:
        self.tree = Tree(limits)
        self._limits = limits
        self._writer = Writer(-1, SIZE, sink=True)
        self._digests: dict[Inode, str] = {}

    def apply(self, layer: bytes) -> dict[str, object]:
        """Apply a layer; return the judge's totals."""
        judge, reader = (
            Judge(self._limits, self.tree.accounts),
            Reader(open_stream(io.BytesIO(layer), self._limits), self._limits),
        )
        self.tree.begin_layer()
        for member in reader:
            judge.check(member)
            inode = self.tree.add(member)
            if inode is not None:
                pieces: Iterable[Piece] = self.tree.accounts.read(member, inode, reader.data(member))
                if member.size <= DIGESTED:
                    content = list(pieces)
                    self._digests[inode] = digest(member.size, member.segments, content)
                    pieces = content
                self._writer.append(inode, member.size, member.segments, pieces)
        judge.finish()
        self.tree.end_layer()
        self._writer.end_layer(self.tree.root)
        return judge.totals()

    def finish(self) -> dict[bytes, Facts]:
        """Write the metadata, and tell what the volume would hold."""
        self._writer.finish(self.tree.root, UUID(int=1))
        names = dict(walk(self.tree.root))
        links = grouped({name: id(inode) for name, inode in names.items() if inode.children is None})
        return {name: self._facts(inode, links.get(name, ())) for name, inode in names.items()}

    def _facts(self, inode: Inode, links: tuple[bytes, ...]) -> Facts:
        size = len(inode.target) if inode.kind == stat.S_IFLNK else inode.size
        return Facts(
            kind=inode.kind,
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            mtime=inode.mtime,
            size=size,
            digest=self._digests.get(inode, ""),
            target=inode.target,
            device=inode.device,
            xattrs=tuple(sorted(inode.xattrs.items())),
            links=links,
        )


def digest(size: int, segments: Sequence[tuple[int, int]] | None, pieces: Iterable[Piece]) -> str:
    stored = b"".join(pieces)
    if segments is None:
        return hashlib.sha256(stored).hexdigest()
    whole, at = bytearray(size), 0
    for offset, length in segments:
        whole[offset : offset + length] = stored[at : at + length]
        at += length
    return hashlib.sha256(whole).hexdigest()


def walk(root: Inode) -> Iterator[tuple[bytes, Inode]]:
    """Every name with what it names; the root as ``.``. Without recursion: images are deep, too."""
    yield ROOT, root
    todo = [(b"", root)]
    while todo:
        above, inode = todo.pop()
        for name, child in (inode.children or {}).items():
            yield above + name, child
            if child.children:
                todo.append((above + name + b"/", child))

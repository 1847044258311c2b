"""Blocks for directories, long targets of symlinks, extended attributes and extent trees: chosen at the end of each layer.

Called by ``writer``. What stays keeps its blocks; what grows gets more behind the layer's data; what shrinks gives up its last
ones, which no later layer of the chain uses. The choice needs sizes only, so that a build of many layers in one go encodes the
last one's directories alone. No state: the blocks are kept in the inodes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence

from reconciler.image.ext4 import directory, extents, xattr
from reconciler.image.ext4.allocator import Allocator
from reconciler.image.ext4.layout import BLOCK, LOST_AND_FOUND_BLOCKS, Geometry
from reconciler.image.ext4.numbering import LOST_AND_FOUND_NUMBER, ROOT, Numbering
from reconciler.image.ext4.refusal import NotRepresentable, refused
from reconciler.image.tree.inode import Inode

IN_INODE_TARGET = 60


def place(names: Numbering, geometry: Geometry, allocator: Allocator) -> None:
    """Give each inode of the layer's end the blocks that it needs. Raises LayerRefused for what ext4 cannot hold."""
    for inode in _changing(names):
        try:
            _place(inode, geometry, allocator)
        except NotRepresentable as refusal:
            raise refused(refusal, names, inode) from refusal


def _changing(names: Numbering) -> Iterator[Inode]:
    """Directories may have changed, everything else is new or as it was."""
    yield from names.parents
    yield from (inode for inode in names.new if inode.children is None)


def _place(inode: Inode, geometry: Geometry, allocator: Allocator) -> None:
    if inode.children is not None:
        _place_directory(inode, geometry, allocator)
    elif inode.kind == stat.S_IFLNK and len(inode.target) >= IN_INODE_TARGET:
        _check_target(inode.target)
        inode.extents = [(0, allocator.take_one(), 1)]
    if inode.xattrs or inode.beside or len(inode.extents) > extents.IN_INODE or inode.size > BLOCK * extents.MAX_LENGTH:
        _place_beside(inode, allocator)


def _check_target(target: bytes) -> None:
    if len(target) >= BLOCK:
        raise NotRepresentable("symlink-target", f"its target has {len(target)} bytes, ext4 allows 1 to {BLOCK - 1}")


def _place_directory(inode: Inode, geometry: Geometry, allocator: Allocator) -> None:
    wanted = directory.shape(list(inode.children or ()), least(inode)).blocks
    if not inode.extents:
        inode.extents = _first_extents(inode, geometry)
    have = sum(count for _, _, count in inode.extents)
    if have > wanted:
        kept = [extent for extent in inode.extents if extent[0] < wanted]
        inode.extents = [(logical, physical, min(count, wanted - logical)) for logical, physical, count in kept]
    elif have < wanted:
        inode.extents = _extended(inode.extents, have, allocator.take(wanted - have))


def least(inode: Inode) -> int:
    return LOST_AND_FOUND_BLOCKS if inode.number == LOST_AND_FOUND_NUMBER else 1


def _first_extents(inode: Inode, geometry: Geometry) -> list[extents.Extent]:
    if inode.number == ROOT:
        return [(0, geometry.root_block, 1)]
    if inode.number == LOST_AND_FOUND_NUMBER:
        return [(0, geometry.lost_and_found.start, LOST_AND_FOUND_BLOCKS)]
    return []


def _extended(have: Sequence[extents.Extent], position: int, runs: list[range]) -> list[extents.Extent]:
    """The extents with ``runs`` behind them, joined where one goes on where another ends."""
    found = list(have)
    for run in runs:
        if found and found[-1][1] + found[-1][2] == run.start:
            logical, physical, count = found.pop()
            found.append((logical, physical, count + len(run)))
        else:
            found.append((position, run.start, len(run)))
        position += len(run)
    return found


def _place_beside(inode: Inode, allocator: Allocator) -> None:
    """The block of attributes, then those of the extent tree; blocks that it has already are kept."""
    attributes, *tree = inode.beside or (0,)
    if not xattr.encode(inode.xattrs)[1]:
        attributes = 0
    elif not attributes:
        attributes = allocator.take_one()
    wanted = extents.tree_blocks(inode.extents)
    tree = tree[:wanted] + [allocator.take_one() for _ in range(wanted - len(tree))]
    inode.beside = (attributes, *tree) if attributes or tree else ()

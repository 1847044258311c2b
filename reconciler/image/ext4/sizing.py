"""What fits into a file system, and how large one must be. Called by ``writer`` and ``metadata``. Arithmetic only, no state."""

from __future__ import annotations

from reconciler.errors import ImageTooSmall
from reconciler.image.ext4 import journal
from reconciler.image.ext4.layout import BLOCK, MAX_BYTES, Geometry, ceil_div
from reconciler.image.spec import INODE_RATIOS, KIB, MIB, default_bytes_per_inode


def data_room(geometry: Geometry) -> int:
    """Blocks for files, directories and the like; negative where not even the fixed metadata fits."""
    return geometry.blocks - fixed_blocks(geometry, geometry.blocks)


def fixed_blocks(geometry: Geometry, end: int) -> int:
    """Blocks below ``end`` that the geometry gives away, those before the first data all."""
    start = journal.place(geometry).end
    return start + sum(max(0, min(place.stop, end) - place.start) for place in geometry.skipped if place.start >= start)


def size_needed(payload: int, inodes: int, ratio: int | None, size: int = MIB) -> int:
    """Size in bytes, a whole number of MiB and ``size`` or more, that holds ``payload`` blocks and ``inodes``."""
    while size < MAX_BYTES:
        geometry = Geometry.of_bytes(size, ratio)
        bytes_per_inode = ratio or default_bytes_per_inode(size)
        missing = max((payload - data_room(geometry)) * BLOCK, (inodes - geometry.inodes) * bytes_per_inode)
        if missing <= 0:
            return size
        size += ceil_div(missing, MIB) * MIB
    return MAX_BYTES


def check(geometry: Geometry, next_block: int, inodes: int, ratio: int | None) -> None:
    """Raise ImageTooSmall unless what has been allocated below ``next_block``, and the inodes, lie within the volume."""
    payload = next_block - fixed_blocks(geometry, next_block)
    if payload > data_room(geometry):
        needed = size_needed(payload, inodes, ratio) // MIB
        raise ImageTooSmall(
            f"a file system of {geometry.blocks * BLOCK} bytes can't hold the layers: they take {needed} MiB",
            hint=f"declare a size of {needed}MiB or more",
            needed=needed * MIB,
        )
    if inodes > geometry.inodes:
        needed = size_needed(payload, inodes, ratio, ceil_div(geometry.blocks * BLOCK, MIB) * MIB) // MIB
        raise ImageTooSmall(
            f"a file system of {geometry.blocks * BLOCK} bytes has {geometry.inodes} inodes, and the layers need {inodes}",
            hint=f"{_denser(geometry, payload, inodes)}declare a size of {needed}MiB or more",
            needed=needed * MIB,
        )


def _denser(geometry: Geometry, payload: int, inodes: int) -> str:
    """The other remedy, where there is one."""
    ratio = INODE_RATIOS[-1][1]
    while ratio >= 4 * KIB:
        denser = Geometry.of_blocks(geometry.blocks, ratio)
        if denser.inodes >= inodes and data_room(denser) >= payload:
            return f"declare bytesPerInode: {ratio // KIB}KiB, or "
        ratio //= 2
    return ""

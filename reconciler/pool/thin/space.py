"""Space of a thin pool's data and metadata, and the reserve that new work must leave free.

Called by ``pool.thin`` with the ``Inspection`` of ``pool.thin.assembly``. Pure.
"""

from __future__ import annotations

from reconciler.pool.driver import Space
from reconciler.pool.thin import metadata
from reconciler.pool.thin.assembly import Geometry, Inspection
from reconciler.pool.thin.label import data_blocks

HIDDEN_BLOCKS = 4096
"""Metadata blocks (at most a tenth) that the kernel keeps in reserve, so that deletions still work (dm-thin-metadata.c)."""


def of_data(seen: Inspection, geometry: Geometry, reserve_percent: int) -> Space:
    """Space of the data; of the declared size if the pool does not exist yet."""
    if seen.content is None:
        total = data_blocks(geometry.data.size or seen.data.size, geometry.block_size) * geometry.block_size
        return Space(total, total, total * reserve_percent // 100)
    total, used, block = seen.content.data_blocks, seen.content.data_used, seen.content.block_size
    return Space(total * block, (total - used) * block, total * block * reserve_percent // 100)


def of_metadata(seen: Inspection, reserve_percent: int) -> Space | None:
    if seen.content is None:
        return None
    total = seen.content.metadata_blocks
    free = max(0, total - seen.content.metadata_used - min(HIDDEN_BLOCKS, total // 10))
    return Space(total * metadata.BLOCK, free * metadata.BLOCK, total * reserve_percent // 100 * metadata.BLOCK)

"""The rows of ``make bench``, a module for each group; ``GROUPS`` has them in the order in which they run and are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.contest import Row
from benchmarks.rows import build, commands, compressed, growth, layered, s3, snapshots

GROUPS: Mapping[str, Sequence[Row]] = {
    "build": build.ROWS,
    "compressed": compressed.ROWS,
    "s3": s3.ROWS,
    "layered": layered.ROWS,
    "growth": growth.ROWS,
    "snapshots": snapshots.ROWS,
    "commands": commands.ROWS,
}


def chosen(names: Sequence[str]) -> list[Row]:
    """The rows with these names or of these groups; without names all. Raises KeyError."""
    if not names:
        return [row for rows in GROUPS.values() for row in rows]
    by_name = {row.name: [row] for rows in GROUPS.values() for row in rows}
    return list({row.name: row for name in names for row in GROUPS.get(name) or by_name[name]}.values())

"""What was seen of every fixture, kept (``observed.json``), and the page that is printed from it. State: that file.

A row is frozen: what ours said, and what each peer of one version said. Peers of other versions may say something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from tests.support import peers

from .fixtures import GROUPS, Fixture
from .observing import COMPLAINS, HANGS, NOTHING, OURS, REFUSES, observe

OBSERVED = Path(__file__).with_name("observed.json")
Row = Mapping[str, str]

INTRODUCTION = f"""\
# What other programs make of the same archive

Printed by `python -m tests.fidelity` from what was seen; `tests/fidelity/test_differential_peers.py` runs every archive through
every program again and holds that each cell is still true. Seen with GNU tar {{gnu}}, bsdtar {{bsdtar}} and Python {{python}}, as
root. What a peer of another version says may differ; what ours says does not.

Ours reads a layer into a volume, or refuses the layer as a whole: `{REFUSES} (rule)`. The others unpack what they can into a
directory; `{COMPLAINS}` means that the exit code says so afterwards. GNU tar ran with `--preserve-permissions --numeric-owner
--acls --xattrs --xattrs-include=*`, bsdtar with `-p --numeric-owner`, `tarfile` as `extractall(numeric_owner=True)` with each of
its filters (`data`, `tar`, and `trusted` for `fully_trusted`).

How to read a cell: `d/` is a directory, `f (5)` a file of five bytes, `l → t` a link, `b = a` one more name of `a`, `n×255` a
name of that many letters; `0755` a mode, `7:8` an owner, `@5` a time in seconds, `[user.a=31]` an attribute, `blocks 2..2` where
a file has data, `OUTSIDE` what came to lie outside the directory, `{HANGS}` what had to be ended, and `same` what ours says, too.
"""


@cache
def frozen() -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(OBSERVED.read_text()))


def rows() -> Mapping[str, Row]:
    return cast("Mapping[str, Row]", frozen()["rows"])


def versions() -> Mapping[str, str]:
    return cast("Mapping[str, str]", frozen()["versions"])


def observed() -> str:
    """Everything run once more."""
    seen = {fixture.title: observe(fixture) for group in GROUPS.values() for fixture in group}
    found = {"versions": {peer: peers.version(peer) for peer in peers.PEERS}, "rows": seen}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def differs(row: Row) -> bool:
    """Whether anybody says something else than ours. To refuse and to complain are the same."""
    if row[OURS].startswith(REFUSES):
        return not all(said.startswith((COMPLAINS, HANGS)) for peer, said in row.items() if peer != OURS)
    return len(set(row.values())) > 1


# -------------------------------------------------------------------------------------------------------- the page


def page() -> str:
    seen = versions()
    parts = [INTRODUCTION.format(gnu=seen["GNU tar"], bsdtar=seen["bsdtar"], python=seen["data"])]
    for group, fixtures in GROUPS.items():
        parts.append(f"\n## {group}\n\n" + "".join(_differences(fixtures)))
    agreed = [fixture for group in GROUPS.values() for fixture in group if not differs(rows()[fixture.title])]
    parts.append("\n## On these all agree\n\nEqual in everything, or refused by ours and complained of by every other.\n\n")
    parts += [f"- {fixture.title}: {_code(rows()[fixture.title][OURS])}\n" for fixture in agreed]
    return "".join(parts)


def _differences(fixtures: list[Fixture]) -> Iterator[str]:
    yield "| archive | ours | GNU tar | bsdtar | tarfile | why |\n|---|---|---|---|---|---|\n"
    for fixture in fixtures:
        row = rows()[fixture.title]
        if differs(row):
            cells = [fixture.title, _code(row[OURS]), _said(row, "GNU tar"), _said(row, "bsdtar"), _tarfile(row), fixture.why]
            yield "| " + " | ".join(cells) + " |\n"


def _said(row: Row, peer: str) -> str:
    return "same" if row[peer] == row[OURS] else _code(row[peer])


def _tarfile(row: Row) -> str:
    """Filters that come to the same are told together."""
    by_what: dict[str, list[str]] = {}
    for name in peers.FILTERS:
        if name in row:
            by_what.setdefault(_said(row, name), []).append(name)
    if len(by_what) == 1:
        return next(iter(by_what))
    return "<br>".join(f"{', '.join(names)}: {said}" for said, names in by_what.items())


def _code(said: str) -> str:
    return said if said == NOTHING else f"`{said.replace('|', chr(92) + '|')}`"

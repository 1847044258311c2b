"""All cases, by the order of their classes."""

from __future__ import annotations

from tests.hostile import (
    advisories,
    compression,
    devices,
    extended,
    hardlinks,
    legit,
    names,
    numbers,
    resources,
    sparse,
    symlinks,
    truncation,
    whiteouts,
    xattrs,
)
from tests.hostile.case import CLASSES, Case

_MODULES = (
    names,
    symlinks,
    hardlinks,
    devices,
    numbers,
    extended,
    sparse,
    compression,
    truncation,
    resources,
    xattrs,
    whiteouts,
    legit,
    advisories,
)

CASES: tuple[Case, ...] = tuple(
    sorted((case for module in _MODULES for case in module.CASES), key=lambda case: CLASSES.index(case.attack))
)
BY_NAME = {case.name: case for case in CASES}
assert len(BY_NAME) == len(CASES), sorted(case.name for case in CASES)


def _representatives() -> frozenset[str]:
    """Of each class one case for each verdict, and all that reproduce a flaw of others: what the quick tests run in full."""
    firsts: dict[tuple[str, str, int], str] = {}
    for case in CASES:
        firsts.setdefault((case.attack, str(case.verdict), len(case.layers)), case.name)
    return frozenset(firsts.values()) | {case.name for case in CASES if case.reproduces}


REPRESENTATIVES = _representatives()

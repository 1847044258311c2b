"""Sizes as people write them: ``8GiB``, ``64Ki``, ``4096``. Read by ``documents`` and by the command line. No state.

``G``, ``GB`` and their like are refused: half of the world's tools take them for powers of 1000, half for powers of 1024.
"""

from __future__ import annotations

import re

UNITS: dict[str, int] = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
UNITS |= {unit.removesuffix("B"): size for unit, size in UNITS.items()}

PATTERN = r"^[0-9]{1,19}(\.[0-9]{1,9})? ?([KMGT]iB?)?$"
"""What is accepted, for editors (ECMA 262 and Python)."""

_SIZE = re.compile(r"(?P<whole>\d{1,19})(?:\.(?P<part>\d{1,9}))? ?(?P<unit>[A-Za-z]*)", re.ASCII)
_HINT = "write bytes, or KiB, MiB, GiB, TiB, as in 8GiB"


def parse_size(text: str) -> int:
    """Bytes. ValueError, with a hint for people, where it isn't a size or not a whole number of bytes.

    >>> parse_size("64KiB"), parse_size("1.5Gi"), parse_size("4096")
    (65536, 1610612736, 4096)
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"is not a size ({_HINT})")
    whole, part, unit = match["whole"], match["part"] or "", match["unit"]
    if unit not in UNITS:
        raise ValueError(_unit_message(unit))
    count, remainder = divmod(int(whole + part) * UNITS[unit], int(10 ** len(part)))
    if remainder:
        raise ValueError(f"is not a whole number of bytes ({_HINT})")
    return count


def _unit_message(unit: str) -> str:
    letter = unit[0].upper()
    if letter not in "KMGT" or unit[1:].casefold() not in ("", "b", "i", "ib"):
        return f"has the unknown unit {unit[:10]!r} ({_HINT})"
    if "i" in unit.casefold():
        return f"has the unknown unit {unit!r} (write {letter}iB)"
    return f"has the ambiguous unit {unit!r}: 1000s or 1024s? (write {letter}iB for 1024s, or the bytes in full)"


def format_size(size: int) -> str:
    """The shortest exact way to write it, which ``parse_size`` reads back.

    >>> format_size(8 << 30), format_size(4097)
    ('8GiB', '4097')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]}{unit}"
    return str(size)

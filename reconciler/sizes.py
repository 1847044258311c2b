"""Sizes as people write them: ``8GiB``, ``64Ki``, ``4096``; durations: ``90s``, ``1h30m``. No state.

``G``, ``GB`` and their like are refused: half of the world's tools take them for powers of 1000, half for powers of 1024.
"""

from __future__ import annotations

import re

UNITS: dict[str, int] = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
UNITS |= {unit.removesuffix("B"): size for unit, size in UNITS.items()}

PATTERN = r"^[0-9]{1,19}(\.[0-9]{1,9})? ?([KMGT]iB?)?$"
"""What is accepted, for editors (ECMA 262 and Python)."""

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
NO_DURATION = "is not a duration such as 90s, 15m, 1h30m or 2d"
MOST_SECONDS = 10**9
"""The longest duration: a point in time that is so far ahead still has a date."""
TOO_LONG = f"is a duration of more than {MOST_SECONDS} seconds"
_DURATION = re.compile(r"([0-9]{1,9})([smhd])").match

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


def parse_duration(text: str, *, zero: bool = False) -> float:
    """Seconds of ``90s``, ``15m``, ``1h30m`` or ``2d``; of ``0s`` where ``zero`` allows it.

    Raises ValueError, also for more than MOST_SECONDS.
    """
    at, total = 0, 0
    while at < len(text) and (part := _DURATION(text[at:])):
        total += int(part[1]) * SECONDS[part[2]]
        at += part.end()
    if not (total or (zero and text)) or at < len(text):
        raise ValueError(f"{text!r} {NO_DURATION}")
    if total > MOST_SECONDS:
        raise ValueError(f"{text!r} {TOO_LONG}")
    return float(total)


def format_duration(seconds: float) -> str:
    """The text of a whole number of seconds that ``parse_duration`` reads back.

    >>> format_duration(7200), format_duration(5400), format_duration(0)
    ('2h', '1h30m', '0s')
    """
    rest, parts = int(seconds), []
    for unit, length in reversed(SECONDS.items()):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"

"""SVG of a result: bars for the programs of one row, lines for how time grows. A few lines of text, no library."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

BARS = "build"
NAMES = {
    "benchmarks-peers.svg": "Seconds of each program for the large Debian",
    "benchmarks-size.svg": "Seconds by the size of the layer",
    "benchmarks-entries.svg": "Seconds by the number of entries",
}
OURS = "reconcile"
COLOURS = ("#1f60c4", "#c4720a", "#37872d", "#8f3bb8", "#ad0317", "#5f6b7a", "#b7950b")
WIDTH, LEFT, RIGHT, TOP, HEIGHT = 720, 150, 130, 40, 260
BAR = 22

Row = Mapping[str, Any]
Lines = Mapping[str, Sequence[tuple[float, float]]]


def drawn(rows: Sequence[Row]) -> dict[str, str]:
    titles = dict(NAMES)
    bars: Mapping[str, Any] = next((row["contestants"] for row in rows if row["name"] == BARS), {})
    seconds = {name: statistics.median(costs["wall"]) for name, costs in bars.items()}
    peers, size, entries = titles
    return {
        peers: bar_chart(titles[peers], seconds),
        size: line_chart(titles[size], lines(rows, "bytes"), "MB", 1e6),
        entries: line_chart(titles[entries], lines(rows, "entries"), "thousand entries", 1e3),
    }


def lines(rows: Sequence[Row], key: str) -> dict[str, list[tuple[float, float]]]:
    """By program: (size of the input, median seconds), for programs that have at least two points."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, costs in row["contestants"].items() if key in row["points"] else ():
            found.setdefault(name, []).append((row["about"][key], statistics.median(costs["wall"])))
    return {name: sorted(points) for name, points in found.items() if len(points) > 1}


def bar_chart(title: str, seconds: Mapping[str, float]) -> str:
    widest = max(seconds.values(), default=1.0)
    room = WIDTH - LEFT - RIGHT
    parts = []
    for number, (name, value) in enumerate(sorted(seconds.items(), key=lambda one: one[1])):
        y, width = TOP + number * (BAR + 6), max(1.0, room * value / widest)
        parts.append(text(LEFT - 8, y + 15, name, "end"))
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[0 if name == OURS else 5]}"/>')
        parts.append(text(LEFT + width + 6, y + 15, f"{value:.2f} s"))
    return picture(title, TOP + len(seconds) * (BAR + 6) + 10, parts)


def line_chart(title: str, series: Lines, unit: str, divisor: float, of: str = " s") -> str:
    """``of`` is the unit of the values."""
    points = [point for line in series.values() for point in line]
    right, top = (round_up(max((point[axis] for point in points), default=1.0)) for axis in (0, 1))
    parts = [*axes(right, top, unit, divisor, of)]
    ends: list[float] = []
    for number, (name, line) in enumerate(sorted(series.items(), key=lambda one: -one[1][-1][1])):
        colour = COLOURS[0 if name == OURS else 1 + number % (len(COLOURS) - 1)]
        places = [(at(x / right), up(y / top)) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{3 if name == OURS else 1.5}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        ends.append(max(places[-1][1] + 4, ends[-1] + 15 if ends else 0))  # names don't cover each other
        parts.append(text(places[-1][0] + 8, ends[-1], name, colour=colour))
    return picture(title, TOP + HEIGHT + 50, parts)


def axes(right: float, top: float, unit: str, divisor: float, of: str) -> Iterator[str]:
    for step in range(5):
        share = step / 4
        yield f'<line x1="{at(0)}" y1="{up(share):.1f}" x2="{at(1)}" y2="{up(share):.1f}" stroke="#ddd"/>'
        yield text(at(0) - 8, up(share) + 4, f"{top * share:g}{of}", "end")
        yield text(at(share), up(0) + 18, f"{right * share / divisor:g}", "middle")
    yield text(at(0.5), up(0) + 36, unit, "middle")


def at(share: float) -> float:
    return round(80 + (WIDTH - 80 - RIGHT) * share, 1)


def up(share: float) -> float:
    return round(TOP + HEIGHT * (1 - share), 1)


def round_up(value: float) -> float:
    """To a number that divides by four into short ones."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if unit * step >= value * 0.999)


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def picture(title: str, height: float, parts: Sequence[str]) -> str:
    size = f'width="{WIDTH}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    back = '<rect width="100%" height="100%" fill="#fff"/>'
    name = f'<text x="16" y="24" font-size="14" font-weight="bold">{escape(title)}</text>'
    return "\n".join([head, back, name, *parts, "</svg>"]) + "\n"

"""Draws the dashboard with the data of a Prometheus, without Grafana. docs/observing.md shows such a drawing.

    python deploy/grafana/preview.py http://127.0.0.1:9090 [--minutes 10] > dashboard.svg

Panels have the positions of the dashboard; queries go through the HTTP API. Uses the standard library only.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

DASHBOARD = Path(__file__).with_name("reconcile.json")
CELL_WIDTH, CELL_HEIGHT, GAP = 50, 30, 8
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d")
NAMED = {"green": "#37872d", "orange": "#c4720a", "red": "#ad0317"}
LINES = {
    "green": "#73bf69",
    "red": "#f2495c",
    "orange": "#ff9830",
    "purple": "#b877d9",
    "super-light-blue": "#c0d8ff",
    "light-blue": "#8ab8ff",
    "blue": "#5794f2",
    "semi-dark-blue": "#3274d9",
    "dark-blue": "#1f60c4",
}
"""What Grafana makes of the names of its colours, behind a number and as a line."""

Series = list[tuple[str, list[tuple[float, float]]]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="preview.py", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--until", type=float, default=time.time(), help="seconds since the epoch (default: now)")
    chosen = parser.parse_args()
    prometheus = Prometheus(chosen.url, chosen.minutes * 60, chosen.until)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    try:
        drawn = picture(panels, prometheus)
    except OSError as error:
        sys.exit(f"{chosen.url} does not answer as a Prometheus does: {error}")
    empty = [panel["title"] for panel in panels if not prometheus.ask(panel)]
    if empty:
        print(f"without data: {', '.join(empty)}", file=sys.stderr)
    sys.stdout.write(drawn)


class Prometheus:
    """``ask`` gives the series of a panel over the last seconds, each with its legend."""

    def __init__(self, url: str, seconds: float, until: float) -> None:
        self.url, self.end = url.rstrip("/"), until
        self.start, self.step = self.end - seconds, max(1.0, seconds / 240)

    def ask(self, panel: dict[str, Any]) -> Series:
        found: Series = []
        for target in panel["targets"]:
            query = target["expr"].replace("$host", ".*").replace("$__rate_interval", f"{max(15, int(4 * self.step))}s")
            asked = urlencode({"query": query, "start": self.start, "end": self.end, "step": self.step})
            with urlopen(f"{self.url}/api/v1/query_range?{asked}", timeout=30) as answer:  # noqa: S310 - the URL that was given
                result = json.load(answer)["data"]["result"]
            for one in result:
                points = [(float(at), float(value)) for at, value in one["values"] if value not in ("NaN", "+Inf")]
                if points:
                    found.append((legend(target["legendFormat"], one["metric"]), points))
        return found


def legend(form: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        form = form.replace("{{" + name + "}}", value)
    return form


def picture(panels: list[dict[str, Any]], prometheus: Prometheus) -> str:
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * CELL_HEIGHT
    size = f'width="{24 * CELL_WIDTH}" height="{height}" viewBox="0 0 {24 * CELL_WIDTH} {height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">']
    parts.append(f'<rect width="100%" height="{height}" fill="#111217"/>')
    for panel in panels:
        where = panel["gridPos"]
        x, y = where["x"] * CELL_WIDTH + GAP / 2, where["y"] * CELL_HEIGHT + GAP / 2
        width, tall = where["w"] * CELL_WIDTH - GAP, where["h"] * CELL_HEIGHT - GAP
        parts.append(f'<g transform="translate({x} {y})">')
        parts.append(f'<rect width="{width}" height="{tall}" rx="3" fill="#181b1f" stroke="#2c3235"/>')
        drawn = {"stat": stat, "timeseries": lines, "table": table}[panel["type"]]
        parts += drawn(panel, prometheus, width, tall)
        parts.append(f'<text x="10" y="20" fill="#d8d9da" font-weight="bold">{escape(panel["title"])}</text></g>')
    return "\n".join([*parts, "</svg>\n"])


def stat(panel: dict[str, Any], prometheus: Prometheus, width: float, tall: float) -> list[str]:
    series = prometheus.ask(panel)
    value = series[0][1][-1][1] if series else None
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    reached = [step["color"] for step in steps if step["value"] is None or (value or 0) >= step["value"]]
    defaults = panel["fieldConfig"]["defaults"]
    whole = value is not None and defaults.get("decimals") == 0
    text = "No data" if value is None else amount(round(value) if whole else value, defaults["unit"])
    return [
        f'<rect width="{width}" height="{tall}" rx="3" fill="{NAMED[reached[-1]]}"/>',
        f'<text x="{width / 2}" y="{tall / 2 + 22}" fill="white" font-size="30" text-anchor="middle">{text}</text>',
    ]


def lines(panel: dict[str, Any], prometheus: Prometheus, width: float, tall: float) -> list[str]:
    series, defaults = prometheus.ask(panel), panel["fieldConfig"]["defaults"]
    left, top, right, bottom = 70.0, 34.0, width - 12, tall - 36
    if not series:
        return [f'<text x="{width / 2}" y="{tall / 2}" fill="#8e8e8e" text-anchor="middle">No data</text>']
    if defaults["custom"].get("stacking"):
        series = stacked(series)
    colours = [colour(panel, name, number) for number, (name, _) in enumerate(series)]
    highest = top_of(defaults, max(value for _, points in series for _, value in points))
    rows = legend_rows([name for name, _ in series], right - left)
    bottom -= 16 * (len(rows) - 1)
    parts = []
    for part in range(5):
        y = bottom - (bottom - top) * part / 4
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="#2c3235"/>')
        words = amount(highest * part / 4, defaults["unit"])
        parts.append(f'<text x="{left - 6}" y="{y + 4}" fill="#8e8e8e" text-anchor="end">{words}</text>')
    span = prometheus.end - prometheus.start
    for number, (_, points) in reversed(list(enumerate(series))):
        fill = defaults["custom"]["fillOpacity"] / 100
        for piece in unbroken(points, 2 * prometheus.step):
            dots = [
                (left + (right - left) * (at - prometheus.start) / span, bottom - (bottom - top) * min(1.0, value / highest))
                for at, value in piece
            ]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
            area = f"{dots[0][0]:.1f},{bottom} {path} {dots[-1][0]:.1f},{bottom}"
            parts.append(f'<polygon points="{area}" fill="{colours[number]}" fill-opacity="{fill}"/>')
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colours[number]}" stroke-width="2"/>')
    for line, row in enumerate(rows):
        y = tall - 16 * (len(rows) - line)
        for number, x in row:
            parts.append(f'<rect x="{left + x}" y="{y - 4}" width="12" height="4" fill="{colours[number]}"/>')
            parts.append(f'<text x="{left + x + 16}" y="{y + 2}" fill="#c7c7c7">{escape(series[number][0])}</text>')
    return parts


def colour(panel: dict[str, Any], name: str, number: int) -> str:
    """Of one series: its own where the panel gives it one, or one of its shades, or the next of the palette."""
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == name:
            return LINES[override["properties"][0]["value"]["fixedColor"]]
    fixed = panel["fieldConfig"]["defaults"].get("color", {}).get("fixedColor")
    if fixed is None:
        return COLOURS[number % len(COLOURS)]
    shade = 1 - 0.18 * (number % 5)
    return "#" + "".join(f"{int(shade * int(LINES[fixed][at : at + 2], 16)):02x}" for at in (1, 3, 5))


def top_of(defaults: dict[str, Any], highest: float) -> float:
    """Where the axis ends: of what is counted, at a number that has whole quarters."""
    if "max" in defaults:
        return float(defaults["max"])
    return 4.0 * max(1, math.ceil(highest / 4)) if defaults.get("decimals") == 0 else highest * 1.1 or 1.0


def legend_rows(names: list[str], width: float) -> list[list[tuple[int, float]]]:
    """The numbers of the series in each line of the legend, with where they begin."""
    rows: list[list[tuple[int, float]]] = [[]]
    x = 0.0
    for number, name in enumerate(names):
        needed = 30 + 6.5 * len(name)
        if x and x + needed > width:
            rows.append([])
            x = 0.0
        rows[-1].append((number, x))
        x += needed
    return rows


def unbroken(points: list[tuple[float, float]], most: float) -> list[list[tuple[float, float]]]:
    """The pieces between which there is nothing for longer than that."""
    pieces: list[list[tuple[float, float]]] = []
    for point in points:
        if not pieces or point[0] - pieces[-1][-1][0] > most:
            pieces.append([])
        pieces[-1].append(point)
    return pieces


def stacked(series: Series) -> Series:
    """Each on top of those before it."""
    below: dict[float, float] = {}
    result: Series = []
    for name, points in series:
        raised = [(at, value + below.get(at, 0.0)) for at, value in points]
        below.update(raised)
        result.append((name, raised))
    return result


def table(panel: dict[str, Any], prometheus: Prometheus, width: float, tall: float) -> list[str]:
    now = [
        (name, points[-1][1]) for name, points in prometheus.ask(panel) if points[-1][0] > prometheus.end - 3 * prometheus.step
    ]
    hidden = panel["transformations"][0]["options"]["excludeByName"]
    rows = [
        f'<text x="12" y="{44 + 20 * number}" fill="#c7c7c7">{escape(name)}</text>'
        f'<text x="{width - 12}" y="{44 + 20 * number}" fill="#c7c7c7" text-anchor="end">'
        f"{'' if hidden.get('Value') else amount(value, panel['fieldConfig']['defaults']['unit'])}</text>"
        for number, (name, value) in enumerate(now[: int(tall / 20) - 2])
    ]
    return rows or ['<text x="12" y="44" fill="#8e8e8e">none</text>']


def amount(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.0f} %"
    if unit in ("bytes", "Bps"):
        power = next((power for power in (4, 3, 2, 1) if abs(value) >= 1024**power), 0)
        return f"{value / 1024**power:.1f} {('', 'Ki', 'Mi', 'Gi', 'Ti')[power]}B" + ("/s" if unit == "Bps" else "")
    if unit == "s":
        return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 100 else f"{value / 60:.0f} min"
    return f"{value:.0f}" if abs(value - round(value)) < 0.05 else f"{value:.1f}"


if __name__ == "__main__":
    main()

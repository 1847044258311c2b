"""A live view of a host: how full its pools are, what is running, images by phase, the last events.

Called by ``cli``. ``frame`` makes the text of one picture out of finished values; ``Screen`` puts one after the other onto a
terminal until you press q. Read-only, takes no lock. State: the terminal's settings, restored at the end.
"""

from __future__ import annotations

import select
import sys
import termios
import tty
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from reconciler.dataclass import asdict, dataclass, field
from reconciler.engine.definitions import Event
from reconciler.errors import visible
from reconciler.model import PoolObserved
from reconciler.output.console import counted, size
from reconciler.planner.claims import Stock
from reconciler.pool.driver import Space
from reconciler.status.inventory import pool_state, space
from reconciler.telemetry.activity import Running

BAR, EVENTS, RUNNING, STOCKS = 14, 8, 12, 6
"""Cells of a bar; lines of events, of running work, and of images with claims."""

Painter = Callable[[str, str], str]
"""Gives a text its colour (an SGR code), or leaves it as it is."""

GOOD, BUSY, BAD, DIM, HEAD = "32", "36", "31", "2", "1"
_COLOURS = {"Ready": GOOD, "Failed": BAD, "Degraded": BAD, "ready": GOOD, "halted": BAD, "unavailable": BAD}


@dataclass(frozen=True, slots=True)
class Scene:
    """All that one frame shows. ``rates`` are bytes a second by the key of what runs; ``holder`` has the lock."""

    host: str
    at: float
    holder: str
    pools: Mapping[str, PoolObserved]
    phases: Sequence[str]
    running: Sequence[Running]
    rates: Mapping[str, float]
    events: Sequence[Event]
    pending: int = 0
    faults: int = 0
    stocks: Mapping[str, Stock] = field(default_factory=dict)
    """How the snapshots of images stand with claims, by name of the image."""


def rates(before: Sequence[Running], now: Sequence[Running]) -> dict[str, float]:
    """Bytes a second between two readings, of work that was in the same state in both."""
    old = {(one.key, one.state): one for one in before}
    pairs = ((one, old[one.key, one.state]) for one in now if (one.key, one.state) in old)
    return {new.key: (new.done - was.done) / (new.at - was.at) for new, was in pairs if new.at > was.at and new.done > was.done}


def document(scene: Scene) -> dict[str, Any]:
    """One frame as JSON."""
    states = {name: (pool_state(pool)[0], pool.state) for name, pool in scene.pools.items()}
    return {
        "host": scene.host,
        "holder": scene.holder,
        "pools": {
            name: {
                "state": word,
                "data": space(state.space) if state else None,
                "metadata": space(state.metadata) if state else None,
            }
            for name, (word, state) in states.items()
        },
        "images": dict(Counter(scene.phases)),
        "claims": {name: stock.by_state for name, stock in scene.stocks.items()},
        "pending": scene.pending,
        "running": [asdict(one) | {"rate": scene.rates.get(one.key)} for one in scene.running],
        "events": [asdict(event) for event in scene.events],
    }


def frame(scene: Scene, paint: Painter, width: int = 100, height: int | None = None) -> str:
    """One frame: no line is wider than the terminal, and no more lines than it is high. The last ones are left out first."""
    parts = [_title(scene, paint), _pools(scene, paint), _images(scene, paint)]
    parts += [_stocks(scene, paint)] if scene.stocks else []
    parts += [_running(scene, paint), _events(scene, paint)]
    lines = "\n\n".join("\n".join(_cut(line, width) for line in part) for part in parts).split("\n")
    if height is not None and len(lines) > height:
        kept = max(1, height - 1)
        lines[kept:] = [_cut(paint(f"and {counted(len(lines) - kept, 'line')} more: enlarge the terminal", DIM), width)]
    return "\n".join(lines[:height])


def _title(scene: Scene, paint: Painter) -> Iterator[str]:
    clock = datetime.fromtimestamp(scene.at).strftime("%Y-%m-%d %H:%M:%S")
    who, _, command = scene.holder.partition(" (")
    program = command.rstrip(")").split(" ")[0].rpartition("/")[2]
    holder = f"{visible(program)}, {who}" if who else paint("no reconciler is running", DIM)
    yield f"{paint(scene.host, HEAD)}  {clock}  {holder}"
    if scene.faults:
        yield paint(f"{counted(scene.faults, 'fault')} in the manifests: `reconcile validate` lists them", BAD)


def _pools(scene: Scene, paint: Painter) -> Iterator[str]:
    yield paint(f"{'POOL':14}{'STATE':12}{'DATA':39}METADATA", HEAD)
    for name, pool in sorted(scene.pools.items()):
        word, _ = pool_state(pool)
        data = _fill(pool.state.space if pool.state else None, paint)
        metadata = _fill(pool.state.metadata if pool.state else None, paint)
        yield f"{visible(name)[:13]:14}{paint(f'{word:12}', _COLOURS.get(word, BUSY))}{data}  {metadata}"
    if not scene.pools:
        yield paint("none", DIM)


def _fill(space: Space | None, paint: Painter) -> str:
    """How much of the space is taken; red from where the reserve begins."""
    if space is None:
        return f"{'-':37}"
    used = space.total - space.free
    amount = f"{size(used)} of {size(space.total)}"
    return f"{_bar(used, space.total, BAD if space.available <= 0 else GOOD, paint)} {amount:22}"


def _bar(done: int, total: int, colour: str, paint: Painter) -> str:
    full = min(BAR, done * BAR // total) if total else 0
    return paint("█" * full, colour) + paint("░" * (BAR - full), DIM)


def _images(scene: Scene, paint: Painter) -> Iterator[str]:
    counts = Counter(scene.phases)
    words = [paint(f"{count} {phase}", _COLOURS.get(phase, BUSY)) for phase, count in sorted(counts.items())]
    left = f"; {counted(scene.pending, 'action')} left to do" if scene.pending else "; nothing is left to do"
    yield paint(f"{'IMAGES':14}", HEAD) + (", ".join(words) if words else paint("none", DIM)) + left


def _stocks(scene: Scene, paint: Painter) -> Iterator[str]:
    """The images whose snapshots are claimed; first those with the fewest ready ones."""
    yield paint(f"{'CLAIMS':36}", HEAD) + paint("".join(f"{state.upper():>10}" for state in Stock().by_state), HEAD)
    ordered = sorted(scene.stocks.items(), key=lambda one: (one[1].ready, one[0]))
    for name, stock in ordered[:STOCKS]:
        bad = ({"expired"} if stock.expired else set()) | ({"ready"} if stock.wanting and not stock.ready else set())
        cells = (paint(f"{count:>10}", BAD if state in bad else "0") for state, count in stock.by_state.items())
        yield f"{visible(name)[:35]:36}" + "".join(cells)
    if len(ordered) > STOCKS:
        yield paint(f"and {len(ordered) - STOCKS} more", DIM)


def _running(scene: Scene, paint: Painter) -> Iterator[str]:
    yield paint(f"{'RUNNING':36}STATE", HEAD)
    for one in scene.running[:RUNNING]:
        rate = f"{size(scene.rates[one.key])}/s" if one.key in scene.rates else ""
        amount = f"{size(one.done)} of {size(one.total)}" if one.total else size(one.done) if one.done else ""
        bar = _bar(one.done, one.total, BUSY, paint) if one.total else " " * BAR
        took = f"{max(0, scene.at - one.since):.0f} s"
        yield f"{visible(one.key)[:35]:36}{one.state:13} {bar} {amount:24} {rate:12} {took:>6}"
    if len(scene.running) > RUNNING:
        yield paint(f"and {len(scene.running) - RUNNING} more", DIM)
    if not scene.running:
        yield paint("nothing", DIM)


def _events(scene: Scene, paint: Painter) -> Iterator[str]:
    yield paint(f"{'EVENTS':10}{'OBJECT':34}", HEAD)
    for event in scene.events[-EVENTS:]:
        clock = datetime.fromtimestamp(event.at).strftime("%H:%M:%S")
        name = f"{event.kind.lower()}/{event.name}"
        yield f"{clock:10}{visible(name)[:32]:34}{visible(event.reason):20} {visible(event.message)}"
    if not scene.events:
        yield paint("none", DIM)


def _cut(line: str, width: int) -> str:
    """At most so many cells; colour takes none."""
    cells, at = 0, 0
    while at < len(line) and cells < width:
        if line[at] == "\x1b":
            at = line.index("m", at) + 1
        else:
            at, cells = at + 1, cells + 1
    rest = line[at:]
    return line[:at] + ("\x1b[0m" if "\x1b" in rest else "")


# ------------------------------------------------------------------------------------------------------- terminal


class Screen:
    """The terminal's other screen, one frame over the last; what was there comes back at the end."""

    @contextmanager
    def taken(self) -> Iterator[Screen]:
        keys = sys.stdin.fileno()
        before = termios.tcgetattr(keys)
        try:
            tty.setcbreak(keys)
            self._put("\x1b[?1049h\x1b[?25l")
            yield self
        finally:
            self._put("\x1b[?25h\x1b[?1049l")
            termios.tcsetattr(keys, termios.TCSADRAIN, before)

    def show(self, text: str) -> None:
        self._put("\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[K\x1b[J")

    def asked_to_end(self, seconds: float) -> bool:
        """Wait for so long, or until q is pressed."""
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return bool(ready) and sys.stdin.read(1) in ("q", "Q", "")

    def _put(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

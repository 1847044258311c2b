"""The console: tables, notes, progress, JSON, colours. The only file that imports rich.

Called by ``print_plan``, ``print_result`` and ``cli``. Data goes to standard output, everything else to standard error;
rich is imported only where a terminal is there to see it. No state but a running progress display.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from reconciler.dataclass import asdict, is_dataclass
from reconciler.errors import HostCannot, visible
from reconciler.output import log, streams
from reconciler.output.progress import Progress, Silent

if TYPE_CHECKING:
    from reconciler.model import Kind

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: int | float) -> str:
    """A number of bytes as text, in binary units."""
    value = float(count)
    for unit in UNITS:
        if abs(value) < 1024 or unit == UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def counted(number: int, noun: str) -> str:
    """``1 fault``, ``2 faults``."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


def colourful(stream: IO[str]) -> bool:
    """Colour only for a terminal, and never against NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: IO[str]) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colourful(stream) else text


def note(text: str, level: log.Level = "info", **fields: object) -> None:
    """Write a line to standard error (see ``log``)."""
    log.write(text, level, **fields)


def data(text: str) -> None:
    """Write a piece of the answer to standard output. Raises HostCannot where it is on a full disk."""
    try:
        streams.send(text, sys.stdout)
    except OSError as error:
        raise HostCannot(f"standard output: {error.strerror}", hint="free space there, or send the output elsewhere") from error


PLAIN = frozenset({str, int, float, bool, type(None)})

READABLE = 64 << 10
"""Characters of a document that is indented: a longer one is for programs, and Python takes five times as long to indent it."""


def plain(value: Any) -> Any:
    """A value in the types of JSON; bytes are escaped, dataclasses become objects."""
    if type(value) in PLAIN:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def document(value: Any) -> None:
    """One JSON document on standard output."""
    found, escaped = plain(value), not streams.is_unicode(sys.stdout)
    text = json.dumps(found, ensure_ascii=escaped)
    data(text if len(text) > READABLE else json.dumps(found, indent=2, ensure_ascii=escaped))


def verdict(word: str) -> str:
    """``accept`` or ``reject``, coloured on terminals."""
    return paint(word, "32" if word == "accept" else "31", sys.stdout)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output: drawn on a terminal, bare columns in a pipe."""
    cells = [[visible(str(cell)) for cell in row] for row in rows]
    if not colourful(sys.stdout):
        widths = [max(len(r[i]) for r in [list(headers), *cells]) for i in range(len(headers))]
        for row in [list(headers), *cells]:
            data("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


# --------------------------------------------------------------------------------------------------- progress


class Lines(Silent):
    """For logs and pipes: a line when an object changes its state, and one every few seconds of long work."""

    EVERY_SECONDS = 10.0

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def update(self, key: str, state: str, done: int, total: int | None, detail: str = "") -> None:
        now = time.monotonic()
        with self._lock:
            last, when = self._seen.get(key, ("", now))
            if last == state and now - when < self.EVERY_SECONDS:
                return
            self._seen[key] = (state, now)
        amount = f" {size(done)}" + (f" of {size(total)}" if total else "") if done else ""
        note(f"{key}  {state}{amount} {detail}".rstrip(), object=key, state=state, done=done or None, total=total)

    def finish(self, key: str, text: str) -> None:
        note(f"{key}  {text}", object=key)


class Bars(Silent):
    """For terminals: one line for each running object, with bytes, rate and the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            TextColumn("[cyan]{task.fields[state]}"),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
        )
        self._progress = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self._tasks: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def update(self, key: str, state: str, done: int, total: int | None, detail: str = "") -> None:
        with self._lock:
            if key not in self._tasks:
                self._tasks[key] = self._progress.add_task(key, state=state, detail=detail, total=total)
            self._progress.update(self._tasks[key], state=state, detail=detail, completed=done, total=total)

    def finish(self, key: str, text: str) -> None:
        with self._lock:
            task = self._tasks.pop(key, None)
            if task is not None:
                self._progress.remove_task(task)
        self._progress.console.print(f"{key}  {text}", markup=False, highlight=False)


def progress(mode: str) -> Progress:
    """``auto`` draws bars on a terminal and prints lines elsewhere; ``plain`` prints lines; ``none`` is silent."""
    if mode == "none":
        return Silent()
    drawn = mode == "auto" and sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not log.is_json()
    return Bars() if drawn else Lines()


def kinds() -> dict[str, Kind]:
    """Words that users type for kinds: ``image``, ``images``, ``Image``."""
    from reconciler.model import Kind

    return {form: kind for kind in Kind if kind is not Kind.HOST for form in (kind.lower(), f"{kind.lower()}s", kind.value)}

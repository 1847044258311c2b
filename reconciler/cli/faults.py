"""Faults of manifests on standard error: a line each, on a terminal with the line of the manifest and a marker; then a summary.

Called by ``cli.main`` and ``cli.session``. Reads the manifest's file again for its line. No state.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import Exit, ManifestFault, ManifestsInvalid
from reconciler.manifests.faults import ignored_documents
from reconciler.output import console, log
from reconciler.policy import force

if TYPE_CHECKING:
    from reconciler.host.context import Host

LARGEST = 1 << 22
"""Bytes of a manifest; a larger file is not read for its line."""


def report(error: ManifestsInvalid) -> Exit:
    """Write the faults that end a command."""
    show(error.faults)
    log.write(f"error: {counted(error.faults)}; nothing touched", "error", reason=error.reason)
    return error.exit


def warn(faults: Sequence[ManifestFault]) -> None:
    """Write the faults beside which a command goes on."""
    if faults:
        show(faults)
        log.write(f"note: {counted(faults)}; the last valid manifests are used instead", "warning", reason="InvalidSpec")


def note_ignored(host: Host) -> None:
    """Name on standard error the documents that belong to other tools."""
    if line := ignored_documents(host.notes):
        console.note(line)


def show(faults: Sequence[ManifestFault]) -> None:
    """One line a fault; on a terminal also the line that it is about."""
    drawn = sys.stderr.isatty() and not log.is_json()
    for fault in faults:
        lines = [str(fault), *excerpt(fault, _width())] if drawn else [str(fault)]
        log.write("\n".join(lines), "error", reason="InvalidSpec")


def counted(faults: Sequence[ManifestFault]) -> str:
    files = {fault.where.file for fault in faults}
    return f"{console.counted(len(faults), 'fault')} in {console.counted(len(files), 'file')}"


def _width() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def excerpt(fault: ManifestFault, width: int = 80) -> list[str]:
    """The line of the manifest and a marker below the span; nothing where the file doesn't have that line any more."""
    text = _line(Path(fault.where.file), fault.where.line)
    if text is None or not text.strip():
        return []
    start = min(fault.where.column - 1, len(text))
    number = str(fault.where.line)
    begin, text = _window(text, start, width - len(number) - 4)
    before, span = text[: start - begin], text[start - begin : start - begin + fault.length]
    marker = " " * _columns(before) + "^" * max(1, _columns(span))
    return [f" {number} | {text}", f" {' ' * len(number)} | {marker}"]


def _line(path: Path, number: int) -> str | None:
    """One line of a file; a tab or a character that a terminal can't show becomes one column."""
    try:
        if force.file_refusal(str(path)):
            return None  # a link that leads out of the repository: what is there is not shown
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        lines = re.split(r"\r\n|[\n\r]", path.read_bytes().decode("utf-8", "replace").removeprefix("\ufeff"))
    except OSError:
        return None
    if not 0 < number <= len(lines):
        return None
    return "".join(" " if c == "\t" else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in lines[number - 1])


def _window(text: str, start: int, width: int) -> tuple[int, str]:
    """The part of a long line around ``start`` that fits into ``width``, and where it begins."""
    width = max(width, 20)
    begin = 0 if start < width * 2 // 3 else start - width // 3
    return begin, text[begin : begin + width].rstrip()


def _columns(text: str) -> int:
    """Columns of a terminal: East Asian wide characters have two, combining ones none."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)

"""Lines on standard error: text, text with a priority for the journal, or one JSON object a line for a log collector.

Called by ``console.note`` and ``cli``. State: the form, which ``cli`` sets once for the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from datetime import UTC, datetime
from typing import Literal

from reconciler.output import streams

Level = Literal["error", "warning", "notice", "info"]

PRIORITIES = {"error": 3, "warning": 4, "notice": 5, "info": 6}
"""Of syslog(3); the journal takes ``<N>`` in front of a line for it (sd-daemon(3))."""

_SGR = re.compile(r"\x1b\[[0-9;]*m")
_WORD = re.compile(r"^(error|note|hint): +")

_form = "text"


def use(form: str) -> None:
    """Set the form of all further lines: ``text`` or ``json``."""
    global _form
    _form = form


def is_json() -> bool:
    return _form == "json"


def write(text: str, level: Level = "info", **fields: object) -> None:
    """Write one line or several; ``fields`` (object, state, reason, …) are keys of JSON only, and left out where empty.

    Never fails: a closed or full standard error loses the line, and the command goes on.
    """
    if _form == "json":
        lines = _document(text, level, fields)
    else:
        prefix = f"<{PRIORITIES[level]}>" if _is_journal() else ""
        lines = "\n".join(prefix + line for line in text.split("\n"))
    with contextlib.suppress(OSError, ValueError):
        streams.send(lines, sys.stderr)


def _document(text: str, level: Level, fields: dict[str, object]) -> str:
    message = _WORD.sub("", _SGR.sub("", text))
    document = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "message": message}
    given = {name: value for name, value in fields.items() if value not in (None, "")}
    return json.dumps(document | given, ensure_ascii=not streams.is_unicode(sys.stderr))


def _is_journal() -> bool:
    """Whether standard error is the journal: JOURNAL_STREAM has its device and inode (systemd.exec(5))."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    if not stream:
        return False
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"

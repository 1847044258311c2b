"""Lines on standard error: for people, for the journal with their priority, or one JSON object each for a log collector.

Written through ``report.note``. State: the form, chosen once by ``cli`` for the process, as it has one standard error.
"""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import UTC, datetime
from typing import Literal

Level = Literal["error", "warning", "notice", "info"]

PRIORITIES = {"error": 3, "warning": 4, "notice": 5, "info": 6}
"""Of syslog(3); the journal takes ``<N>`` in front of a line for it (sd-daemon(3))."""

_SGR = re.compile(r"\x1b\[[0-9;]*m")
_WORD = re.compile(r"^(error|note|hint): +")

_form = "text"


def use(form: str) -> None:
    """``text`` or ``json``, for all that is written from now on."""
    global _form
    _form = form


def is_json() -> bool:
    return _form == "json"


def write(text: str, level: Level = "info", **fields: object) -> None:
    """One line, or several; ``fields`` (object, state, reason, …) are told apart only in JSON, and left out where empty."""
    if _form == "json":
        print(_document(text, level, fields), file=sys.stderr, flush=True)  # noqa: T201
        return
    prefix = f"<{PRIORITIES[level]}>" if _is_journal() else ""
    print("\n".join(prefix + line for line in text.split("\n")), file=sys.stderr, flush=True)  # noqa: T201


def _document(text: str, level: Level, fields: dict[str, object]) -> str:
    message = _WORD.sub("", _SGR.sub("", text))
    told = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "message": message}
    return json.dumps(told | {name: value for name, value in fields.items() if value not in (None, "")}, ensure_ascii=False)


def _is_journal() -> bool:
    """Whether standard error leads to the journal: it says so by device and inode (systemd.exec(5), JOURNAL_STREAM)."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    if not stream:
        return False
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"

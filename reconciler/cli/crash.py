"""The last resort for an exception that no code expects: one line for the user, the traceback in a file.

Called by ``cli.main``. State: ``crash-*.txt`` in the state directory, or in the temporary directory where that is not writable.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from reconciler import __version__
from reconciler.cli.options import Invocation
from reconciler.errors import visible
from reconciler.output import log

KEPT = 10
"""How many reports stay in a directory; the oldest ones are deleted."""

_REPORT = re.compile(r"crash-[0-9]{8}T[0-9]{6}-[0-9]+(-[0-9]+)?\.txt")


def report(error: BaseException, invocation: Invocation) -> None:
    """Write one line that names the error, the command, its object and the report."""
    what = f"internal error{_subject(error, invocation)}: {_summary(error)}"
    text = "".join(traceback.format_exception(error))
    if invocation.debug:
        log.write(text.rstrip(), "error")
        log.write(f"error: {what}", "error", reason="InternalError")
        return
    path = _kept(_header(invocation) + text, invocation)
    where = f"; the report is in {path}" if path else "; run it again with --debug to get a traceback"
    log.write(f"error: {what}{where}", "error", reason="InternalError", report=str(path or ""))


def _subject(error: BaseException, invocation: Invocation) -> str:
    """The command with its object, where the verb has one."""
    found = getattr(error, "subject", "") or invocation.subject
    return f" in `reconcile {found}`" if found else ""


def _summary(error: BaseException) -> str:
    message = visible(" ".join(str(error).split()))
    return f"{type(error).__name__}: {message[:200]}" if message else type(error).__name__


def _header(invocation: Invocation) -> str:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    command = shlex.join(["reconcile", *invocation.words])
    return f"{now}\nreconcile {__version__}, Python {platform.python_version()}, {platform.platform()}\n{command}\n\n"


def _kept(text: str, invocation: Invocation) -> Path | None:
    """The path of the new report; None where no directory takes it."""
    for directory in (invocation.state, Path(tempfile.gettempdir())):
        if directory is not None and directory.is_dir():
            with suppress(OSError):
                path = _written(directory, text)
                _delete_old(directory)
                return path
    return None


def _written(directory: Path, text: str) -> Path:
    name = f"crash-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
    for suffix in ("", *(f"-{number}" for number in range(1, 100))):
        path = directory / f"{name}{suffix}.txt"
        with suppress(FileExistsError):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(text.encode(errors="backslashreplace"))
            return path
    raise FileExistsError(name)


def _delete_old(directory: Path) -> None:
    """Keep the newest reports of this user."""
    found = sorted(
        (path.lstat().st_mtime_ns, path)
        for path in directory.iterdir()
        if _REPORT.fullmatch(path.name) and path.lstat().st_uid == os.geteuid()
    )
    for _, path in found[:-KEPT]:
        path.unlink(missing_ok=True)

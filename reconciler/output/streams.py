"""Standard output and standard error: a closed pipe, a full disk or a locale without the character never ends a command.

Called by ``cli.main`` (``prepare``, ``settle``), ``log`` and ``console``. State: the process's own two streams.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TextIO

CLOSED = {errno.EPIPE, errno.EBADF}


def prepare() -> None:
    """Open /dev/null in place of standard descriptors that are closed; replace characters that the locale can't encode."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - a descriptor, open while the process runs
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.errors == "strict" or not is_unicode(stream)):
            stream.reconfigure(errors="replace")


def settle() -> None:
    """Write out what is still buffered, or drop it: Python must not report it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            discard(stream)


def send(text: str, stream: TextIO) -> None:
    """Write one piece of text and a line break. A closed stream drops it; raises OSError for everything else, a full disk say."""
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except OSError as error:
        if error.errno not in CLOSED:
            raise
        discard(stream)


def discard(stream: TextIO) -> None:
    """Send to /dev/null what is buffered and what follows."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stream.fileno())
    except (OSError, ValueError):  # not a descriptor of the process
        return


def is_closed(stream: TextIO) -> bool:
    """Whether the other end of a pipe or socket is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(found & (select.POLLERR | select.POLLNVAL) for _, found in poll.poll(0))
    except (OSError, ValueError):
        return False


def is_unicode(stream: TextIO) -> bool:
    """Whether the stream can encode every character."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")

"""A process that has loaded what a builder needs, and forks one for each request: loading takes longer than most builds.

``process`` starts one for each invocation, and ``child.main`` calls ``serve``. It reads no layer and no volume; what it forks
confines itself before it sees the first byte. A request is one packet with a socket for the status, a pipe for the error output,
and what ``build`` (the builder's channel) or ``program`` (see ``checker``) needs. The forked process sends its pid on the socket
once it leads its session; the server sends the exit code, once that process and all that it may have started are gone.
State: the sockets of the processes that run. It ends with the process that started it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

from reconciler.image.builder import checker, libc
from reconciler.image.builder.protocol import NAME, Channel, Packet

MOST_DESCRIPTORS = 16
"""That come with a request."""


def serve(control: socket.socket, converse: Callable[[int], int]) -> int:
    """Fork until the other end of ``control`` is closed. ``converse`` does a builder's work, on a channel's descriptor."""
    requests = Channel(control, MOST_DESCRIPTORS)
    running: dict[int, int] = {}
    ended, wake = _wake_ups()
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    waiting.register(ended, select.POLLIN)
    while True:
        ready = dict(waiting.poll())
        if ended in ready:
            os.read(ended, 1 << 12)
            _reap(running)
        if control.fileno() not in ready:
            continue
        if (request := requests.receive()) is None:
            return 0
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            os._exit(_run(converse, request, (control.fileno(), ended, wake, *running.values())))
        running[pid], *others = request.fds
        for fd in others:
            os.close(fd)


def _wake_ups() -> tuple[int, int]:
    """A pipe that has something to read when a child has ended, whatever this process was about to do."""
    ended, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return ended, wake


def _reap(running: dict[int, int]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            with suppress(OSError):  # before its pid can be another one's: whatever it has started goes with it
                os.killpg(ended.si_pid, signal.SIGKILL)
            status = os.waitpid(ended.si_pid, 0)[1]
            report(running.pop(ended.si_pid), os.waitstatus_to_exitcode(status))


def report(status: int, code: int) -> None:
    with suppress(OSError):
        os.write(status, b"code %d" % code)
    os.close(status)


def _run(converse: Callable[[int], int], request: Packet, foreign: Iterable[int]) -> int:
    status, errors, *fds = request.fds
    try:
        for fd in foreign:
            os.close(fd)
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(errors, 2)
        os.close(errors)
        if not _wanted(status):
            return 1
        if request.kind == "program":
            checker.become(request.body, fds)
        libc.set_name(NAME)
        return converse(fds[0])
    except BaseException as error:
        sys.__excepthook__(type(error), error, error.__traceback__)  # of Python's core: no module can be loaded any more
        return 1


def _wanted(status: int) -> bool:
    """Send this process's pid; False where the request was given up."""
    try:
        os.write(status, b"pid %d" % os.getpid())
    except BrokenPipeError:
        return False
    finally:
        os.close(status)
    return True

"""Becomes a program of the host that reads a volume, confined.

Called by ``fork_server``, in a process of its own, for ``image.e2fsck``: the volume's bytes come from a process that a layer may
have taken over, and e2fsck parses them. A measure that this host does not allow is left out, unless the host's policy requires
it: then the program is not executed. No state.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from reconciler.image.builder.confine import confine_program
from reconciler.image.builder.measures import NOT_EXECUTED, gaps

CPU_SECONDS = 1800


def become(body: Mapping[str, Any], fds: Sequence[int]) -> NoReturn:
    """Execute ``program`` with ``fds``: the first is its standard output, the others get the numbers that ``numbers`` names.

    Where a measure is missing that is ``required``, or there is no program, print the measures (JSON) instead.
    """
    _arrange(fds, (1, *body["numbers"]))
    measures = {one.name: one.missing for one in confine_program(body["subject"], CPU_SECONDS)}
    if not body["program"] or (body["required"] and any(gap.required for gap in gaps(measures))):
        os.write(1, json.dumps(measures).encode())
        os._exit(NOT_EXECUTED)
    os.execv(body["program"][0], body["program"])  # noqa: S606 - its arguments are the parent's


def _arrange(fds: Sequence[int], numbers: Sequence[int]) -> None:
    """Give each descriptor its number; a number may be that of another one of them."""
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(numbers) + 1) for fd in fds]
    for fd in fds:
        os.close(fd)
    for fd, number in zip(moved, numbers, strict=True):
        os.dup2(fd, number)

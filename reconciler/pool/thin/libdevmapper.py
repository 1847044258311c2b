"""The shared library libdevmapper, loaded once in a process: its functions' types, its structures, and the errors that it logs.

Called by ``pool.thin.devmapper``, which holds the lock that the library needs. State: the loaded library, and the complaints of
the task that runs. Interface: libdm/libdevmapper.h in LVM2.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any

from reconciler.errors import HostCannot

LIBRARIES = ("libdevmapper.so.1.02.1", "libdevmapper.so.1.02")
"""Debian and its children, and everybody else."""

NO_MANGLING = 0
"""DM_STRING_MANGLING_NONE: names are the kernel's, whatever characters they have."""

complaints: list[str] = []
"""The errors that the library has logged during the current task."""


class Info(ctypes.Structure):
    """struct dm_info, as of symbol version DM_1_02_97."""

    NAMES = "exists suspended live_table inactive_table open_count event_nr major minor read_only target_count deferred internal"
    _fields_ = tuple((name, c_uint32) for name in NAMES.split())


LogFunction = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_int, c_int, c_char_p)
"""Its variable arguments are left where they are: a callback from C can't have any."""

Task, Words = c_void_p, POINTER(c_char_p)
PROTOTYPES: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "dm_log_with_errno_init": (None, (LogFunction,)),
    "dm_set_name_mangling_mode": (c_int, (c_int,)),
    "dm_udev_get_sync_support": (c_int, ()),
    "dm_udev_set_sync_support": (None, (c_int,)),
    "dm_udev_complete": (c_int, (c_uint32,)),
    "dm_udev_wait": (c_int, (c_uint32,)),
    "dm_udev_wait_immediate": (c_int, (c_uint32, POINTER(c_int))),
    "dm_task_create": (Task, (c_int,)),
    "dm_task_destroy": (None, (Task,)),
    "dm_task_run": (c_int, (Task,)),
    "dm_task_get_errno": (c_int, (Task,)),
    "dm_task_set_name": (c_int, (Task, c_char_p)),
    "dm_task_set_uuid": (c_int, (Task, c_char_p)),
    "dm_task_set_newuuid": (c_int, (Task, c_char_p)),
    "dm_task_set_newname": (c_int, (Task, c_char_p)),
    "dm_task_set_ro": (c_int, (Task,)),
    "dm_task_set_sector": (c_int, (Task, c_uint64)),
    "dm_task_set_message": (c_int, (Task, c_char_p)),
    "dm_task_set_cookie": (c_int, (Task, POINTER(c_uint32), c_uint16)),
    "dm_task_no_flush": (c_int, (Task,)),
    "dm_task_skip_lockfs": (c_int, (Task,)),
    "dm_task_add_target": (c_int, (Task, c_uint64, c_uint64, c_char_p, c_char_p)),
    "dm_task_get_info": (c_int, (Task, POINTER(Info))),
    "dm_task_get_name": (c_char_p, (Task,)),
    "dm_task_get_uuid": (c_char_p, (Task,)),
    "dm_task_get_driver_version": (c_int, (Task, c_char_p, c_size_t)),
    "dm_task_get_names": (c_void_p, (Task,)),
    "dm_task_get_versions": (c_void_p, (Task,)),
    "dm_get_next_target": (c_void_p, (Task, c_void_p, POINTER(c_uint64), POINTER(c_uint64), Words, Words)),
}
"""What is used of the library: the result, and the arguments."""

BLOCKING = ("dm_task_run", "dm_udev_wait", "dm_udev_wait_immediate")
"""What waits for the kernel or for udev, and lets other threads of Python run meanwhile. All else returns in a microsecond, and
would lose more time by handing over to another thread and back."""


@cache
def library() -> ctypes.CDLL:
    """Loaded and set up once in a process. Raises HostCannot."""
    library, waiting = _load()
    try:
        for name, (result, arguments) in PROTOTYPES.items():
            function = getattr(waiting if name in BLOCKING else library, name)
            function.restype, function.argtypes = result, arguments
            setattr(library, name, function)
    except AttributeError as error:
        hint = "install libdevmapper 1.02.124 or later"
        raise HostCannot(f"the library libdevmapper is too old: {error}", hint=hint) from error
    library.dm_log_with_errno_init(_ON_LOG)
    atexit.register(library.dm_log_with_errno_init, LogFunction())  # it may log after Python is gone
    library.dm_set_name_mangling_mode(NO_MANGLING)
    return library


def _load() -> tuple[ctypes.PyDLL, ctypes.CDLL]:
    for name in LIBRARIES:
        with suppress(OSError):
            return ctypes.PyDLL(name), ctypes.CDLL(name)
    hint = "install it: Debian's package libdevmapper1.02.1, Fedora's device-mapper-libs"
    raise HostCannot("thin pools need the library libdevmapper, and it is not installed", hint=hint)


def _on_log(level: int, file: bytes, line: int, number: int, text: bytes) -> None:
    """Collect the library's errors and drop its other messages; neither goes to standard error. Placeholders stay empty."""
    if level & 7 <= 3:  # syslog's LOG_ERR, under flags
        complaints.append(re.sub(r"%[-.0-9]*(?:ll|l|h|z)?[a-z]", "…", text_of(text)))


_ON_LOG = LogFunction(_on_log)
"""Lives as long as the library may call it."""


def entries(at: int | None, next_at: int) -> Iterator[int]:
    """The address of each entry of a list of the kernel's; ``next_at`` is where an entry has the step to the next, or 0."""
    while at:
        yield at
        step = c_uint32.from_address(at + next_at).value
        at = at + step if step else None


def string(at: int) -> str:
    return text_of(ctypes.string_at(at))


def text_of(value: bytes | None) -> str:
    return os.fsdecode(value or b"")

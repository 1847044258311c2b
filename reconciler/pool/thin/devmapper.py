"""The kernel's device-mapper, through libdevmapper (the library under dmsetup): one method a task, errors by errno.

Called by ``pool.thin`` and its rooms. Keeps no state but a count of its calls; what there is, is asked of the kernel each time.

The library is not thread-safe and keeps a list of device nodes to make, so one lock for the whole process is held from a task's
beginning until its node is there. A call that blocks in the kernel (a suspend that flushes) makes the others wait.

**udev.** Where udev runs, a task that makes or removes a node carries a cookie, a semaphore that udev's rules count down, and is
done when they are; udev that does not answer in time is not asked again by this process. Wherever it has not done its part, and
where there is none (a container, ``DM_DISABLE_UDEV=1``), the library makes the nodes. Rules beyond those that name the node are
turned off for every device made here: they would open it (a removal right afterwards meets EBUSY), and would offer what a
microVM's owner wrote as labels and UUIDs to the host under /dev/disk.

The library opens /dev/mapper/control without close-on-exec: programs are started by ``process`` only, which passes no file
descriptor on that it was not told to.

Interface: libdm/libdevmapper.h in LVM2; errnos: drivers/md/dm-ioctl.c, drivers/md/dm-thin.c.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ctypes import POINTER, byref, c_char_p, c_int, c_uint16, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any

from reconciler.errors import HostCannot
from reconciler.pool.thin.devices import Device, DmError, Listed, Target, no_kernel, require_control

__all__ = ["Device", "DeviceMapper", "DmError", "Listed", "Target"]

LIBRARIES = ("libdevmapper.so.1.02.1", "libdevmapper.so.1.02")
"""Debian and its children, and everybody else."""

UDEV_SECONDS = 30.0
"""How long udev may take over one device. Its own workers are killed after three minutes."""

NAME_BYTES, UUID_BYTES = 127, 128
"""The longest that the kernel takes (DM_NAME_LEN and DM_UUID_LEN count a closing zero byte; DM_UUID_LEN is 129)."""

TASKS = ("create", "load", "remove", "remove_all", "suspend", "resume", "info", "deps", "rename", "version", "status", "table",
         "wait", "list", "clear", "mknodes", "versions", "message")  # fmt: skip
"""In the order of the library's enum of DM_DEVICE_…"""

ANNOUNCED = frozenset({"resume", "remove", "rename"})
"""The tasks that the kernel tells udev about."""

QUIET = 0x0002 | 0x0004 | 0x0008
"""DM_UDEV_DISABLE_SUBSYSTEM_RULES, _DISK_RULES and _OTHER_RULES. The node's own rules stay on."""

NO_MANGLING = 0
"""DM_STRING_MANGLING_NONE: names are the kernel's, whatever characters they have."""

_LOCK = threading.Lock()
_complaints: list[str] = []
"""What the library has complained of during the task that holds the lock."""


class _Info(ctypes.Structure):
    """struct dm_info, as of symbol version DM_1_02_97."""

    NAMES = "exists suspended live_table inactive_table open_count event_nr major minor read_only target_count deferred internal"
    _fields_ = tuple((name, c_uint32) for name in NAMES.split())


_LogFunction = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_int, c_int, c_char_p)
"""Its variable arguments are left where they are: a callback from C can't have any."""

_Task, _Words = c_void_p, POINTER(c_char_p)
PROTOTYPES: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "dm_log_with_errno_init": (None, (_LogFunction,)),
    "dm_set_name_mangling_mode": (c_int, (c_int,)),
    "dm_udev_get_sync_support": (c_int, ()),
    "dm_udev_set_sync_support": (None, (c_int,)),
    "dm_udev_complete": (c_int, (c_uint32,)),
    "dm_udev_wait": (c_int, (c_uint32,)),
    "dm_udev_wait_immediate": (c_int, (c_uint32, POINTER(c_int))),
    "dm_task_create": (_Task, (c_int,)),
    "dm_task_destroy": (None, (_Task,)),
    "dm_task_run": (c_int, (_Task,)),
    "dm_task_get_errno": (c_int, (_Task,)),
    "dm_task_set_name": (c_int, (_Task, c_char_p)),
    "dm_task_set_uuid": (c_int, (_Task, c_char_p)),
    "dm_task_set_newname": (c_int, (_Task, c_char_p)),
    "dm_task_set_ro": (c_int, (_Task,)),
    "dm_task_set_sector": (c_int, (_Task, c_uint64)),
    "dm_task_set_message": (c_int, (_Task, c_char_p)),
    "dm_task_set_cookie": (c_int, (_Task, POINTER(c_uint32), c_uint16)),
    "dm_task_no_flush": (c_int, (_Task,)),
    "dm_task_skip_lockfs": (c_int, (_Task,)),
    "dm_task_add_target": (c_int, (_Task, c_uint64, c_uint64, c_char_p, c_char_p)),
    "dm_task_get_info": (c_int, (_Task, POINTER(_Info))),
    "dm_task_get_name": (c_char_p, (_Task,)),
    "dm_task_get_uuid": (c_char_p, (_Task,)),
    "dm_task_get_deps": (c_void_p, (_Task,)),
    "dm_task_get_names": (c_void_p, (_Task,)),
    "dm_task_get_versions": (c_void_p, (_Task,)),
    "dm_get_next_target": (c_void_p, (_Task, c_void_p, POINTER(c_uint64), POINTER(c_uint64), _Words, _Words)),
}
"""What is used of the library: the result, and the arguments."""

Setting = tuple[Any, ...]
"""A call that completes a task before it runs: the function's name without ``dm_task_``, and its further arguments."""


class DeviceMapper:
    """All methods raise DmError: ENXIO where there is no such device, EPERM or EACCES without the right to."""

    def __init__(self, library: ctypes.CDLL, udev_seconds: float = UDEV_SECONDS) -> None:
        self._lib = library
        self._udev_seconds = udev_seconds
        self.ioctls = 0
        """How many calls of the kernel's device-mapper have been made."""

    @classmethod
    def open(cls, udev_seconds: float = UDEV_SECONDS) -> DeviceMapper:
        """Raises HostCannot where device-mapper can't be used here, with what to do."""
        require_control()
        mapper = cls(_library(), udev_seconds)
        try:
            with mapper._done("version", ""):
                return mapper
        except DmError as error:
            raise no_kernel(error) from error

    # -------------------------------------------------------------------------------------------------- looking

    def targets(self) -> dict[str, tuple[int, int, int]]:
        """Versions of the kinds of target that the kernel has loaded; it loads others when a table asks for them."""
        with self._done("versions", "") as task:
            found = {}
            for entry in _chain(self._lib.dm_task_get_versions(task), 0):
                major, minor, patch = (c_uint32 * 3).from_address(entry + 4)
                found[_string(entry + 16)] = (major, minor, patch)
            return found

    def devices(self) -> tuple[Listed, ...]:
        """Every mapping of this kernel, whoever made it: one call."""
        with self._done("list", "") as task:
            found = []
            for entry in _chain(self._lib.dm_task_get_names(task), 8):
                number = c_uint64.from_address(entry).value
                if number:  # an empty list is one entry without a device
                    found.append(Listed(_string(entry + 12), os.major(number), os.minor(number)))
            return tuple(found)

    def info(self, name: str) -> Device | None:
        return self._info(name, ("set_name", _checked(name, "info", NAME_BYTES)))

    def by_uuid(self, uuid: str) -> Device | None:
        return self._info(uuid, ("set_uuid", _checked(uuid, "info", UUID_BYTES)))

    def _info(self, what: str, by: Setting) -> Device | None:
        with self._done("info", what, by) as task:
            return self._device(task)

    def status(self, name: str) -> tuple[Target, ...]:
        """Of each target, as it is now: a thin pool is not made to write anything out for it."""
        with self._done("status", name, _named(name, "status"), ("no_flush",)) as task:
            if self._device(task) is None:  # the library takes ENXIO for an answer here
                raise DmError(errno.ENXIO, "status", name)
            return tuple(self._targets(task))

    def table(self, name: str) -> tuple[Target, ...]:
        with self._done("table", name, _named(name, "table")) as task:
            return tuple(self._targets(task))

    def deps(self, name: str) -> tuple[tuple[int, int], ...]:
        """(major, minor) of each device that the live table stands on."""
        with self._done("deps", name, _named(name, "deps")) as task:
            at = self._lib.dm_task_get_deps(task)
            numbers = (c_uint64 * c_uint32.from_address(at).value).from_address(at + 8) if at else ()
            return tuple((os.major(number), os.minor(number)) for number in numbers)

    # ------------------------------------------------------------------------------------------------- changing

    def create(self, name: str, uuid: str, targets: Sequence[Target], *, read_only: bool = False) -> Device:
        """A new active device, its node included. EBUSY where the name or the UUID is taken.

        The library could do all three steps in one task, but loses the errno of one that fails. What fails is undone here.
        """
        with self._done("create", name, _named(name, "create"), ("set_uuid", _checked(uuid, "create", UUID_BYTES))):
            pass
        try:
            self.load(name, targets, read_only=read_only)
            with self._done("resume", name, _named(name, "resume")) as task:
                made = self._device(task, name, uuid)
        except BaseException as error:
            self._undo(name, error)
            raise
        if made is None:
            raise DmError(errno.ENXIO, "resume", name)
        return made

    def _undo(self, name: str, because: BaseException) -> None:
        try:
            self.remove(name)
        except DmError as error:
            because.add_note(f"and what was begun could not be undone: {error}")

    def load(self, name: str, targets: Sequence[Target], *, read_only: bool = False) -> None:
        """Give a device the table that it has after the next ``resume``. Why one is refused (EINVAL) is in the kernel's log."""
        rows = [("add_target", one.start, one.length, one.kind.encode(), one.params.encode()) for one in targets]
        with self._done("load", name, _named(name, "load"), *([("set_ro",)] if read_only else ()), *rows):
            pass

    def suspend(self, name: str, *, flush: bool = True, lockfs: bool = True) -> None:
        """Hold back all I/O, after what is under way (``flush``) and with a mounted file system frozen (``lockfs``)."""
        settings = [setting for wanted, setting in ((flush, "no_flush"), (lockfs, "skip_lockfs")) if not wanted]
        with self._done("suspend", name, _named(name, "suspend"), *((setting,) for setting in settings)):
            pass

    def resume(self, name: str) -> None:
        """Let I/O through, with the table that was loaded last.

        Where a thin pool refuses that table (EINVAL: its data would shrink), it stays suspended until one that fits is loaded and
        resumed: the former table is gone.
        """
        with self._done("resume", name, _named(name, "resume")):
            pass

    def remove(self, name: str) -> None:
        """Take a device and its node away. EBUSY where something holds it: never forced, never put off."""
        with self._done("remove", name, _named(name, "remove")):
            pass

    def rename(self, name: str, new: str) -> None:
        """Give a device another name, in use or not. EBUSY where that is taken."""
        with self._done("rename", name, _named(name, "rename"), ("set_newname", _checked(new, "rename", NAME_BYTES))):
            pass

    def message(self, name: str, text: str, sector: int = 0) -> None:
        """Tell the target at ``sector`` something."""
        try:
            with self._done("message", name, _named(name, "message"), ("set_sector", sector), ("set_message", text.encode())):
                pass
        except DmError as error:
            error.detail = error.detail or text
            raise

    # ---------------------------------------------------------------------------------------------------- tasks

    @contextmanager
    def _done(self, what: str, device: str, *settings: Setting) -> Iterator[int]:
        """A task that has run, for as long as its answer is read. A signal that interrupted it in the kernel starts it again."""
        with _LOCK:
            while True:
                _complaints.clear()
                task: int | None = self._lib.dm_task_create(TASKS.index(what))
                if not task:
                    raise DmError(errno.EIO, what, device, "; ".join(_complaints))
                try:
                    if self._run(task, what, settings):
                        yield task
                        return
                    code: int = self._lib.dm_task_get_errno(task)
                    if code != errno.EINTR:
                        detail = "" if code else "; ".join(_complaints)
                        raise DmError(code or errno.EIO, what, device, detail)
                finally:
                    self._lib.dm_task_destroy(task)

    def _run(self, task: int, what: str, settings: Sequence[Setting]) -> bool:
        cookie = c_uint32(0)
        if what in ANNOUNCED:
            settings = (*settings, ("set_cookie", byref(cookie), QUIET))
        try:
            if not all(getattr(self._lib, f"dm_task_{function}")(task, *more) for function, *more in settings):
                return False
            self.ioctls += 1
            return bool(self._lib.dm_task_run(task))
        finally:
            if what in ANNOUNCED:
                self._settle(cookie.value)

    def _settle(self, cookie: int) -> None:
        """Wait for udev, then have the library make or remove whatever nodes are not as they should be."""
        if not cookie:  # no udev: nothing to wait for
            self._lib.dm_udev_wait(0)
            return
        until, pause, ready = time.monotonic() + self._udev_seconds, 0.001, c_int(0)
        try:
            while self._lib.dm_udev_wait_immediate(cookie, byref(ready)) and not ready.value:
                if time.monotonic() > until:
                    self._lib.dm_udev_set_sync_support(0)
                    break
                time.sleep(pause)
                pause = min(2 * pause, 0.02)
        finally:
            if not ready.value:
                self._give_up(cookie)

    def _give_up(self, cookie: int) -> None:
        """Count the semaphore down ourselves, so that none is left behind. udev may do so in the same moment: no harm."""
        support = self._lib.dm_udev_get_sync_support()
        self._lib.dm_udev_set_sync_support(1)  # else these two do nothing
        self._lib.dm_udev_complete(cookie)
        self._lib.dm_udev_wait(cookie)
        self._lib.dm_udev_set_sync_support(support)

    def _device(self, task: int, name: str = "", uuid: str = "") -> Device | None:
        """From the task's answer; the kernel repeats name and UUID in some answers only."""
        info = _Info()
        if not self._lib.dm_task_get_info(task, byref(info)) or not info.exists:
            return None
        return Device(
            name or _text(self._lib.dm_task_get_name(task)),
            uuid or _text(self._lib.dm_task_get_uuid(task)),
            info.major,
            info.minor,
            info.open_count,
            bool(info.suspended),
            bool(info.read_only),
            bool(info.live_table),
            info.event_nr,
        )

    def _targets(self, task: int) -> Iterator[Target]:
        after, start, length, kind, params = None, c_uint64(), c_uint64(), c_char_p(), c_char_p()
        while True:
            after = self._lib.dm_get_next_target(task, after, byref(start), byref(length), byref(kind), byref(params))
            if kind.value is not None:
                yield Target(start.value, length.value, _text(kind.value), _text(params.value).rstrip(" "))
            if not after:
                return


# ------------------------------------------------------------------------------------------------------- the library


@cache
def _library() -> ctypes.CDLL:
    """Loaded and set up once in a process. Raises HostCannot."""
    library = _load()
    try:
        for name, (result, arguments) in PROTOTYPES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        hint = "install libdevmapper 1.02.124 or later"
        raise HostCannot(f"the library libdevmapper is too old: {error}", hint=hint) from error
    library.dm_log_with_errno_init(_HEAR)
    atexit.register(library.dm_log_with_errno_init, _LogFunction())  # it may log after Python is gone
    library.dm_set_name_mangling_mode(NO_MANGLING)
    return library


def _load() -> ctypes.CDLL:
    for name in LIBRARIES:
        with suppress(OSError):
            return ctypes.CDLL(name)
    hint = "install it: Debian's package libdevmapper1.02.1, Fedora's device-mapper-libs"
    raise HostCannot("thin pools need the library libdevmapper, and it is not installed", hint=hint)


def _hear(level: int, file: bytes, line: int, number: int, text: bytes) -> None:
    """Keep the library's errors, and nothing of what else it says, from standard error. Placeholders stay empty."""
    if level & 7 <= 3:  # syslog's LOG_ERR, under flags
        _complaints.append(re.sub(r"%[-.0-9]*(?:ll|l|h|z)?[a-z]", "…", _text(text)))


_HEAR = _LogFunction(_hear)
"""Lives as long as the library may call it."""


def _named(name: str, task: str) -> Setting:
    return "set_name", _checked(name, task, NAME_BYTES)


def _checked(name: str, task: str, most: int) -> bytes:
    """The library would cut a name off at a zero byte, and take one with a slash for a path."""
    encoded = os.fsencode(name)
    if len(encoded) > most:
        raise DmError(errno.ENAMETOOLONG, task, name)
    if not encoded or b"\0" in encoded or b"/" in encoded:
        raise DmError(errno.EINVAL, task, name)
    return encoded


def _chain(at: int | None, next_at: int) -> Iterator[int]:
    """The address of each entry of a list of the kernel's; ``next_at`` is where an entry has the step to the next, or 0."""
    while at:
        yield at
        step = c_uint32.from_address(at + next_at).value
        at = at + step if step else None


def _string(at: int) -> str:
    return _text(ctypes.string_at(at))


def _text(value: bytes | None) -> str:
    return os.fsdecode(value or b"")

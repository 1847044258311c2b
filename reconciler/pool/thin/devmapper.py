"""The kernel's device-mapper, through libdevmapper (the library under dmsetup): one method a task, errors by errno.

Called by ``pool.thin``. State: a count of its calls; everything else is read from the kernel each time.

The library is not thread-safe and keeps a list of device nodes to make, so one lock for the whole process is held from a task's
beginning until its node is there. A call that blocks in the kernel (a suspend that flushes) makes the others wait.

**udev.** Where udev runs, a task that makes or removes a node carries a cookie, a semaphore that udev's rules count down, and is
done when they are; after a timeout this process does not wait for udev again. If udev has not done its part, or does not run
(a container, ``DM_DISABLE_UDEV=1``), the library creates the nodes. Rules beyond those that name the node are
turned off for every device created here: they would open it (a removal right afterwards fails with EBUSY), and would publish
labels and UUIDs that a guest wrote under /dev/disk of the host.

The library opens /dev/mapper/control without close-on-exec: programs are started by ``process`` only, which passes no
other file descriptors on.

Interface: libdm/libdevmapper.h in LVM2; errnos: drivers/md/dm-ioctl.c, drivers/md/dm-thin.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_uint32, c_uint64
from typing import Any

from reconciler.pool.thin.devices import Device, DmError, Listed, Target, no_kernel, require_control
from reconciler.pool.thin.libdevmapper import Info, complaints, entries, library, string, text_of

__all__ = ["Device", "DeviceMapper", "DmError", "Listed", "Target"]

UDEV_SECONDS = 30.0
"""How long udev may process one device. Its own workers are killed after three minutes."""

NAME_BYTES, UUID_BYTES = 127, 128
"""The longest that the kernel takes (DM_NAME_LEN and DM_UUID_LEN count a closing zero byte; DM_UUID_LEN is 129)."""

TASKS = ("create", "load", "remove", "remove_all", "suspend", "resume", "info", "deps", "rename", "version", "status", "table",
         "wait", "list", "clear", "mknodes", "versions", "message")  # fmt: skip
"""In the order of the library's enum of DM_DEVICE_…"""

ANNOUNCED = frozenset({"resume", "remove", "rename"})
"""The tasks that cause a udev event."""

QUIET = 0x0002 | 0x0004 | 0x0008
"""DM_UDEV_DISABLE_SUBSYSTEM_RULES, _DISK_RULES and _OTHER_RULES. The node's own rules stay on."""

LISTS_UUIDS = (4, 45)
"""The version of the kernel's interface from which its list of devices has their UUIDs."""

HAS_UUID, HAS_NO_UUID = 1, 2
"""DM_NAME_LIST_FLAG_HAS_UUID, DM_NAME_LIST_FLAG_DOESNT_HAVE_UUID."""

_LOCK = threading.RLock()

Setting = tuple[Any, ...]
"""A call that completes a task before it runs: the function's name without ``dm_task_``, and its further arguments."""


class DeviceMapper:
    """All methods raise DmError: ENXIO where there is no such device, EPERM or EACCES without the right to."""

    def __init__(self, library: ctypes.CDLL, udev_seconds: float = UDEV_SECONDS) -> None:
        self._lib = library
        self._udev_seconds = udev_seconds
        self._lists_uuids = False
        self._shared: c_uint32 | None = None
        """The cookie of the tasks within ``one_wait``."""
        self.ioctls = 0
        """How many calls of the kernel's device-mapper have been made."""

    @classmethod
    def open(cls, udev_seconds: float = UDEV_SECONDS) -> DeviceMapper:
        """Raises HostCannot where device-mapper can't be used here, with what to do."""
        require_control()
        mapper = cls(library(), udev_seconds)
        try:
            with mapper._done("version", "") as task:
                mapper._lists_uuids = _driver_version(mapper._lib, task) >= LISTS_UUIDS
                return mapper
        except DmError as error:
            raise no_kernel(error) from error

    # -------------------------------------------------------------------------------------------------- inspecting

    def targets(self) -> dict[str, tuple[int, int, int]]:
        """Versions of the kinds of target that the kernel has loaded; it loads others when a table asks for them."""
        with self._done("versions", "") as task:
            found = {}
            for entry in entries(self._lib.dm_task_get_versions(task), 0):
                major, minor, patch = (c_uint32 * 3).from_address(entry + 4)
                found[string(entry + 16)] = (major, minor, patch)
            return found

    def devices(self) -> tuple[Listed, ...]:
        """Every mapping of this kernel: one call."""
        with self._done("list", "", ("set_newuuid", b" ")) as task:  # a new UUID sets DM_UUID_FLAG: the list has UUIDs then
            found = []
            for entry in entries(self._lib.dm_task_get_names(task), 8):
                number = c_uint64.from_address(entry).value
                if number:  # an empty list is one entry without a device
                    found.append(self._listed(entry, number))
            return tuple(found)

    def _listed(self, entry: int, number: int) -> Listed:
        """From struct dm_name_list (linux/dm-ioctl.h): number, next, name; then, aligned, event, flags, UUID."""
        name = ctypes.string_at(entry + 12)
        more = _aligned(entry + 12 + len(name) + 1)
        if not self._lists_uuids:
            return Listed(text_of(name), os.major(number), os.minor(number))
        event, flags = (c_uint32 * 2).from_address(more)
        uuid = string(_aligned(more + 8)) if flags & HAS_UUID else "" if flags & HAS_NO_UUID else None
        return Listed(text_of(name), os.major(number), os.minor(number), uuid, event)

    def info(self, name: str) -> Device | None:
        return self._info(name, ("set_name", _checked(name, "info", NAME_BYTES)))

    def by_uuid(self, uuid: str) -> Device | None:
        return self._info(uuid, ("set_uuid", _checked(uuid, "info", UUID_BYTES)))

    def _info(self, what: str, by: Setting) -> Device | None:
        with self._done("info", what, by) as task:
            return self._device(task)

    def status(self, name: str) -> tuple[Target, ...]:
        """The status of each target now; a thin pool is not flushed for it."""
        with self._done("status", name, _named(name, "status"), ("no_flush",)) as task:
            if self._device(task) is None:  # the library takes ENXIO for an answer here
                raise DmError(errno.ENXIO, "status", name)
            return tuple(self._targets(task))

    def table(self, name: str) -> tuple[Target, ...]:
        with self._done("table", name, _named(name, "table")) as task:
            return tuple(self._targets(task))

    # ------------------------------------------------------------------------------------------------- changing

    @contextmanager
    def one_wait(self) -> Iterator[None]:
        """Wait for udev once for all tasks within the context: their nodes exist at its end. Other threads wait meanwhile."""
        with _LOCK:
            cookie = self._shared = c_uint32(0)
            try:
                yield
            finally:
                self._shared = None
                self._settle(cookie.value)

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
            because.add_note(f"and the new device could not be removed: {error}")

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
        """Remove a device and its node. EBUSY if something holds it: never forced, never deferred."""
        with self._done("remove", name, _named(name, "remove")):
            pass

    def rename(self, name: str, new: str) -> None:
        """Give a device another name, in use or not. EBUSY where that is taken."""
        with self._done("rename", name, _named(name, "rename"), ("set_newname", _checked(new, "rename", NAME_BYTES))):
            pass

    def message(self, name: str, text: str, sector: int = 0) -> None:
        """Send a message to the target at ``sector``."""
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
                complaints.clear()
                task: int | None = self._lib.dm_task_create(TASKS.index(what))
                if not task:
                    raise DmError(errno.EIO, what, device, "; ".join(complaints))
                try:
                    if self._run(task, what, settings):
                        yield task
                        return
                    code: int = self._lib.dm_task_get_errno(task)
                    if code != errno.EINTR:
                        detail = "" if code else "; ".join(complaints)
                        raise DmError(code or errno.EIO, what, device, detail)
                finally:
                    self._lib.dm_task_destroy(task)

    def _run(self, task: int, what: str, settings: Sequence[Setting]) -> bool:
        cookie = c_uint32(0) if self._shared is None else self._shared
        if what in ANNOUNCED:
            settings = (*settings, ("set_cookie", byref(cookie), QUIET))
        try:
            if not all(getattr(self._lib, f"dm_task_{function}")(task, *more) for function, *more in settings):
                return False
            self.ioctls += 1
            return bool(self._lib.dm_task_run(task))
        finally:
            if what in ANNOUNCED and self._shared is None:
                self._settle(cookie.value)

    def _settle(self, cookie: int) -> None:
        """Wait for udev, then let the library create or remove the nodes that are still wrong."""
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
        info = Info()
        if not self._lib.dm_task_get_info(task, byref(info)) or not info.exists:
            return None
        return Device(
            name or text_of(self._lib.dm_task_get_name(task)),
            uuid or text_of(self._lib.dm_task_get_uuid(task)),
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
                yield Target(start.value, length.value, text_of(kind.value), text_of(params.value).rstrip(" "))
            if not after:
                return


def _driver_version(library: ctypes.CDLL, task: int) -> tuple[int, ...]:
    text = ctypes.create_string_buffer(64)
    if not library.dm_task_get_driver_version(task, text, len(text)):
        return ()
    return tuple(int(number) for number in text_of(text.value).split(".") if number.isdigit())


def _aligned(address: int) -> int:
    return -(-address // 8) * 8


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

"""Calls of the C library that Python has no words for: what a process can give up for good, and holes.

Called by ``confine``, in the builder process, and by ``cli.build_output``. Raises OSError with the kernel's errno. Sources:
unshare(2), prctl(2), capset(2), fsopen(2), fallocate(2), landlock(7) with linux/landlock.h. No state.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import struct
from collections.abc import Sequence

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_SET_NO_NEW_PRIVS = 1, 4, 15, 38
_LINUX_CAPABILITY_VERSION_3 = 0x2008_0522

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same numbers on every architecture
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC, _FSCONFIG_CREATE = 1, 1, 6
_MOUNT_READ_ONLY_NOSUID_NODEV_NOEXEC = 0b1111
_LANDLOCK_CREATE, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT = 444, 445, 446  # the same numbers on every architecture
_LANDLOCK_VERSION_ONLY = 1
_PATH_BENEATH = 1
_EXECUTE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 2, 1 << 3
_PATH_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many rights on files a version of Landlock has: each is one bit, from the lowest on."""
_NET_SINCE, _NET_RIGHTS = 4, 0b11  # TCP: bind, connect
_SCOPE_SINCE, _SCOPES = 6, 0b11  # abstract UNIX sockets, signals

_KEEP_SIZE, _PUNCH_HOLE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


class _Capabilities(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces that the flags (``CLONE_NEW*``) name for new, empty ones."""
    _checked(_libc.unshare(flags))


def detached_tmpfs() -> int:
    """A descriptor of the root of a new, empty, read-only file system that no path leads to."""
    context = _checked(_libc.syscall(_FSOPEN, b"tmpfs", *_words(_FSOPEN_CLOEXEC)))
    try:
        _checked(_libc.syscall(_FSCONFIG, *_words(context, _FSCONFIG_CREATE), None, None, *_words(0)))
        return _checked(_libc.syscall(_FSMOUNT, *_words(context, _FSMOUNT_CLOEXEC, _MOUNT_READ_ONLY_NOSUID_NODEV_NOEXEC)))
    finally:
        os.close(context)


def drop_capabilities() -> None:
    """Give up every capability, those for later included: none is effective, permitted or inheritable."""
    header = _Capabilities(_LINUX_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))


def forbid_new_privileges() -> None:
    """No program that this process starts can have more than it has, setuid or not."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, *_words(1, 0, 0, 0)))


def set_name(name: str) -> None:
    """What ``ps`` and ``top`` show for this process: 15 bytes at most."""
    _checked(_libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()), *_words(0, 0, 0)))


def forbid_attaching() -> None:
    """No process of the same uid can trace this one, read its memory, or make it dump core."""
    _checked(_libc.prctl(_PR_SET_DUMPABLE, *_words(0, 0, 0, 0)))


def _words(*values: int) -> tuple[ctypes.c_ulong, ...]:
    return tuple(ctypes.c_ulong(value) for value in values)


def landlock_version() -> int:
    """Of this kernel's Landlock. Raises OSError where it has none."""
    return _checked(_libc.syscall(_LANDLOCK_CREATE, None, *_words(0, _LANDLOCK_VERSION_ONLY)))


def punch_hole(fd: int, start: int, length: int) -> None:
    """Deallocate a range of a file or block device, which reads as zeros then.

    The kernel's block layer refuses it (EOPNOTSUPP) for a device that does not guarantee that; a discard has no such guarantee.
    """
    call = getattr(_libc, "fallocate64", None) or _libc.fallocate
    _checked(call(fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_int64(start), ctypes.c_int64(length)))


def end_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends; programs that it becomes as well."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, *_words(signal.SIGKILL, 0, 0, 0)))


def be_killed_first() -> None:
    """The kernel ends this process before others when memory runs out, whatever this process was started with."""
    with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - pathlib is not loaded for it
        file.write("1000")


def landlock(readable: Sequence[str] = ()) -> int:
    """Forbid whatever Landlock can: every path, TCP, signals and abstract sockets beyond this process. Returns its version.

    Files and directories that are ``readable`` can be read and executed.
    """
    version = landlock_version()
    rights = max(count for since, count in _PATH_RIGHTS.items() if since <= version)
    ruleset = _Ruleset((1 << rights) - 1, _NET_RIGHTS if version >= _NET_SINCE else 0, _SCOPES if version >= _SCOPE_SINCE else 0)
    # Older kernels take a shorter structure, and a longer one where the rest is zeros.
    fd = _checked(_libc.syscall(_LANDLOCK_CREATE, ctypes.byref(ruleset), *_words(ctypes.sizeof(ruleset), 0)))
    try:
        for path in readable:
            _permit_reading(fd, path)
        _checked(_libc.syscall(_LANDLOCK_RESTRICT, *_words(fd, 0)))
    finally:
        os.close(fd)
    return version


def _permit_reading(ruleset: int, path: str) -> None:
    """A path that does not exist is passed over."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        beneath = struct.pack("=Qi", _READ_FILE | _EXECUTE | (_READ_DIRECTORY if directory else 0), fd)
        _checked(_libc.syscall(_LANDLOCK_ADD_RULE, *_words(ruleset, _PATH_BENEATH), beneath, *_words(0)))
    finally:
        os.close(fd)

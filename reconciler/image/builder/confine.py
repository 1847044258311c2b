"""What the builder process gives up before it reads the first hostile byte, and how much of that this host allows.

Called by ``builder``, once, while it has a single thread. What is left are the descriptors that it holds: a flaw in a parser can
then spoil the volume that it is building, and nothing else. Each measure is independent, so that one that a kernel, container
or user does not allow leaves the others in force; as root the first two must be in force. No state.
"""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.image.builder import libc, seccomp
from reconciler.image.spec import GIB

MEMORY = 6 * GIB
"""Bytes of address space: a tree of a million entries takes about 1 GiB."""

DESCRIPTORS = 64
PROCESSES = 4
"""The process itself, the thread that writes, and two to spare."""

NOBODY = 65534
PRIVATE_UIDS = 0x7000_0000
"""From here on to 2^31 no distribution assigns ids (systemd's UIDS-GIDS); a process's own is this plus its pid."""

INDEX_BYTES = 2 * GIB
"""Most bytes of a chain's index; a volume may be as long as it is declared."""


@dataclass(frozen=True, slots=True)
class Measure:
    """``missing``: why it is not in force; empty where it is."""

    name: str
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one build may need at most: ``file_bytes`` of the largest file that it writes, ``seconds`` of CPU."""

    file_bytes: int = INDEX_BYTES
    seconds: int = 600


def confine(bounds: Bounds) -> tuple[Measure, ...]:
    """Give up everything that can be given up. Raises OSError where root can't give up its paths or its uid."""
    return tuple(_measures(bounds))


def _measures(bounds: Bounds) -> Iterator[Measure]:
    root = os.geteuid() == 0
    nowhere = _deleted_directory()
    system_calls = _filter()
    try:
        yield _limited(bounds)
        spaces = _tried("namespaces", lambda: _leave_namespaces(root=root))
        yield spaces
        yield _tried("empty root directory", lambda: _enter(nowhere), must=root)
    finally:
        os.close(nowhere)
    if root:
        yield _tried("own uid", _become_somebody, must=True)
    else:
        yield Measure("own uid", "only root can take another; a reconciler that runs as root does")
    yield _tried("no capabilities", libc.drop_capabilities)
    yield _tried("no new privileges", libc.forbid_new_privileges)
    yield _tried("not attachable", libc.forbid_attaching)
    if root or not spaces.missing:
        yield _tried("no new processes", lambda: _limit(resource.RLIMIT_NPROC, PROCESSES))
    yield _tried("Landlock", libc.landlock)
    if isinstance(system_calls, seccomp.Filter):
        yield _tried("seccomp", system_calls.load)
    else:
        yield Measure("seccomp", system_calls)


def _tried(name: str, measure: Callable[[], object], *, must: bool = False) -> Measure:
    try:
        measure()
    except OSError as error:
        if must:
            raise
        return Measure(name, _reason(error))
    return Measure(name)


def _filter() -> seccomp.Filter | str:
    """To be loaded last, made first: libseccomp has a path. What is missing, where it can't be made."""
    try:
        return seccomp.prepare()
    except OSError as error:
        return f"libseccomp can't be used (Debian: install libseccomp2): {error}"


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOSYS | errno.EOPNOTSUPP | errno.EINVAL:
            return f"this kernel does not have it ({error.strerror})"
        case errno.EPERM | errno.EACCES | errno.ENOSPC | errno.EUSERS:
            return f"this host does not allow it ({error.strerror})"
    return str(error.strerror)


def _limited(bounds: Bounds) -> Measure:
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
    _limit(resource.RLIMIT_AS, MEMORY)
    _limit(resource.RLIMIT_FSIZE, max(bounds.file_bytes, INDEX_BYTES))
    _limit(resource.RLIMIT_CPU, bounds.seconds)
    return Measure("resource limits")


def _limit(which: int, value: int) -> None:
    """Where less than that is allowed already, it stays."""
    hard = resource.getrlimit(which)[1]
    chosen = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (chosen, chosen))


def _leave_namespaces(*, root: bool) -> None:
    """No network device but a loopback that is down, no shared memory of others; for users all in a user namespace of its own."""
    libc.unshare(libc.CLONE_NEWNET | libc.CLONE_NEWIPC | libc.CLONE_NEWUTS | (0 if root else libc.CLONE_NEWUSER))


def _deleted_directory() -> int:
    """A descriptor of an empty directory that has no path any more, so that nothing can ever be put into it."""
    nowhere = tempfile.mkdtemp(prefix="reconcile-builder-")
    fd = os.open(nowhere, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    Path(nowhere).rmdir()
    return fd


def _enter(nowhere: int) -> None:
    os.fchdir(nowhere)
    os.chroot(".")


def _become_somebody() -> None:
    """A uid of its own; in a container that maps no such ids, the overflow uid."""
    os.setgroups([])
    for number in (PRIVATE_UIDS + os.getpid(), NOBODY):
        try:
            os.setresgid(number, number, number)
            os.setresuid(number, number, number)
        except OSError as error:
            if number == NOBODY or error.errno != errno.EINVAL:
                raise
        else:
            return

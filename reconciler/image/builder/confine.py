"""What the builder process gives up before it reads the first hostile byte, and how much of that this host allows.

``confine`` is called by ``child``, once, while it has a single thread. What is left are the descriptors that it holds: a flaw in
a parser can then spoil the volume that it is building, and nothing else. Each measure is independent, so that one that a kernel,
container or user does not allow leaves the others in force. No state.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from reconciler.dataclass import dataclass
from reconciler.image.builder import libc, seccomp
from reconciler.image.builder.measures import NOT_IN_KERNEL, ONE_ID, ONLY_ROOT, OWN_UID, Measure

GIB = 1 << 30
MEMORY = 6 * GIB
"""Bytes of address space: a tree of a million entries takes about 1 GiB."""

DESCRIPTORS = 64
PROCESSES = 6
"""The process itself, the threads that write and hash, and some to spare: one that has ended counts for a moment."""

NOBODY = 65534
PRIVATE_UIDS = 0x7000_0000
"""From here on to 2^31 no distribution assigns ids (systemd's UIDS-GIDS); a process's own is this plus its pid."""

TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - for an empty directory

INDEX_BYTES = 2 * GIB
"""Most bytes of a chain's index; a volume may be as long as it is declared."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one build may need at most: ``file_bytes`` of the largest file that it writes, ``seconds`` of CPU."""

    file_bytes: int = INDEX_BYTES
    seconds: int = 600


def confine(bounds: Bounds) -> tuple[Measure, ...]:
    """Give up everything that can be given up. Raises OSError where root can't give up its paths or its uid."""
    return tuple(_measures(bounds))


PROGRAMS = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/e2fsck.conf",
)
"""What a program of the host needs to run."""


def confine_program(subject: str, seconds: int) -> tuple[Measure, ...]:
    """Give up all that a program of the host can do without that reads ``subject``, a file or device; it is executed next.

    What is left: its uid, which opens the subject; reading the subject and ``PROGRAMS``; the system calls of
    ``seccomp.prepare_for_program``. The host's file tree stays visible: names and sizes can be read.
    """
    return tuple(_program_measures(subject, seconds))


def _program_measures(subject: str, seconds: int) -> Iterator[Measure]:
    system_calls = _filter(seccomp.prepare_for_program)
    yield _tried("ends with its parent", libc.end_with_parent)
    yield _limited(Bounds(seconds=seconds))
    _limit(resource.RLIMIT_FSIZE, 0)
    root = os.geteuid() == 0 and not _maps_one_id()
    yield _tried("namespaces", lambda: _leave_namespaces(root=root))
    yield _tried("no capabilities", libc.drop_capabilities)
    yield _tried("no new privileges", libc.forbid_new_privileges)
    yield _tried("Landlock", lambda: libc.landlock((*PROGRAMS, subject, f"/proc/{os.getpid()}", "/proc/swaps")))
    yield _loaded(system_calls)


def _measures(bounds: Bounds) -> Iterator[Measure]:
    one_id = _maps_one_id()
    root = os.geteuid() == 0 and not one_id
    system_calls = _filter(seccomp.prepare)
    yield _limited(bounds)
    spaces = _tried("namespaces", lambda: _leave_namespaces(root=root))
    yield spaces
    yield _tried("empty root directory", _enter_nowhere, must=root)
    if root:
        yield _tried(OWN_UID, _become_somebody, must=True)
    else:
        yield Measure(OWN_UID, ONE_ID if one_id and os.geteuid() == 0 else ONLY_ROOT)
    yield _tried("no capabilities", libc.drop_capabilities)
    yield _tried("no new privileges", libc.forbid_new_privileges)
    yield _tried("not attachable", libc.forbid_attaching)
    if root or not spaces.missing:
        yield _tried("no new processes", lambda: _limit(resource.RLIMIT_NPROC, PROCESSES))
    yield _tried("Landlock", libc.landlock)
    yield _loaded(system_calls)


def _tried(name: str, measure: Callable[[], object], *, must: bool = False) -> Measure:
    try:
        measure()
    except OSError as error:
        if must:
            raise
        return Measure(name, _reason(error))
    return Measure(name)


def _filter(prepare: Callable[[], seccomp.Filter]) -> seccomp.Filter | str:
    """To be loaded last, made first: libseccomp has a path. What is missing, where it can't be made."""
    try:
        return prepare()
    except OSError as error:
        return f"libseccomp can't be used (Debian: install libseccomp2): {error}"


def _loaded(system_calls: seccomp.Filter | str) -> Measure:
    return Measure("seccomp", system_calls) if isinstance(system_calls, str) else _tried("seccomp", system_calls.load)


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOSYS | errno.EOPNOTSUPP | errno.EINVAL:
            return f"{NOT_IN_KERNEL} ({error.strerror})"
        case errno.EPERM | errno.EACCES | errno.ENOSPC | errno.EUSERS:
            return f"this host does not allow it ({error.strerror})"
    return str(error.strerror)


def _limited(bounds: Bounds) -> Measure:
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
    _limit(resource.RLIMIT_AS, MEMORY)
    _limit(resource.RLIMIT_FSIZE, max(bounds.file_bytes, INDEX_BYTES))
    _limit(resource.RLIMIT_CPU, bounds.seconds)
    with suppress(OSError):
        libc.be_killed_first()
    return Measure("resource limits")


def _limit(which: int, value: int) -> None:
    """Where less than that is allowed already, it stays."""
    hard = resource.getrlimit(which)[1]
    chosen = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (chosen, chosen))


def _leave_namespaces(*, root: bool) -> None:
    """No network device but a loopback that is down, no IPC and no mounts of others; for users in a user namespace of its own."""
    spaces = libc.CLONE_NEWNET | libc.CLONE_NEWIPC | libc.CLONE_NEWUTS | libc.CLONE_NEWNS
    libc.unshare(spaces | (0 if root else libc.CLONE_NEWUSER))


def _maps_one_id() -> bool:
    """Whether this user namespace has no second uid that root could take. False where it can't be read: taking one then fails."""
    try:
        counts = [int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except (OSError, ValueError, IndexError):
        return False
    return sum(counts) <= 1


def _enter_nowhere() -> None:
    """Make an empty directory that nothing can ever be put into the root directory."""
    nowhere = _empty_directory()
    try:
        os.fchdir(nowhere)
        os.chroot(".")
    finally:
        os.close(nowhere)


def _empty_directory() -> int:
    """A descriptor of a file system of its own that is mounted nowhere; where the kernel makes none, of a deleted directory."""
    try:
        return libc.detached_tmpfs()
    except OSError:
        nowhere = next(filter(None, map(_made, TEMPORARY)), None)
        if nowhere is None:
            raise
        fd = os.open(nowhere, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        nowhere.rmdir()
        return fd


def _made(parent: str) -> Path | None:
    """A new directory in one of these; without ``tempfile``, which takes as long to load as all the rest."""
    path = Path(parent, f"reconcile-builder-{os.urandom(8).hex()}")
    try:
        path.mkdir(0o700)
    except OSError:
        return None
    return path


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

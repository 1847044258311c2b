"""The system calls that are left to a builder, and to a program of the host that reads a volume: allow-lists.

Called by ``confine``, last of all. A builder keeps calls on descriptors that it holds, on its memory and on its own threads; all
else fails with EPERM, so that a flaw appears as an error of the layer. A program can also start once more, open files to read
them, and ask for its own ids and limits; all else fails with ENOSYS, at which a C library newer than these lists uses an older
call. The filter is made by libseccomp, which has the numbers of each architecture. No state.
"""

from __future__ import annotations

import ctypes
import errno
import os

_ALLOWED = """
    read write pread64 preadv preadv2 pwrite64 pwritev pwritev2 lseek close fstat fstatfs fsync fadvise64 recvmsg sendmsg
    brk munmap mremap madvise
    futex futex_time64 set_robust_list rseq sched_getaffinity clock_gettime clock_gettime64
    rt_sigaction rt_sigprocmask rt_sigreturn restart_syscall exit exit_group
    getpid gettid getrandom
"""
"""By name: those that Python, the C library and the builder make once confined. What an architecture lacks is passed over."""

_ALLOWED_TO_PROGRAM = """
    execve exit exit_group restart_syscall
    read readv write writev pread64 preadv lseek _llseek close fsync fadvise64 fadvise64_64 arm_fadvise64_64
    fstat fstat64 newfstatat stat stat64 lstat lstat64 fstatat64 statx access faccessat faccessat2 readlink readlinkat getcwd
    brk mmap mmap2 munmap mremap madvise
    arch_prctl set_tls set_tid_address set_robust_list rseq futex futex_time64
    clock_gettime clock_gettime64 clock_getres clock_getres_time64 gettimeofday time getrusage nanosleep clock_nanosleep
    rt_sigaction rt_sigprocmask rt_sigreturn sigreturn sigaltstack
    getuid geteuid getgid getegid getuid32 geteuid32 getgid32 getegid32 getpid getppid gettid getrandom uname sysinfo
    sched_getaffinity sched_yield membarrier
"""
"""Those of e2fsck 1.43 and later, and of what the C library does before ``main``."""

PROT_EXEC = 0x4
PR_GET_DUMPABLE = 3
O_ACCMODE, O_CREAT, O_TRUNC = 0x3, 0x40, 0x200
NO_FILE = 0xFFFF_FFFF
CLONE_THREAD = 0x0001_0000
AT_EMPTY_PATH = 0x1000
F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
IOCTLS = (0x5401, 0x125E, 0x1260, 0x1268, 0x80081272, 0x127A, 0x127B, 0x127C)
"""TCGETS, and what only describes a block device: BLKROGET, BLKGETSIZE, BLKSSZGET, BLKGETSIZE64, BLKALIGNOFF, BLKPBSZGET,
BLKDISCARDZEROES."""

_ALLOW = 0x7FFF_0000
_ERRNO = 0x0005_0000
_EQ, _MASKED_EQ = 4, 7
_NO_SUCH = -1


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """A filter in the making. Raises OSError where libseccomp is not installed or does not accept a rule."""

    def __init__(self, otherwise: int = errno.EPERM) -> None:
        """``otherwise`` is the errno of each call that no rule allows."""
        self._lib = ctypes.CDLL("libseccomp.so.2")
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._lib.seccomp_init.argtypes = (ctypes.c_uint32,)
        self._context = ctypes.c_void_p(self._lib.seccomp_init(_ERRNO | otherwise))
        if not self._context:
            raise OSError(errno.ENOMEM, "libseccomp can't make a filter")

    def allow(self, name: str, *comparisons: tuple[int, int, int, int]) -> None:
        """Allow a call, where comparisons are given only with such arguments: (number, operation, operands)."""
        self._add(_ALLOW, name, comparisons)

    def answer(self, name: str, code: int) -> None:
        """Have a call fail with this errno."""
        self._add(_ERRNO | code, name, ())

    def _add(self, action: int, name: str, comparisons: tuple[tuple[int, int, int, int], ...]) -> None:
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number == _NO_SUCH:
            return
        array = (_Comparison * len(comparisons))(*(_Comparison(*one) for one in comparisons))
        self._try(self._lib.seccomp_rule_add_array(self._context, ctypes.c_uint32(action), number, len(comparisons), array))

    def load(self) -> None:
        """From here on it holds, for this process and its threads to come. Raises OSError where the kernel has no seccomp."""
        self._try(self._lib.seccomp_load(self._context))

    def _try(self, result: int) -> None:
        if result < 0:
            raise OSError(-result, os.strerror(-result))


def prepare() -> Filter:
    """A builder's filter; to be called while libseccomp can still be found. Raises OSError where it is not installed."""
    chosen = Filter()
    for name in _ALLOWED.split():
        chosen.allow(name)
    for name in ("mmap", "mmap2"):
        chosen.allow(name, (2, _MASKED_EQ, PROT_EXEC, 0), (4, _MASKED_EQ, NO_FILE, NO_FILE))
    for command in (F_GETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC):
        chosen.allow("fcntl", (1, _EQ, command, 0))
    chosen.allow("newfstatat", (3, _MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH))
    chosen.answer("clone3", errno.ENOSYS)  # its flags lie in memory, where no filter can see them; the C library then uses clone
    _allow_threads(chosen)
    return chosen


def prepare_for_program() -> Filter:
    """The filter of a process that then becomes a program. A program that this one executes keeps it. Raises OSError."""
    chosen = Filter(errno.ENOSYS)
    for name in _ALLOWED_TO_PROGRAM.split():
        chosen.allow(name)
    for name, flags in (("open", 1), ("openat", 2)):
        chosen.allow(name, (flags, _MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, os.O_RDONLY))
    for name in ("fcntl", "fcntl64"):
        for command in (F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC):
            chosen.allow(name, (1, _EQ, command, 0))
    for request in IOCTLS:
        chosen.allow("ioctl", (1, _EQ, request, 0))
    chosen.allow("prctl", (0, _EQ, PR_GET_DUMPABLE, 0))
    chosen.allow("prlimit64", (0, _EQ, 0, 0), (2, _EQ, 0, 0))  # of itself, and sets nothing
    chosen.allow("kill", (0, _EQ, os.getpid(), 0))
    _allow_threads(chosen)
    return chosen


def _allow_threads(chosen: Filter) -> None:
    chosen.allow("mprotect", (2, _MASKED_EQ, PROT_EXEC, 0))
    chosen.allow("clone", (0, _MASKED_EQ, CLONE_THREAD, CLONE_THREAD))
    chosen.allow("tgkill", (0, _EQ, os.getpid(), 0))

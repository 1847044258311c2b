"""The system calls that are left to a builder: those on descriptors that it holds, on its memory and on its own threads.

Called by ``confine``, last of all. An allow-list; everything else fails with EPERM, so that a flaw appears as an error of the
layer. The filter is made by libseccomp, which has the numbers of each architecture. No state.
"""

from __future__ import annotations

import ctypes
import errno
import os

_ALLOWED = """
    read write pread64 pwrite64 lseek close fstat fstatfs fsync fadvise64 fallocate recvmsg sendmsg
    brk munmap mremap madvise
    futex futex_time64 set_robust_list rseq sched_getaffinity clock_gettime clock_gettime64
    rt_sigaction rt_sigprocmask rt_sigreturn restart_syscall exit exit_group
    getpid gettid getrandom
"""
"""By name: those that Python, the C library and the builder make once confined. What an architecture lacks is passed over."""

PROT_EXEC = 0x4
NO_FILE = 0xFFFF_FFFF
CLONE_THREAD = 0x0001_0000
AT_EMPTY_PATH = 0x1000
F_GETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC = 1, 3, 4, 1030

_ALLOW = 0x7FFF_0000
_ERRNO = 0x0005_0000
_EQ, _MASKED_EQ = 4, 7
_NO_SUCH = -1


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """A filter in the making. Raises OSError where libseccomp is not installed or does not accept a rule."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2")
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._lib.seccomp_init.argtypes = (ctypes.c_uint32,)
        self._context = ctypes.c_void_p(self._lib.seccomp_init(_ERRNO | errno.EPERM))
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
    """The filter for this process; to be called while libseccomp can still be found. Raises OSError where it is not installed."""
    chosen = Filter()
    for name in _ALLOWED.split():
        chosen.allow(name)
    chosen.allow("mprotect", (2, _MASKED_EQ, PROT_EXEC, 0))
    for name in ("mmap", "mmap2"):
        chosen.allow(name, (2, _MASKED_EQ, PROT_EXEC, 0), (4, _MASKED_EQ, NO_FILE, NO_FILE))
    for command in (F_GETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC):
        chosen.allow("fcntl", (1, _EQ, command, 0))
    chosen.allow("newfstatat", (3, _MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH))
    chosen.allow("clone", (0, _MASKED_EQ, CLONE_THREAD, CLONE_THREAD))
    chosen.answer("clone3", errno.ENOSYS)  # its flags lie in memory, where no filter can see them; the C library then uses clone
    chosen.allow("tgkill", (0, _EQ, os.getpid(), 0))
    return chosen

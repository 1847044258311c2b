"""A writer's calls on its descriptors are left to a builder: a child volume reads the blocks of its parent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.image.builder import seccomp


def test_a_builder_reads_into_a_buffer_at_an_offset(tmp_path: Path) -> None:
    """``os.preadv`` makes the system call preadv2, ``os.pwritev`` pwritev2."""
    (tmp_path / "volume").write_bytes(b"parent")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fd, buffer = os.open(tmp_path / "volume", os.O_RDWR), bytearray(6)
            try:
                chosen = seccomp.prepare()
            except OSError:
                os._exit(2)
            chosen.load()
            code = 0 if os.preadv(fd, [buffer], 0) == os.pwrite(fd, buffer, 0) == os.pwritev(fd, [buffer], 0) == 6 else 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 2:
        pytest.skip("this host has no libseccomp")
    assert code == 0

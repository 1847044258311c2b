"""Options that say how much of the manifests a run is about, and how it ends when it is used wrongly or runs out of time."""

from __future__ import annotations

import pytest

from .layers import change, noise, root
from .workshop import Workshop


@pytest.fixture
def two(workshop: Workshop) -> Workshop:
    workshop.image("web", [root("base")], labels={"team": "web", "tier": "front"})
    workshop.image("db", [root("base"), change("db", {"srv/db": b"1"})], labels={"team": "data"})
    return workshop


@pytest.mark.parametrize("selector", ["team=web", "team!=data", "tier", "!tier"])
def test_a_selector_limits_a_run_to_the_images_it_names(selector: str, two: Workshop) -> None:
    """Only the selected image is made; the other one is left for the next run."""
    chosen, other = ("db", "web") if selector == "!tier" else ("web", "db")

    planned = two.plan("-l", selector)
    done = two.converge("-l", selector)

    assert {a["image"] for a in planned["actions"] if a["kind"] == "Snapshot"} == {chosen}
    assert done.object("Snapshot")["name"] == f"{chosen}-a"
    assert two.snapshot(f"{chosen}-a").exists()
    assert not two.snapshot(f"{other}-a").exists()


def test_a_selector_removes_nothing(two: Workshop) -> None:
    """With `-l`, not even `--prune` removes what the selector does not name."""
    two.converge()
    before = two.holdings()
    two.withdraw("db")

    two.once("--prune", "-l", "team=web").expect(0)

    assert two.holdings() == before


def test_a_selector_without_a_match_does_nothing(two: Workshop) -> None:
    """No image has the label: nothing to do is no failure."""
    two.once("-l", "team=nobody", "--detailed-exitcode").expect(0)

    assert two.volumes == []


def test_a_suspended_image_is_left_alone(two: Workshop) -> None:
    """While `suspend` is true nothing of it is built, repaired or removed; `plan` says so."""
    two.image("db", [root("base"), change("db", {"srv/db": b"1"})], suspend=True)

    two.run("plan").expect(0).words("db", "suspended")
    two.converge()
    assert two.snapshot("web-a").exists()
    assert not two.snapshot("db-a").exists()
    two.image("db", [root("base"), change("db", {"srv/db": b"1"})])
    two.converge()
    two.image("db", [root("base"), change("db", {"srv/db": b"1"})], suspend=True)
    two.snapshot("db-a").unlink()

    two.once("--prune", "--detailed-exitcode").expect(0)

    assert not two.snapshot("db-a").exists()


def test_time_runs_out_and_the_next_run_goes_on(bucket: Workshop) -> None:
    """`--timeout` ends with exit 6 in the middle of a download; running again is safe and finishes it."""
    layer = root("base", {"srv/big": noise(3 << 20)})
    bucket.image("web", [layer], s3=True, size="64MiB")
    assert bucket.gate is not None
    bucket.gate.hold("base.tar", 1_500_000)

    bucket.once("--timeout", "1").expect(6).words("not converged", "again")

    bucket.gate.release()
    bucket.converge()
    bucket.settled()


@pytest.mark.parametrize(
    "words",
    [
        ["--no-such-option"],
        ["nonsense"],
        ["list", "potatoes"],
        ["describe", "web"],
        ["describe", "image/"],
        ["plan", "-l", "a b=c"],
        ["--once", "-o", "xml"],
        ["--once", "--timeout", "0"],
        ["--once", "--timeout", "0s"],
        ["--once", "--timeout", "nan"],
        ["--once", "--prune-grace", "5"],
        ["wait", "image/web", "--timeout", "soon"],
        ["--once", "--jobs", "none"],
        ["build", "x.tar"],
        ["build", "x.tar", "--output", "x.ext4", "--size", "8GB"],
        ["inspect", "x.tar", "--limit", "maxEntreis=1"],
        ["inspect"],
    ],
    ids=" ".join,
)
def test_wrong_use_is_told_and_does_nothing(words: list[str], workshop: Workshop) -> None:
    """Exit 64, a message on standard error, nothing on standard output."""
    workshop.image("web", [root("base")])

    done = workshop.run(*words).expect(64)

    assert done.stderr.strip()
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not workshop.state.exists()

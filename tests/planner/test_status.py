"""The status of an image: phase, conditions with reasons of a closed set that the manual explains, generation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import reconciler.engine.engine  # noqa: F401 - its errors are part of the set
from reconciler.errors import CommandError, ReconcilerError
from reconciler.model import Action, Desired, Failure, Key, Kind, Plan, Verb
from reconciler.planner.plan import plan
from reconciler.planner.reasons import OWN, REASONS, TYPES, known
from reconciler.planner.status import MEANING, Condition, ImageStatus, Phase, Recorded, statuses
from tests.support import planning
from tests.support.planning import chain_id

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "status.md").read_text()
BUILD = Action(Verb.BUILD, Kind.VOLUME, "c0ffee", "declared for the first time", images=("web",))
REPAIR = Action(Verb.REPAIR, Kind.SNAPSHOT, "web-a", "there is no such file", images=("web",))
GO = {"go": {"layers": ["a"], "snapshots": ["s"]}}
READ_ONLY = {"reason": "PoolReadOnly", "message": "read-only"}
APPLIED = {"images": {"go": "a"}, "volumes": ["a"], "snapshots": {"s": "go at a"}}
A = chain_id("a")[:12]
FAILURE = Failure(Kind.VOLUME, "c0ffee", "DigestMismatch", "the bytes are others")


def reasons(image: ImageStatus) -> dict[str, tuple[bool, str]]:
    return {one.type: (one.status, one.reason) for one in image.conditions}


def status(phase: Phase, *, declared: bool = True, suspend: bool = False, **fields: Any) -> ImageStatus:
    return ImageStatus("web", phase, planning.image("web", {"suspend": suspend}) if declared else None, **fields)


def test_an_image_that_is_as_declared_is_ready_and_nothing_else() -> None:
    assert reasons(status(Phase.READY)) == {
        "Ready": (True, "Converged"),
        "Reconciling": (False, "UpToDate"),
        "Stalled": (False, "NotStalled"),
        "Drifted": (False, "NoDrift"),
        "Suspended": (False, "NotSuspended"),
    }


@pytest.mark.parametrize(
    ("image", "ready", "true"),
    [
        (status(Phase.PENDING, left=(BUILD,)), "Progressing", {"Reconciling"}),
        (status(Phase.FAILED, left=(BUILD,), failure=FAILURE), "DigestMismatch", {"Stalled"}),
        (status(Phase.DEGRADED, left=(REPAIR,)), "DriftDetected", {"Reconciling", "Drifted"}),
        (status(Phase.DEGRADED, suspend=True), "SuspendedInManifest", {"Suspended"}),
        (status(Phase.DEGRADED, stale="S3 is down"), "LastKnownChain", set()),
        (status(Phase.DEGRADED), "Incomplete", set()),
        (status(Phase.READY, declared=False), "NotDeclared", set()),
        (status(Phase.REMOVING, declared=False), "Removing", set()),
    ],
)
def test_an_image_that_is_not_ready_has_the_reason(image: ImageStatus, ready: str, true: set[str]) -> None:
    found = reasons(image)

    assert found["Ready"] == (False, ready)
    assert {kind for kind, (status, _) in found.items() if status} == true


def test_the_reason_given_to_suspend_is_the_message() -> None:
    image = status(Phase.READY, suspension="backup, until Joan is done")

    assert image.conditions[-1] == Condition("Suspended", True, "SuspendedByHand", "backup, until Joan is done")
    assert image.conditions[0].status, "an image that is left alone can be as declared"


def test_an_undeclared_image_has_the_reason_why_it_is_still_there() -> None:
    case = {"registry": {"images": {"go": "a", "kept": "a retain"}, "volumes": ["a"]}}
    wanted, host = planning.desired({}), planning.observed(case)
    found = statuses(wanted, host, plan(wanted, host))

    assert "`--prune` removes it" in found["go"].conditions[0].message
    assert "deletionPolicy of image kept is Retain" in found["kept"].conditions[0].message


def test_snapshots_are_ready_where_they_are_intact_and_active() -> None:
    case = {
        "images": {"go": {"layers": ["a"], "snapshots": ["s", "t", "u"]}},
        "registry": {"images": {"go": "a"}, "volumes": ["a"], "snapshots": {"s": "go at a", "t": "go at a"}},
        "pools": {"default": {"idle": {"t": None}}},
    }
    wanted, host = planning.desired(case["images"]), planning.observed(case)
    found = statuses(wanted, host, plan(wanted, host))["go"]

    assert (found.ready, found.wanted) == ({"s"}, {"s", "t", "u"})


def test_the_generation_counts_a_specification_that_no_run_has_read() -> None:
    wanted = planning.desired(GO)
    known = {"go": (wanted.images["go"].digest, 3)}

    def generations(seen: Mapping[str, tuple[str, int]]) -> tuple[int, int]:
        found = statuses(wanted, planning.observed({}), Plan(()), Recorded(generations=seen))["go"]
        return found.generation, found.observed_generation

    assert generations(known) == (3, 3)
    assert generations({"go": ("another", 3)}) == (4, 3)
    assert generations({}) == (1, 0)


def test_a_reason_of_another_version_is_one_of_the_set() -> None:
    assert known("DigestMismatch") == "DigestMismatch"
    assert known("NobodyKnowsThis") in REASONS


# ----------------------------------------------------------------------------------------------- the closed set


def explained(text: str = PAGE) -> set[str]:
    """The words in the first column of the page's tables."""
    cells = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}


def below(kind: type[ReconcilerError]) -> Iterator[type[ReconcilerError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from below(one)


def test_the_manual_explains_each_reason_and_no_other() -> None:
    commands = {kind.reason for kind in below(CommandError)} - {"HostUnsupported", "Error"}
    """They end the whole command and are no reason of an image."""

    assert explained(PAGE[: PAGE.index("## Findings")]) - {*TYPES, *Phase} == REASONS - commands - {*Phase}
    assert all(f"| `{reason}` | {meaning} |" in PAGE for reason, meaning in OWN.items())


def test_the_manual_explains_each_phase() -> None:
    assert set(MEANING) == set(Phase)
    assert all(f"| `{phase}` | {meaning} |" in PAGE for phase, meaning in MEANING.items())


MAKERS = ("Finding", "Failure", "Trouble", "_blocked", "of_host")


def words(path: Path) -> Iterator[str]:
    """The reasons that a module gives to findings, failures and troubles."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in MAKERS:
            texts = (one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str))
            yield from (text for text in texts if re.fullmatch(r"([A-Z][a-z]+)+", text) and text not in list(Kind))


@pytest.mark.parametrize("path", sorted((ROOT / "reconciler").rglob("*.py")), ids=lambda path: path.stem)
def test_the_manual_explains_each_reason_of_a_module(path: Path) -> None:
    assert set(words(path)) <= explained()


# ---------------------------------------------------------------------------------------------------------- phases


def phase_of(case: Mapping[str, Any], *, running: Mapping[Key, str] | None = None, failed: Sequence[Failure] = ()) -> Phase:
    wanted: Desired = planning.desired(case.get("images", {}))
    host = replace(planning.observed(case), failures={one.key: one for one in failed})
    found = plan(wanted, host, prune=case.get("prune", False))
    return statuses(wanted, host, found, Recorded(runs=running or {}))["go"].phase


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"images": GO}, Phase.PENDING),
        ({"images": GO, "registry": APPLIED}, Phase.READY),
        ({"images": GO, "registry": APPLIED, "pools": {"default": {"snapshots": {"s": "missing"}}}}, Phase.DEGRADED),
        (
            {"images": GO, "registry": APPLIED, "pools": {"default": {"volumes": {"a": "damaged"}}}},
            Phase.DEGRADED,
        ),
        ({"images": {"go": {"layers": ["b"], "snapshots": ["s"]}}, "registry": APPLIED}, Phase.PENDING),
        ({"images": GO, "registry": APPLIED, "pools": {"default": {"problem": "no permission"}}}, Phase.FAILED),
        ({"images": {"go": {"layers": ["~a"]}}, "sources": {"a": {"error": "no answer"}}}, Phase.FAILED),
        ({"images": {"go": {"layers": ["~a"]}}, "sources": {"a": {"error": "no answer"}}, "registry": APPLIED}, Phase.DEGRADED),
        ({"registry": APPLIED}, Phase.READY),
        ({"registry": APPLIED, "prune": True}, Phase.REMOVING),
        ({"images": {"go": {**GO["go"], "suspend": True}}, "registry": APPLIED}, Phase.READY),
        (
            {
                "images": {"go": {**GO["go"], "suspend": True}},
                "registry": APPLIED,
                "pools": {"default": {"snapshots": {"s": "missing"}}},
            },
            Phase.DEGRADED,
        ),
        ({"images": GO, "registry": APPLIED, "pools": {"default": {"idle": {"s": None}}}}, Phase.DEGRADED),
        (
            {"images": {"go": {**GO["go"], "suspend": True}}, "registry": APPLIED, "pools": {"default": {"idle": {"s": None}}}},
            Phase.DEGRADED,
        ),
        ({"registry": APPLIED, "pools": {"default": {"idle": {"s": None}}}}, Phase.DEGRADED),
        ({"images": GO, "pools": {"default": {"unready": "never made"}}}, Phase.PENDING),
        ({"images": GO, "registry": APPLIED, "pools": {"default": {"unready": "rebooted"}}}, Phase.DEGRADED),
        ({"images": GO, "pools": {"default": {"troubles": [READ_ONLY]}}}, Phase.FAILED),
        ({"images": GO, "registry": APPLIED, "pools": {"default": {"troubles": [READ_ONLY]}}}, Phase.READY),
    ],
    ids=[
        "declared and not there yet",
        "all as declared",
        "a snapshot is missing",
        "its base is damaged",
        "a new layer is to be built",
        "its pool cannot be read",
        "its source is silent and it was never applied",
        "its source is silent and it lives on its last chain",
        "no longer declared, held without prune",
        "no longer declared, being pruned",
        "suspended and intact",
        "suspended and broken",
        "a snapshot is not active",
        "suspended, and its snapshot is not active",
        "no longer declared, and its snapshot is not active",
        "its pool is yet to be made",
        "its pool is not assembled since a reboot",
        "its pool is halted and it is not there yet",
        "its pool is halted and all is as declared",
    ],
)
def test_the_phase_of_an_image(case: Mapping[str, Any], expected: Phase) -> None:
    assert phase_of(case) is expected


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        ({Key(Kind.VOLUME, "default", A): "pending"}, Phase.PENDING),
        ({Key(Kind.VOLUME, "default", A): "downloading"}, Phase.DOWNLOADING),
        ({Key(Kind.VOLUME, "default", A): "validating"}, Phase.VALIDATING),
        ({Key(Kind.VOLUME, "default", A): "provisioning"}, Phase.PROVISIONING),
        ({Key(Kind.SNAPSHOT, "default", "s"): "snapshotting"}, Phase.SNAPSHOTTING),
        ({Key(Kind.SNAPSHOT, "default", "s"): "snapshotting", Key(Kind.VOLUME, "default", A): "validating"}, Phase.VALIDATING),
        ({Key(Kind.SNAPSHOT, "default", "s"): "activating"}, Phase.SNAPSHOTTING),
        ({Key(Kind.POOL, "", "default"): "assembling"}, Phase.PENDING),
        ({Key(Kind.VOLUME, "default", "somebody's"): "downloading"}, Phase.PENDING),
    ],
)
def test_the_run_that_is_least_far_decides(running: Mapping[Key, str], expected: Phase) -> None:
    assert phase_of({"images": GO}, running=running) is expected


def test_an_image_whose_volume_failed_has_failed_until_it_is_tried_again() -> None:
    failed = [Failure(Kind.VOLUME, A, "DigestMismatch", "other bytes", pool="default")]

    assert phase_of({"images": GO}, failed=failed) is Phase.FAILED
    assert phase_of({"images": GO}, failed=failed, running={Key(Kind.VOLUME, "default", A): "downloading"}) is Phase.DOWNLOADING


def test_an_old_failure_of_what_is_there_now_does_not_count() -> None:
    failed = [Failure(Kind.VOLUME, A, "PoolFull", "", pool="default")]
    assert phase_of({"images": GO, "registry": APPLIED}, failed=failed) is Phase.READY

"""Conditions say what is so and why, in words of a closed set that the manual explains."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import reconciler.engine.engine  # noqa: F401 - its errors are part of the set
from reconciler.errors import CommandError, ReconcilerError
from reconciler.model import Action, Failure, Kind, Phase, Verb
from reconciler.registry.marks import Mark, What
from reconciler.status.conditions import OWN, REASONS, TYPES, Condition, Facts, conditions, known

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "status.md").read_text()
BUILD = Action(Verb.BUILD, Kind.VOLUME, "c0ffee", "declared for the first time", images=("web",))
REPAIR = Action(Verb.REPAIR, Kind.SNAPSHOT, "web-a", "there is no such file", images=("web",))
FAILURE = Failure(Kind.VOLUME, "c0ffee", "DigestMismatch", "the bytes are others")


def told(facts: Facts) -> dict[str, tuple[bool, str]]:
    return {one.type: (one.status, one.reason) for one in conditions(facts)}


def test_an_image_that_is_as_it_should_be() -> None:
    assert told(Facts(Phase.READY, declared=True)) == {
        "Ready": (True, "Converged"),
        "Reconciling": (False, "NothingToDo"),
        "Stalled": (False, "NoObstacle"),
        "Drifted": (False, "AsMade"),
        "Suspended": (False, "NotSuspended"),
    }


@pytest.mark.parametrize(
    ("facts", "ready", "true"),
    [
        (Facts(Phase.PENDING, True, left=[BUILD]), "Progressing", {"Reconciling"}),
        (Facts(Phase.FAILED, True, left=[BUILD], failure=FAILURE), "DigestMismatch", {"Stalled"}),
        (Facts(Phase.DEGRADED, True, left=[REPAIR]), "ChangedOutside", {"Reconciling", "Drifted"}),
        (Facts(Phase.DEGRADED, True, suspended=True), "SuspendedInManifest", {"Suspended"}),
        (Facts(Phase.DEGRADED, True, stale="S3 is down"), "LastKnownChain", set()),
        (Facts(Phase.DEGRADED, True), "Incomplete", set()),
        (Facts(Phase.READY, declared=False), "NotDeclared", set()),
        (Facts(Phase.REMOVING, declared=False), "BeingRemoved", set()),
    ],
)
def test_what_is_not_ready_says_why(facts: Facts, ready: str, true: set[str]) -> None:
    found = told(facts)

    assert found["Ready"] == (False, ready)
    assert {kind for kind, (status, _) in found.items() if status} == true


def test_who_suspends_by_hand_is_heard() -> None:
    mark = Mark("web", What.SUSPENDED, "backup, until Joan is done")
    found = conditions(Facts(Phase.READY, True, mark=mark))

    assert found[-1] == Condition("Suspended", True, "SuspendedByHand", "backup, until Joan is done")
    assert found[0].status, "what is left alone can be what it should be"


def test_a_reason_of_another_version_is_one_of_the_set() -> None:
    assert known("DigestMismatch") == "DigestMismatch"
    assert known("NobodyKnowsThis") in REASONS


# ----------------------------------------------------------------------------------------------- the closed set


def explained() -> set[str]:
    """The words in the first column of the page's tables."""
    cells = re.findall(r"^\| (`[^|]*`) \|", PAGE, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}


def below(kind: type[ReconcilerError]) -> Iterator[type[ReconcilerError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from below(one)


def test_the_manual_explains_each_reason_and_no_other() -> None:
    commands = {kind.reason for kind in below(CommandError)} - {"HostCannot", "Error"}
    """They end the whole command: nothing is said of an image."""
    findings = set(re.findall(r"`(\w+)`", PAGE[PAGE.index("## Findings") : PAGE.index("## Saved plans")])) - {"plan"}

    assert explained() - set(TYPES) - findings == REASONS - commands
    assert all(f"| `{reason}` | {meaning} |" in PAGE for reason, meaning in OWN.items())


def words(path: Path) -> Iterator[str]:
    """The reasons that a module gives to findings, failures and troubles."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Finding", "Failure", "Trouble", "_blocked"):
            texts = (one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str))
            yield from (text for text in texts if re.fullmatch(r"([A-Z][a-z]+)+", text) and text not in list(Kind))


@pytest.mark.parametrize("path", sorted((ROOT / "reconciler").rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_says_a_word_that_the_manual_does_not_explain(path: Path) -> None:
    assert set(words(path)) <= explained()

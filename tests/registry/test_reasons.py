"""Reasons are one closed set: code, docs, alerts and dashboards have the same, and former names are gone from all of them."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.cli.marking import EVENTS
from reconciler.planner.reasons import REASONS
from reconciler.registry.reasons import RENAMED
from reconciler.registry.writer import Registry

ROOT = Path(__file__).resolve().parents[2]
CODE = [
    path for path in sorted((ROOT / "reconciler").rglob("*.py")) if path.name != "reasons.py" or path.parent.name != "registry"
]
DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
DEPLOY = [path for path in sorted((ROOT / "deploy").rglob("*")) if path.suffix in (".yaml", ".json")]
PAGE = (ROOT / "docs" / "status.md").read_text()
NAME = re.compile(r"([A-Z][a-z]+)+")


def explained(text: str) -> set[str]:
    """The names in the first column of a page's tables."""
    cells = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def literals(path: Path) -> set[str]:
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def recorded(path: Path) -> Iterator[str]:
    """The reasons that a module gives to events and to entries of a run's history."""
    for node in ast.walk(ast.parse(path.read_text())):
        name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and name in ("_log", "event", "Entry", "_stopped_for_operator"):
            yield from (one.value for one in node.args[:3] if isinstance(one, ast.Constant) and NAME.fullmatch(str(one.value)))


def test_a_former_name_is_nowhere_in_code_docs_alerts_and_dashboards() -> None:
    assert {path.name: found for path in CODE if (found := literals(path) & RENAMED.keys() - {"Moved", "Retry"})} == {}
    for path in (*DOCS, *DEPLOY):
        words = set(re.findall(r"[`\"'=~|]([A-Z]\w+)(?=[`\"'|])", path.read_text()))
        assert words & RENAMED.keys() == set(), path.name


def test_no_new_name_is_a_former_one() -> None:
    assert not RENAMED.keys() & {*RENAMED.values(), *REASONS}
    assert all(NAME.fullmatch(name) for name in {*RENAMED.values(), *REASONS})


def test_the_manual_explains_each_reason_of_an_event() -> None:
    events = {reason for path in CODE for reason in recorded(path)} | {
        reason for pair in EVENTS.values() for reason in pair if reason
    }

    assert events >= {"Opened", "Interrupted", "LeftoverDiscarded", "Released", "Renamed", "RetryRequested"}
    assert events <= explained(PAGE)
    assert explained(PAGE[PAGE.index("## Events") : PAGE.index("## Saved plans")]) <= events | REASONS


@pytest.mark.parametrize("path", DEPLOY, ids=lambda path: path.name)
def test_alerts_and_dashboards_select_reasons_that_exist(path: Path) -> None:
    selected = {
        name
        for group in re.findall(r'reason=~?\\?"([^"\\]+)', path.read_text())
        for name in group.split("|")
        if NAME.fullmatch(name)
    }
    assert selected <= explained(PAGE)


def test_the_changelog_lists_what_was_renamed() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert [old for old, new in RENAMED.items() if f"`{old}` is `{new}`" not in text] == []


def test_stored_reasons_are_renamed(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.executescript((ROOT / "tests/cases/registry/schema-4.sql").read_text())
        run = "'volume', 'Volume', 'c0ffee', 'default', 'ready', 'd', 1, 2, '{}', '{}', 'failed', 0, 0, 0, 0, ''"
        db.execute(f"INSERT INTO run VALUES (1, 'R1', {run}, 'NeedsOperator', 'm')")
        db.execute("INSERT INTO transition VALUES ('R1', 1, 'pending', 'pending', 1, 1, 2, 'failed', 'HostCannot', 'm', '{}')")
        for reason in ("Moved", "DigestMismatch"):
            db.execute(
                "INSERT INTO event (at, kind, name, reason, message, run) VALUES (1, 'Image', 'web', ?, '', '')", (reason,)
            )
        db.commit()
    with Registry.open(path) as registry:
        assert [run.reason for run in registry.runs()] == ["OperatorRequired"]
        assert [step.reason for step in registry.transitions("R1")] == ["HostUnsupported"]
        assert [(event.reason, event.pool) for event in registry.events()] == [("Renamed", ""), ("DigestMismatch", "")]

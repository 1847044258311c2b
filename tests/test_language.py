"""Plain technical English: no text for users has an avoided word (docs/style.md), and no reason is a riddle."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest

from reconciler.cli.main import HOMES, cli

ROOT = Path(__file__).resolve().parents[1] / "reconciler"
MODULES = sorted(ROOT.rglob("*.py"))

AVOIDED = re.compile(
    r"""\b(?:
        tell | tells | told | telling
        | say | says | said | saying
        | hear | hears | heard | hearing
        | feel | feels | felt | feeling
        | know | knows | knew | (?:is|are|was|were|be|not)\ known(?!\ field) | known\ (?:of|by)
        | stand | stands | stood | standing
        | (?:take|takes|taken|taking|took)\ over | take_over
        | mend | mends | mended | mending
        | (?:look|looks|looked|looking)\ at
        | (?:is|are|was|be|not)\ content | content\ to | dear\ to
        | somebody | somebody's | nobody | nobody's | anybody | someone | a\ person | persons
        | anew
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Instead: report, return, compare, acquire, register, activate, prune, recreate, retry, repair; a component or "you"."""

RIDDLES = {"AsMade", "NoObstacle", "NothingToDo"}
"""Former reasons; a reason is a noun or participle that names the state: NoDrift, UpToDate, Progressing."""

BASELINE: Mapping[str, int] = {}
"""Hits that a package still has. A number only shrinks; a package without hits has no entry."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The string literals of a module that may reach users, with their lines; f-strings without their values.

    Of strings that are statements (docstrings) only those that are help: of click's commands.
    """
    tree = ast.parse(path.read_text())
    helps = {id(one) for one in _helps(tree)}
    hidden = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)} - helps
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            hidden.update(id(part) for part in node.values)
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in hidden:
            yield node.lineno, node.value


def _helps(tree: ast.AST) -> Iterator[ast.expr]:
    """The docstrings of click's commands and groups."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and isinstance(node.body[0], ast.Expr):
            decorators = [ast.unparse(one).partition("(")[0] for one in node.decorator_list]
            if any(one.endswith((".command", ".group")) for one in decorators):
                yield node.body[0].value


def hits(root: Path) -> Iterator[tuple[str, str]]:
    """Each avoided word with its package and where it is."""
    for path in sorted({*root.rglob("*.py")} - {root / "registry" / "reasons.py"}):  # the former names themselves
        package = path.relative_to(root).parts[0].removesuffix(".py")
        for line, text in texts(path):
            if text in RIDDLES:
                yield package, f"{path.relative_to(root)}:{line}: the reason {text!r}"
            for found in AVOIDED.finditer(text):
                yield package, f"{path.relative_to(root)}:{line}: {found[0]!r} in {' '.join(text.split())[:120]!r}"


def test_no_text_has_an_avoided_word() -> None:
    """And no reason is a riddle."""
    found = list(hits(ROOT))
    counts = Counter(package for package, _ in found)

    assert {package: count for package, count in counts.items() if count > BASELINE.get(package, 0)} == {}, "\n".join(
        where for package, where in found if counts[package] > BASELINE.get(package, 0)
    )


def test_the_baseline_has_no_package_without_hits() -> None:
    assert set(BASELINE) <= {package for package, _ in hits(ROOT)}


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for verb in group.list_commands(context):
        command = group.get_command(context, verb)
        assert command is not None
        yield f"{name} {verb}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {verb}")


COMMANDS = dict([("reconcile", cli), *commands(cli, "reconcile")])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_plain_and_complete(name: str) -> None:
    """Each verb and each option has help, in the imperative and without an avoided word."""
    command = COMMANDS[name]
    options = [param for param in command.params if isinstance(param, click.Option)]

    assert command.help and not AVOIDED.search(command.help)
    assert [option.opts for option in options if not option.help] == []
    assert [option.help for option in options if AVOIDED.search(option.help or "")] == []


def test_help_has_one_line_for_each_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli.get_help(click.Context(cli, info_name="reconcile", terminal_width=80)).splitlines()
    verbs = [line.split()[0] for line in lines[lines.index("Converge:") : lines.index("Exit codes:")] if line.startswith("  ")]

    assert sorted(verbs) == sorted(HOMES)


@pytest.mark.parametrize(
    "text",
    [
        "what it was counts as missing, and is made anew",
        "look at the host's log",
        "nobody's",
        "its patience ends, as somebody says",
        "it takes over what nothing knows any more",
    ],
)
def test_an_avoided_word_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "planted.py").write_text(f"raise Error(f{text!r}, hint='{{}}')\n")

    assert list(hits(tmp_path))

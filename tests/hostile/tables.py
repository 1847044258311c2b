"""The tables of docs/hostile-images.md, made from the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.hostile.advisories import ADVISORIES
from tests.hostile.case import CLASSES, Case
from tests.hostile.catalogue import CASES

BEGIN, END = "<!-- made by `python -m tests.hostile` -->", "<!-- end -->"


def page(text: str) -> str:
    """The page with the tables of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def tables() -> str:
    known = [case for case in CASES if case.reproduces]
    return "\n".join(
        [
            f"{len(CASES)} archives in {len(CLASSES)} classes, {len(known)} of them after flaws of other readers.",
            "",
            "## By class",
            "",
            *classes(),
            "",
            "## By flaw",
            "",
            *advisories(known),
            "",
            "## By case",
            "",
            *cases(),
        ]
    )


def classes() -> Iterator[str]:
    yield "| class | cases | verdicts |"
    yield "|---|---|---|"
    for attack in CLASSES:
        found = [case for case in CASES if case.attack == attack]
        yield f"| {attack} | {len(found)} | {verdicts(found)} |"


def verdicts(found: Iterable[Case]) -> str:
    """Each verdict with how often it is given, the most frequent first."""
    counts: dict[str, int] = {}
    for case in found:
        counts[str(case.verdict)] = counts.get(str(case.verdict), 0) + 1
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items(), key=lambda one: -one[1]))


def advisories(known: Iterable[Case]) -> Iterator[str]:
    yield "| flaw | where | what went wrong there | our case | verdict |"
    yield "|---|---|---|---|---|"
    by_id = {case.reproduces: case for case in known}
    for advisory in ADVISORIES.values():
        case = by_id[advisory.id]
        yield f"| {advisory.id} | {advisory.where} | {advisory.wrong} | `{case.name}` | {case.verdict} |"


def cases() -> Iterator[str]:
    yield "| case | what it is | verdict |"
    yield "|---|---|---|"
    for attack in CLASSES:
        yield f"| **{attack}** | | |"
        for case in CASES:
            if case.attack == attack:
                yield f"| `{case.name}` | {case.what} | {case.verdict}{note(case)} |"


def note(case: Case) -> str:
    return f" (but see: {case.flaw})" if case.flaw else ""

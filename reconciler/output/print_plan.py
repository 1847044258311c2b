"""Prints plans, drift and findings, as text and as JSON. Called by ``cli`` and ``once``. No state."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import IO

from reconciler.errors import visible
from reconciler.image.custom import has_seed
from reconciler.model import Action, Finding, Key, Plan, Verb, labels
from reconciler.output import console

GLYPHS = {
    Verb.ASSEMBLE: "↑",
    Verb.RESOLVE: "↓",
    Verb.BUILD: "+",
    Verb.CREATE: "+",
    Verb.RECORD: "+",
    Verb.REBUILD: "~",
    Verb.REPAIR: "~",
    Verb.ACTIVATE: "↑",
    Verb.GROW: "~",
    Verb.REPLACE: "-/+",
    Verb.REMOVE: "-",
    Verb.FORGET: "-",
}
COLOURS = {"+": "32", "~": "33", "-": "31", "-/+": "31", "↓": "36", "↑": "36"}
PROVISIONAL = "  (provisional)"
"""Of actions that depend on a layer which is not resolved yet."""
SPELLED_OUT = 2
"""How many findings with the same reason are shown one by one."""


def action_line(action: Action, stream: IO[str] | None = None, label: str = "") -> str:
    glyph = GLYPHS[action.verb]
    head = f"{glyph} {action.verb.value:8} {visible(label or str(action.key))}"
    return (
        console.paint(head, COLOURS[glyph], stream or sys.stdout)
        + f"  {visible(action.because)}{_to_fetch(action)}{PROVISIONAL * action.provisional}"
    )


def _to_fetch(action: Action) -> str:
    return f"; {console.size(action.fetch)} to fetch" if action.fetch else ""


def difference(action: Action) -> list[str]:
    """What ``--diff`` adds to an action: the fields that the object will have."""
    fields: list[tuple[str, object]] = [
        ("pool", action.pool),
        ("image", action.image),
        ("chain", action.chain),
        ("parent", action.parent),
    ]
    if action.size:
        fields.append(("size", console.size(action.size)))
    if action.custom:
        fields.append(("own", f"files, identity and size of sha256:{action.custom}"))
    if has_seed(action.custom):
        fields.append(("seed", "a disk for cloud-init, with what that digest includes"))
    fields += [(f"layer {n}", f"{layer.source.url} sha256:{layer.sha256 or '?'}") for n, layer in enumerate(action.layers, 1)]
    return [f"    {name}: {value}" for name, value in fields if value]


def show_plan(plan: Plan, *, diff: bool = False, saved: bool = False) -> None:
    """Print a plan as text: actions, removals that wait for ``--prune``, blocked images, findings."""
    names = labels(action.key for action in (*plan.actions, *plan.held))
    for action in plan.actions:
        console.data(action_line(action, label=names[action.key]))
        for line in difference(action) if diff else ():
            console.data(line)
    for action in plan.held:
        console.data(action_line(action, label=names[action.key]) + "  (held: only --prune carries it out)")
    for failure in plan.blocked:
        console.data(console.paint(f"! {failure.key}  {failure.reason}: {failure.message}", "31", sys.stdout))
    show_findings(plan.findings)
    changes, held = len(plan.actions), len(plan.held)
    provisional = sum(action.provisional for action in plan.actions)
    changing = f"{changes} to change" + (f" ({provisional} provisional)" if provisional else "")
    if saved:  # the file holds the actions only
        console.data(f"Plan: {changes} to change.")
        return
    console.data(f"Plan: {changing}, {len(plan.unchanged)} unchanged, {held} held, {len(plan.blocked)} blocked.")


def show_drift(plan: Plan) -> None:
    names = labels(action.key for action in plan.actions)
    for action in plan.actions:
        console.data(action_line(action, label=names[action.key]))
    show_findings(plan.findings)
    console.data(
        f"Drift: {len(plan.actions)} to repair, {len(plan.findings)} for you to resolve."
        if plan.actions or plan.findings
        else "No drift."
    )


def drift_json(plan: Plan, host: str) -> dict[str, object]:
    actions, findings = [action_json(action) for action in plan.actions], [finding_json(finding) for finding in plan.findings]
    return {"host": host, "drifted": bool(actions or findings), "actions": actions, "findings": findings}


def show_findings(findings: Iterable[Finding]) -> None:
    """One line a finding; many with the same reason are one line: what scrolls by is not read."""
    by_reason: dict[str, list[Finding]] = {}
    findings = tuple(findings)
    names = labels(finding.subject for finding in findings)
    for finding in findings:
        by_reason.setdefault(finding.reason, []).append(finding)
    for reason, alike in by_reason.items():
        shown = alike if len(alike) <= SPELLED_OUT else alike[:1]
        more = f" (and {len(alike) - 1} more like it: `reconcile plan -o json` lists them)" if len(shown) < len(alike) else ""
        for finding in shown:
            name = visible(names[finding.subject])
            console.note(f"note: {name}: {visible(finding.text)} [{reason}]{more}", "notice", object=name, reason=reason)


def note_plan(plan: Plan) -> None:
    """What a run is about to do, with ``--diff``: as ``plan --diff`` shows it, on standard error."""
    for action in plan.actions:
        console.note("\n".join((action_line(action, sys.stderr), *difference(action))))


def action_json(action: Action) -> dict[str, object]:
    return {
        "verb": action.verb.value,
        "kind": action.kind.value,
        "name": action.name,
        "because": action.because,
        "pool": action.pool or None,
        "image": action.image or None,
        "chain": action.chain,
        "parent": action.parent,
        "size": action.size or None,
        "custom": action.custom or None,
        "fetch": action.fetch or None,
        "layers": [{"source": layer.source.url, "sha256": layer.sha256} for layer in action.layers],
        "after": [key.path for key in action.after],
        "provisional": action.provisional,
    }


def key_json(key: Key) -> dict[str, object]:
    return {"kind": key.kind.value, "pool": key.pool or None, "name": key.name}


def finding_json(finding: Finding) -> dict[str, object]:
    of = finding.subject
    return {
        "severity": finding.severity.value,
        "kind": of.kind.value,
        "pool": of.pool or None,
        "name": of.name,
        "reason": finding.reason,
        "message": finding.message,
        "hint": finding.hint,
    }


def plan_json(plan: Plan, host: str) -> dict[str, object]:
    return {
        "host": host,
        "actions": [action_json(a) for a in plan.actions],
        "held": [action_json(a) for a in plan.held],
        "blocked": [
            {"kind": f.kind.value, "pool": f.pool or None, "name": f.name, "reason": f.reason, "message": f.message}
            for f in plan.blocked
        ],
        "findings": [finding_json(f) for f in plan.findings],
        "unchanged": [key_json(key) for key in plan.unchanged],
    }

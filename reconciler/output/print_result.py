"""Prints the result of a run: the objects that changed or failed, and the recap. Called by ``cli`` and ``service``. No state."""

from __future__ import annotations

import sys
from typing import Any

from reconciler.errors import visible
from reconciler.model import labels
from reconciler.output import console, log
from reconciler.output.print_plan import key_json, show_findings
from reconciler.output.result import ObjectResult, Result


def result_json(result: Result) -> dict[str, object]:
    """The contract of ``reconcile --once -o json`` (DESIGN section 5)."""
    return {
        "host": result.host,
        "changed": result.changed,
        "unchanged": result.unchanged,
        "ready": result.ready,
        "failed": result.failed,
        "objects": [
            {
                **key_json(o.key),
                "action": o.action,
                "phase": o.phase,
                "reason": o.reason,
                "message": o.message,
            }
            for o in result.objects
        ],
        "seconds": round(result.seconds, 3),
    }


def recap(result: Result) -> str:
    counts = f"ok={result.ready} changed={result.changed} pruned={result.pruned} failed={result.failed}"
    return f"RECAP {result.host}: {counts} in {result.seconds:.1f}s"


def show_result(result: Result) -> None:
    """Print the result of a run as text: the objects that changed or failed, and the recap as the last line."""
    names = labels((*(o.key for o in result.objects), *(action.key for action in result.held)))
    for o in result.objects:
        name = names[o.key]
        if not o.ok:
            failed = f"failed   {name}  {o.reason}: {visible(o.message)}"
            console.note(console.paint(failed, "31", sys.stderr), level="error", **_fields(o, name))
        elif o.changed:
            console.note(console.paint(f"changed  {name}  {o.action}", "33", sys.stderr), **_fields(o, name))
    show_findings(result.findings)
    for action in result.held:
        name = names[action.key]
        console.note(f"held     {name}  {action.because}; --prune removes it", "notice", object=name)
    if log.is_json():
        counts = {"ok": result.ready, "changed": result.changed, "pruned": result.pruned, "failed": result.failed}
        console.note(recap(result), "error" if result.failed else "info", seconds=round(result.seconds, 3), **counts)
    console.data(recap(result))


def _fields(o: ObjectResult, name: str) -> dict[str, Any]:
    return {"object": name, "action": o.action, "phase": o.phase, "reason": o.reason}

"""What reconcile prints: tables, plans, progress, the recap, JSON. The only file that imports rich.

Called by ``cli`` and ``loop`` with finished values. Data goes to standard output, everything else to standard error;
rich is imported only where a terminal is there to see it. No state but a running progress display.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import IO, Any

from reconciler.errors import HostCannot
from reconciler.model import Action, Finding, Key, Kind, Plan, Verb, labels
from reconciler.output import log, streams
from reconciler.output.progress import Progress, Silent
from reconciler.output.result import ObjectResult, Result

GLYPHS = {
    Verb.ASSEMBLE: "↑",
    Verb.RESOLVE: "↓",
    Verb.BUILD: "+",
    Verb.CREATE: "+",
    Verb.RECORD: "+",
    Verb.REBUILD: "~",
    Verb.REPAIR: "~",
    Verb.ACTIVATE: "↑",
    Verb.REPLACE: "-/+",
    Verb.REMOVE: "-",
    Verb.FORGET: "-",
}
COLOURS = {"+": "32", "~": "33", "-": "31", "-/+": "31", "↓": "36", "↑": "36"}
SPELLED_OUT = 2
"""How many findings with the same reason are shown one by one."""
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: int | float) -> str:
    """A number of bytes as text, in binary units."""
    value = float(count)
    for unit in UNITS:
        if abs(value) < 1024 or unit == UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def counted(number: int, noun: str) -> str:
    """``1 fault``, ``2 faults``."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


def colourful(stream: IO[str]) -> bool:
    """Colour only for a terminal, and never against NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: IO[str]) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colourful(stream) else text


def note(text: str, level: log.Level = "info", **fields: object) -> None:
    """Write a line to standard error (see ``log``)."""
    log.write(text, level, **fields)


def data(text: str) -> None:
    """Write a piece of the answer to standard output. Raises HostCannot where it is on a full disk."""
    try:
        streams.send(text, sys.stdout)
    except OSError as error:
        raise HostCannot(f"standard output: {error.strerror}", hint="free space there, or send the output elsewhere") from error


def plain(value: Any) -> Any:
    """A value in the types of JSON; bytes are escaped, dataclasses become objects."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def document(value: Any) -> None:
    """One JSON document on standard output."""
    data(json.dumps(plain(value), indent=2, ensure_ascii=not streams.is_unicode(sys.stdout)))


def visible(text: str) -> str:
    """The text without control characters: names come from hostile archives and foreign files, and must not reach a terminal."""
    return "".join(c if c.isprintable() or c == " " else f"\\x{ord(c):02x}" for c in text)


def verdict(word: str) -> str:
    """``accept`` or ``reject``, coloured on terminals."""
    return paint(word, "32" if word == "accept" else "31", sys.stdout)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output: drawn on a terminal, bare columns in a pipe."""
    cells = [[visible(str(cell)) for cell in row] for row in rows]
    if not colourful(sys.stdout):
        widths = [max(len(r[i]) for r in [list(headers), *cells]) for i in range(len(headers))]
        for row in [list(headers), *cells]:
            data("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


# ------------------------------------------------------------------------------------------------------ plans


def action_line(action: Action, stream: IO[str] | None = None, label: str = "") -> str:
    glyph = GLYPHS[action.verb]
    head = f"{glyph} {action.verb.value:8} {visible(label or str(action.key))}"
    return paint(head, COLOURS[glyph], stream or sys.stdout) + f"  {visible(action.because)}"


def difference(action: Action) -> list[str]:
    """What ``--diff`` adds to an action: the fields that the object will have."""
    fields: list[tuple[str, object]] = [
        ("pool", action.pool),
        ("image", action.image),
        ("chain", action.chain),
        ("parent", action.parent),
    ]
    if action.size:
        fields.append(("size", size(action.size)))
    fields += [(f"layer {n}", f"{layer.source.url} sha256:{layer.sha256 or '?'}") for n, layer in enumerate(action.layers, 1)]
    return [f"    {name}: {value}" for name, value in fields if value]


def show_plan(plan: Plan, *, diff: bool = False, saved: bool = False) -> None:
    """Print a plan as text: actions, removals that wait for ``--prune``, blocked images, findings."""
    names = labels(action.key for action in (*plan.actions, *plan.held))
    for action in plan.actions:
        data(action_line(action, label=names[action.key]))
        for line in difference(action) if diff else ():
            data(line)
    for action in plan.held:
        data(action_line(action, label=names[action.key]) + "  (held: only --prune carries it out)")
    for failure in plan.blocked:
        data(paint(f"! {failure.key}  {failure.reason}: {failure.message}", "31", sys.stdout))
    show_findings(plan.findings)
    changes, held = len(plan.actions), len(plan.held)
    if saved:  # the file holds the actions only
        data(f"Plan: {changes} to change.")
        return
    data(f"Plan: {changes} to change, {len(plan.unchanged)} unchanged, {held} held, {len(plan.blocked)} blocked.")


def show_drift(plan: Plan) -> None:
    names = labels(action.key for action in plan.actions)
    for action in plan.actions:
        data(action_line(action, label=names[action.key]))
    show_findings(plan.findings)
    data(
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
            note(f"note: {name}: {visible(finding.text)} [{reason}]{more}", "notice", object=name, reason=reason)


def note_plan(plan: Plan) -> None:
    """What a run is about to do, with ``--diff``: as ``plan --diff`` shows it, on standard error."""
    for action in plan.actions:
        note("\n".join((action_line(action, sys.stderr), *difference(action))))


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
        "layers": [{"source": layer.source.url, "sha256": layer.sha256} for layer in action.layers],
        "after": [key.path for key in action.after],
    }


def _key_json(key: Key) -> dict[str, object]:
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
        "unchanged": [_key_json(key) for key in plan.unchanged],
    }


# ---------------------------------------------------------------------------------------------------- results


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
                **_key_json(o.key),
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
            note(paint(failed, "31", sys.stderr), level="error", **_fields(o, name))
        elif o.changed:
            note(paint(f"changed  {name}  {o.action}", "33", sys.stderr), **_fields(o, name))
    show_findings(result.findings)
    for action in result.held:
        name = names[action.key]
        note(f"held     {name}  {action.because}; --prune removes it", "notice", object=name)
    if log.is_json():
        counts = {"ok": result.ready, "changed": result.changed, "pruned": result.pruned, "failed": result.failed}
        note(recap(result), "error" if result.failed else "info", seconds=round(result.seconds, 3), **counts)
    data(recap(result))


def _fields(o: ObjectResult, name: str) -> dict[str, Any]:
    return {"object": name, "action": o.action, "phase": o.phase, "reason": o.reason}


# --------------------------------------------------------------------------------------------------- progress


class Lines(Silent):
    """For logs and pipes: a line when an object changes its state, and one every few seconds of long work."""

    EVERY_SECONDS = 10.0

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def update(self, key: str, state: str, done: int, total: int | None, detail: str = "") -> None:
        now = time.monotonic()
        with self._lock:
            last, when = self._seen.get(key, ("", now))
            if last == state and now - when < self.EVERY_SECONDS:
                return
            self._seen[key] = (state, now)
        amount = f" {size(done)}" + (f" of {size(total)}" if total else "") if done else ""
        note(f"{key}  {state}{amount} {detail}".rstrip(), object=key, state=state, done=done or None, total=total)

    def finish(self, key: str, text: str) -> None:
        note(f"{key}  {text}", object=key)


class Bars(Silent):
    """For terminals: one line for each running object, with bytes, rate and the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            TextColumn("[cyan]{task.fields[state]}"),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
        )
        self._progress = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self._tasks: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def update(self, key: str, state: str, done: int, total: int | None, detail: str = "") -> None:
        with self._lock:
            if key not in self._tasks:
                self._tasks[key] = self._progress.add_task(key, state=state, detail=detail, total=total)
            self._progress.update(self._tasks[key], state=state, detail=detail, completed=done, total=total)

    def finish(self, key: str, text: str) -> None:
        with self._lock:
            task = self._tasks.pop(key, None)
            if task is not None:
                self._progress.remove_task(task)
        self._progress.console.print(f"{key}  {text}", markup=False, highlight=False)


def progress(mode: str) -> Progress:
    """``auto`` draws bars on a terminal and prints lines elsewhere; ``plain`` prints lines; ``none`` is silent."""
    if mode == "none":
        return Silent()
    drawn = mode == "auto" and sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not log.is_json()
    return Bars() if drawn else Lines()


def kinds() -> dict[str, Kind]:
    """Words that users type for kinds: ``image``, ``images``, ``Image``."""
    return {form: kind for kind in Kind if kind is not Kind.HOST for form in (kind.lower(), f"{kind.lower()}s", kind.value)}

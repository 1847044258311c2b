"""Converge, once or for ever, and say what that would change: ``reconcile``, ``plan``, ``drift``. No state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler.errors import Exit, UsageError
from reconciler.interrupt import Interrupted
from reconciler.verbs.options import changing, options, shared

if TYPE_CHECKING:
    from reconciler.loop import Look, Wish
    from reconciler.model import Action


def wished(context: click.Context, *, on_invalid: str = "fail") -> Wish:
    """What the options ask for. Raises UsageError."""
    from reconciler import loop, marks

    params = context.params
    most, grace = params["prune_max"] or loop.MOST_PRUNED, params.get("prune_grace")
    try:
        loop.prunable(most, 0)
        seconds = marks.duration(grace) if grace else 0.0
    except ValueError as error:
        raise UsageError(f"--prune-max {most} or --prune-grace {grace}: {error}", hint="for example 10, 20%; 15m, 2h") from None
    return loop.Wish(params["prune"], params["selector"], params["diff"], seconds, most, on_invalid)


def run(context: click.Context, *, once: bool) -> int:
    from reconciler import board, host, loop, outcome, report, service

    chosen, params = options(context), context.params
    wish = wished(context, on_invalid=params["on_invalid"] or ("fail" if once else "freeze"))
    shown = board.Board(report.progress("none" if chosen.json else params["progress"]), chosen.settings.running)
    with (
        Interrupted().installed() as interrupted,
        host.writing(chosen.settings, stop=interrupted.stop, on_invalid=wish.on_invalid) as ours,
    ):
        if not once:
            telling = service.Telling(params["metrics_file"], params["metrics_port"])
            service.Service(ours, wish, shown, telling, stop=interrupted.stop).run()
            return interrupted.exit
        result = loop.converge(ours, wish, shown, stop=interrupted.stop)
    if chosen.json:
        report.document(report.result_json(result))
    else:
        report.show_result(result)
    if interrupted.signal:
        return interrupted.exit
    return outcome.exit_code(result, detailed=params["detailed_exitcode"])


def show_plan(context: click.Context, out: Path | None = None) -> int:
    from reconciler import host, loop, outcome, report, saved

    chosen, params = options(context), context.params
    wish = wished(context)
    with host.reading(chosen.settings) as ours:
        found = loop.look(ours, wish)
        if out is not None:
            saved.write(out, ours, found, wish)
        selected = loop.selected(ours.desired, params["selector"])
        images = set(ours.desired.images) if selected is None else selected
    if chosen.json:
        report.document(report.plan_json(found.plan, ours.name))
    else:
        report.show_plan(found.plan, diff=params["diff"])
    return outcome.plan_exit_code(found.plan, images, detailed=params["detailed_exitcode"])


@click.command()
@shared
@changing
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Also write the plan to FILE, for `reconcile apply FILE`."
)
@click.pass_context
def plan(context: click.Context, /, out: Path | None, **_: Any) -> int:
    """Say what would change, and why. Reads only."""
    return show_plan(context, out)


@click.command()
@shared
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 where something changed.")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def apply(context: click.Context, /, file: Path, detailed_exitcode: bool, **_: Any) -> int:
    """Carry out the plan in FILE, exactly: refused (5) where manifests, registry or pools have moved since it was made."""
    from reconciler import board, host, loop, outcome, report, saved

    chosen, plan = options(context), saved.read(file)
    wish = loop.Wish(prune=plan.wish["prune"], selector=plan.wish["selector"], most=plan.wish["most"])
    shown = board.Board(report.progress("none" if chosen.json else "auto"), chosen.settings.running)
    with Interrupted().installed() as interrupted, host.writing(chosen.settings, stop=interrupted.stop) as ours:

        def approved(look: Look) -> Sequence[Action]:
            saved.check(plan, ours, look)
            return plan.actions

        result = loop.converge(ours, wish, shown, stop=interrupted.stop, approved=approved)
    if chosen.json:
        report.document(report.result_json(result))
    else:
        report.show_result(result)
    return interrupted.exit if interrupted.signal else outcome.exit_code(result, detailed=detailed_exitcode)


@click.command()
@shared
@click.option("--diff", is_flag=True, help="Show the fields of each change.")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def show(context: click.Context, /, file: Path, diff: bool, **_: Any) -> int:
    """Show the plan in FILE, and say whether it could still be carried out."""
    from reconciler import host, loop, report, saved
    from reconciler.errors import Guarded

    chosen, plan = options(context), saved.read(file)
    if chosen.json:
        report.document(report.plan_json(saved.as_plan(plan), plan.host))
    else:
        report.show_plan(saved.as_plan(plan), diff=diff)
    wish = loop.Wish(prune=plan.wish["prune"], selector=plan.wish["selector"], most=plan.wish["most"])
    with host.reading(chosen.settings, lenient=True) as ours:
        try:
            saved.check(plan, ours, loop.look(ours, wish))
        except Guarded as stale:
            report.note(f"note: {stale}", "warning")
    return Exit.OK


@click.command()
@shared
@click.pass_context
def drift(context: click.Context, /, **_: Any) -> int:
    """Say what somebody else has changed since the last run. Asks no source, writes nothing; exits with 2 where something has.

    What the manifests want and nobody has made yet is not drift: `reconcile plan` shows that.
    """
    from reconciler import host, loop, report
    from reconciler.planner.drift import drifted

    chosen = options(context)
    with host.reading(chosen.settings, lenient=True) as ours:
        for fault in ours.faults:
            report.note(fault, "error")
        found = drifted(loop.look_offline(ours).plan)
        name = ours.name
    if chosen.json:
        report.document(report.drift_json(found, name))
    else:
        report.show_drift(found)
    return Exit.CHANGED if found.actions or found.findings else Exit.OK

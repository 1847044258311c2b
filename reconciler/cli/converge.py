"""``reconcile`` without a verb, ``plan``, ``apply``, ``show`` and ``drift``. No state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler import sizes
from reconciler.cli.options import changing, options, reported, shared, working
from reconciler.cli.signals import Interrupted
from reconciler.dataclass import replace
from reconciler.errors import CommandError, Exit, Guarded, NotConverged, UsageError

if TYPE_CHECKING:
    from reconciler.controller.assess import Assessment, Wish
    from reconciler.controller.summary import Reports
    from reconciler.host.context import Host
    from reconciler.model import Action
    from reconciler.output.progress import Progress
    from reconciler.planner.plan_file import Saved


def wished(context: click.Context, *, on_invalid: str = "fail") -> Wish:
    """The wish that the options make. Raises UsageError."""
    from reconciler.controller import assess

    params = context.params
    most, grace = params["prune_max"] or assess.MOST_PRUNED, params["prune_grace"] or assess.PRUNE_GRACE
    try:
        assess.prunable(most, 0)
    except ValueError as error:
        raise UsageError(f"--prune-max {most}: {error}", hint="for example 10, 20%") from None
    try:
        seconds = sizes.parse_duration(grace, zero=True)
    except ValueError as error:
        raise UsageError(f"--prune-grace: {error}", hint="for example 15m, 2h") from None
    confirmed, upgraded = params["confirm_labels"], params["upgrade_layout"]
    return assess.Wish(params["prune"], params["selector"], params["diff"], seconds, most, on_invalid, confirmed, upgraded)


def run(context: click.Context, *, once: bool) -> int:
    from reconciler.cli import faults, reporting
    from reconciler.controller import once as run_once
    from reconciler.controller import summary
    from reconciler.output import console, print_result
    from reconciler.telemetry import activity

    chosen, params = options(context), context.params
    wish = wished(context, on_invalid=params["on_invalid"] or ("fail" if once else "freeze"))
    if wish.upgrade_layout and not once:
        raise UsageError("--upgrade-layout is for --once and plan", hint="stop the service, run `reconcile --once` with it")
    shown = activity.Board(console.progress("none" if chosen.json else params["progress"]), chosen.settings.running)
    with (
        Interrupted().installed() as interrupted,
        reporting.working(
            context,
            chosen.settings,
            interrupted.stop,
            service=not once,
            on_invalid=wish.on_invalid,
            told=(CommandError,) if once else (),
        ) as (ours, reports),
    ):
        if wish.confirm_labels:
            ours.registry.accept_labels(ours.facts.labels)
            wish = replace(wish, confirm_labels=False)  # a later change is one that nobody has confirmed
        if not once:
            superseded = serve(context, ours, wish, shown, interrupted, reports)
            return Exit.OK if superseded else ended(interrupted, chosen.settings.timeout)
        faults.note_ignored(ours)
        result = run_once.converge(ours, wish, shown, stop=interrupted.stop, reports=reports)
    if chosen.json:
        console.document(print_result.result_json(result))
    else:
        print_result.show_result(result)
    if interrupted.signal:
        return interrupted.exit
    return summary.exit_code(result, detailed=params["detailed_exitcode"])


def serve(
    context: click.Context, ours: Host, wish: Wish, shown: Progress, interrupted: Interrupted, reports: Reports | None
) -> bool:
    """Run the service until it is to stop; whether a newer version has taken the registry over."""
    from reconciler.api import server
    from reconciler.cli import reporting
    from reconciler.controller import service

    params = context.params
    telling = service.Telling(params["metrics_file"], params["metrics_port"], reports, params["metrics_address"])
    running = service.Service(ours, wish, shown, telling, stop=interrupted.stop)
    with server.serving(options(context).settings, running):
        try:
            running.run()
        except CommandError as error:
            reporting.unfinished(running.host, reports, error)
            raise
    return running.superseded


def ended(interrupted: Interrupted, timeout: float | None) -> Exit:
    """The exit code of a service: that of the signal, or 6 where a pass has exceeded ``--timeout``."""
    if interrupted.signal:
        return interrupted.exit
    return Exit.OK if timeout is None else Exit.NOT_CONVERGED


def show_plan(context: click.Context, out: Path | None = None) -> int:
    from reconciler.cli import faults
    from reconciler.controller import assess, summary, withheld
    from reconciler.host import context as host
    from reconciler.output import console, print_plan

    chosen, params = options(context), context.params
    wish = wished(context)
    with host.reading(chosen.settings) as ours:
        faults.note_ignored(ours)
        found = assess.with_refetched(ours, assess.assess(ours, wish))
        if out is not None:
            save(out, ours, found, wish)
        last = ours.records.last_runs(one.key for one in found.plan.actions)
        plan = replace(found.plan, findings=(*found.plan.findings, *withheld.halted(found, last)))
        selected = assess.selected(ours.desired, params["selector"])
        images = set(ours.desired.images) if selected is None else selected
    if chosen.json:
        console.document(print_plan.plan_json(plan, ours.name))
    else:
        print_plan.show_plan(plan, diff=params["diff"])
    return summary.plan_exit_code(plan, images, detailed=params["detailed_exitcode"])


def save(out: Path, ours: Host, now: Assessment, wish: Wish) -> None:
    """Write the plan of ``now`` to a file. Raises Guarded where it has a layer whose digest is unresolved, and UsageError."""
    from reconciler.planner import plan_file

    plan_file.require_resolved(now.plan.actions)
    plan_file.write(out, saved(ours, now, wish))


def saved(ours: Host, now: Assessment, wish: Wish) -> Saved:
    """The plan of ``now``, with everything that it depends on."""
    from reconciler.planner import plan_file

    marks = (f"{key} {mark}" for key, mark in sorted(ours.records.marks().items()))
    runs = (f"{run.subject.path} {run.status}" for run in ours.records.open_runs())
    basis = plan_file.basis(ours.desired, now.observed, (*marks, *runs))
    names = ("prune", "selector", "grace", "most", "confirm_labels", "upgrade_layout")
    asked = {name: getattr(wish, name) for name in names}
    sources = plan_file.held_by(now.observed.resolutions.values(), now.observed.references.values())
    return plan_file.Saved(ours.name, time.time(), ours.revision, basis, asked, now.plan.actions, sources)


def as_wished(plan: Saved) -> Wish:
    """The wish that a saved plan was made for."""
    from reconciler.controller import assess

    return assess.Wish(**plan.wish)


def fetch(context: click.Context) -> Exit:
    """Fetch the layers whose digests are unresolved, and archives, and report those that can't be fetched."""
    from reconciler.controller import once
    from reconciler.host import context as host
    from reconciler.output import console

    chosen = options(context)
    with Interrupted().installed() as interrupted, host.writing(chosen.settings, stop=interrupted.stop) as ours:
        failed = once.fetch(ours, wished(context), console.progress("none" if chosen.json else "auto"), stop=interrupted.stop)
    for one in failed:
        console.note(f"error: {one.action.name}: {one.message}", "error", reason=one.reason)
    if interrupted.signal:
        return interrupted.exit
    return Exit.FAILED if failed else Exit.OK


@click.command()
@shared
@changing
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Also write the plan to FILE, for `reconcile apply FILE`."
)
@click.option("--fetch", "fetched", is_flag=True, help="With --out: first fetch the layers and archives that are unresolved.")
@click.pass_context
def plan(context: click.Context, /, out: Path | None, fetched: bool, **_: Any) -> int:
    """Show what would change, and why. Read-only, except with --fetch."""
    if fetched and out is None:
        raise UsageError("--fetch is for plans that are saved", hint="reconcile plan --out FILE --fetch")
    return (fetch(context) if fetched else Exit.OK) or show_plan(context, out)


@click.command()
@shared
@reported
@working
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 if something changed.")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def apply(context: click.Context, /, file: Path, detailed_exitcode: bool, progress: str, **_: Any) -> int:
    """Carry out the plan in FILE, unless anything has changed since.

    Exits with 5 if manifests, registry, pools or unpinned layers have changed.
    """
    from reconciler.cli import reporting
    from reconciler.controller import once as run_once
    from reconciler.controller import summary
    from reconciler.output import console, print_result
    from reconciler.planner import plan_file
    from reconciler.telemetry import activity

    chosen, plan = options(context), plan_file.read(file)
    wish = as_wished(plan)
    shown = activity.Board(console.progress("none" if chosen.json else progress), chosen.settings.running)
    with (
        Interrupted().installed() as interrupted,
        reporting.working(context, chosen.settings, interrupted.stop, told=(NotConverged,)) as (ours, reports),
    ):

        def approved(now: Assessment) -> Sequence[Action]:
            plan_file.check(plan, saved(ours, now, wish))
            return plan.actions

        result = run_once.converge(ours, wish, shown, stop=interrupted.stop, approved=approved, reports=reports)
    if chosen.json:
        console.document(print_result.result_json(result))
    else:
        print_result.show_result(result)
    return interrupted.exit if interrupted.signal else summary.exit_code(result, detailed=detailed_exitcode)


@click.command()
@shared
@click.option("--diff", is_flag=True, help="Show the fields of each change.")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def show(context: click.Context, /, file: Path, diff: bool, **_: Any) -> int:
    """Show the plan in FILE, and whether `apply` would accept it."""
    from reconciler.controller import assess
    from reconciler.host import context as host
    from reconciler.output import console, print_plan
    from reconciler.planner import plan_file

    chosen, plan = options(context), plan_file.read(file)
    if chosen.json:
        console.document(print_plan.plan_json(plan_file.as_plan(plan), plan.host))
    else:
        print_plan.show_plan(plan_file.as_plan(plan), diff=diff, saved=True)
    wish = as_wished(plan)
    with host.reading(chosen.settings, lenient=True) as ours:
        try:
            plan_file.check(plan, saved(ours, assess.assess(ours, wish), wish))
        except Guarded as stale:
            console.note(f"note: {stale}", "warning")
    return Exit.OK


@click.command()
@shared
@click.pass_context
def drift(context: click.Context, /, **_: Any) -> int:
    """Show what has changed on the host since the last run.

    Read-only; exits with 2 if something has changed.
    Declared objects that don't exist yet are no drift: `reconcile plan` shows them. No source is asked.
    """
    from reconciler.cli import faults
    from reconciler.controller import assess
    from reconciler.host import context as host
    from reconciler.output import console, print_plan
    from reconciler.planner.drift import drifted

    chosen = options(context)
    with host.reading(chosen.settings, lenient=True) as ours:
        faults.warn(ours.faults)
        found = drifted(assess.assess_offline(ours).plan)
        name = ours.name
    if chosen.json:
        console.document(print_plan.drift_json(found, name))
    else:
        print_plan.show_drift(found)
    return Exit.CHANGED if found.actions or found.findings else Exit.OK

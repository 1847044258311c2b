"""``fleet``: what all hosts that report to one database come to, and the tables of that database. No state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli import reporting
from reconciler.cli.options import FORMATS, TEXT, Duration, Forwarding, logged
from reconciler.cli.signals import Interrupted
from reconciler.errors import Exit, HostCannot, NotConverged, ReconcilerError, UsageError

if TYPE_CHECKING:
    from reconciler.fleet.sink import Session
    from reconciler.fleet.view import Member, Rollout
    from reconciler.manifests.selectors import Selector

SECONDS = 30.0
"""For one answer of the database."""
TURN_SECONDS = 2.0
"""How often ``wait`` asks."""


def sink(command: Callable[..., Any]) -> Callable[..., Any]:
    where = click.option(
        "--report-to", metavar="URL|FILE", envvar="RECONCILER_REPORT_TO", help="The database that the hosts report to."
    )
    return logged(where(command))


def reading(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        sink,
        click.option("-o", "--format", "format_", type=click.Choice(FORMATS), default="table", help="Output format."),
        click.option("-l", "--selector", metavar="SELECTOR", help="Only hosts with these labels: key=value,key!=value,key."),
    ):
        command = option(command)
    return command


@click.group(cls=Forwarding)
def fleet() -> None:
    """All hosts that report to one database: what they run, and why not."""


@contextmanager
def needing_the_sink() -> Iterator[None]:
    """Raises HostCannot for what the sink refuses, or does not answer."""
    try:
        yield
    except HostCannot:
        raise
    except ReconcilerError as error:
        raise HostCannot(error.message, hint=error.hint) from None


@contextmanager
def answering(context: click.Context) -> Iterator[Session]:
    """A session with the sink. Raises HostCannot where it does not answer, or has another schema."""
    from reconciler.fleet.sink import Sink

    where = reporting.required(context)
    with needing_the_sink(), Sink(where).session(SECONDS) as session:
        yield session


def selector(context: click.Context) -> Selector | None:
    from reconciler.manifests.selectors import Selector

    given = context.params["selector"]
    return Selector.parse(given) if given else None


def members(context: click.Context) -> list[Member]:
    from reconciler.fleet import view

    with answering(context) as session:
        return view.read(session, selector(context))


def show_hosts(found: list[dict[str, Any]]) -> None:
    from reconciler.output import console

    rows = [
        (one["name"], one["state"], one["revision"], f"{one['ready']}/{one['images']}", f"{one['reported']:.0f} s ago", why(one))
        for one in found
    ]
    console.table(("HOST", "STATE", "REVISION", "IMAGES", "REPORTED", "WHY"), rows)


def why(one: dict[str, Any]) -> str:
    reason = f"{one['reason']}: {one['message']}" if one["reason"] else ""
    return "; ".join([*([reason] if reason else []), *one["warnings"]]) or "-"


@fleet.command()
@reading
@click.pass_context
def status(context: click.Context, /, **_: Any) -> int:
    """Show how many hosts have converged on which revision, and which need you."""
    from reconciler.fleet import view
    from reconciler.output import console

    with answering(context) as session:
        found = view.status(session, view.read(session, selector(context)))
    if context.params["format_"] == "json":
        console.document(found)
        return Exit.OK
    states = ", ".join(f"{number} {state.lower()}" for state, number in found["states"].items() if number)
    console.data(f"{console.counted(found['hosts'], 'host')}: {states or 'none has reported'}")
    rows = [
        (one["revision"], one["hosts"], *(one["states"].get(state, 0) for state in found["states"])) for one in found["revisions"]
    ]
    console.data("")
    console.table(("REVISION", "HOSTS", *(state.upper() for state in found["states"])), rows)
    if found["troubles"]:
        console.data("")
        show_hosts(found["troubles"])
    for one in found["differing"]:
        chains = "; ".join(f"{chain[:12]} on {', '.join(hosts[:3])}" for chain, hosts in one["chains"].items())
        console.note(f"warning: image {one['image']} differs at {one['revision']}: {chains}", "warning", reason="ChainsDiffer")
    return Exit.OK


@fleet.command()
@reading
@click.pass_context
def hosts(context: click.Context, /, **_: Any) -> int:
    """List the hosts with their state, and why they have not converged."""
    from reconciler.output import console

    found = [one.json() for one in members(context)]
    if context.params["format_"] == "json":
        console.document({"hosts": found})
    else:
        show_hosts(found)
    return Exit.OK


@fleet.command()
@reading
@click.argument("name", type=TEXT)
@click.pass_context
def image(context: click.Context, /, name: str, **_: Any) -> int:
    """Show how an image is on each host that has it."""
    from reconciler.fleet import view
    from reconciler.output import console

    with answering(context) as session:
        found = view.image(session, name, view.read(session, selector(context)))
    if not found:
        raise UsageError(f"no host reports an image {name!r}", hint="reconcile fleet status")
    if context.params["format_"] == "json":
        console.document({"image": name, "hosts": found})
        return Exit.OK
    rows = [
        (
            *(one["host"], one["hostState"], one["phase"], (one["chain"] or "-")[:12]),
            *(f"{one['readySnapshots']}/{one['wantedSnapshots']}", one["revision"], one["reason"] or "-"),
        )
        for one in found
    ]
    console.table(("HOST", "STATE", "PHASE", "CHAIN", "SNAPSHOTS", "REVISION", "REASON"), rows)
    return Exit.OK


@fleet.command()
@reading
@click.argument("revision", type=TEXT)
@click.pass_context
def rollout(context: click.Context, /, revision: str, **_: Any) -> int:
    """Show how far a revision of the manifests has come."""
    from reconciler.fleet import view
    from reconciler.output import console

    found = view.rollout(revision, members(context))
    if context.params["format_"] == "json":
        console.document(found.json())
        return Exit.OK
    console.data(found.line())
    if waiting := found.waiting:
        console.data("")
        show_hosts([one.json() for one in waiting])
    return Exit.OK


@fleet.command()
@reading
@click.option("--revision", required=True, type=TEXT, metavar="REVISION", help="As hosts report it, or a commit.")
@click.option("--percent", type=click.FloatRange(0, 100), default=100.0, help="Of the selected hosts.  [default: 100]")
@click.option("--timeout", type=Duration(), default=1800.0, metavar="DURATION", help="Give up after this time.  [default: 30m]")
@click.option(
    "--max-failed", default="0", metavar="N|N%", help="Give up once more hosts with this revision report failures.  [default: 0]"
)
@click.pass_context
def wait(context: click.Context, /, revision: str, percent: float, timeout: float, max_failed: str, **_: Any) -> int:
    """Wait until a share of the hosts has converged on a revision, and gate the next ring with the exit code.

    Exits with 1 as soon as too many of them report failures, with 6 when time is up, with 69 if the database does not answer.
    """
    from reconciler.fleet import view
    from reconciler.output import console

    try:
        view.most(max_failed, 1)
    except ValueError:
        raise UsageError(f"--max-failed {max_failed} is not valid", hint="for example 0, 3, 5%") from None
    give_up, shown, problem = time.monotonic() + timeout, "", ""
    with Interrupted().installed() as interrupted:
        while True:
            found = None
            try:
                found = view.rollout(revision, members(context))
            except HostCannot as error:
                problem = str(error)
            if found is not None and (found.members or not timeout):
                if found.line() != shown and context.params["format_"] != "json":
                    console.note(shown := found.line())
                if len(found.failed) > view.most(max_failed, len(found.members)):
                    return ended(context, found, Exit.FAILED)
                if found.members and found.percent >= percent:
                    return ended(context, found, Exit.OK)
            if time.monotonic() >= give_up:
                return expired(context, found, problem, timeout)
            if interrupted.stop.wait(max(0.0, min(TURN_SECONDS, give_up - time.monotonic()))):
                return interrupted.exit


def ended(context: click.Context, found: Rollout, code: Exit) -> Exit:
    from reconciler.fleet import view
    from reconciler.output import console

    if context.params["format_"] == "json":
        console.document(found.json() | {"result": "failed" if code is Exit.FAILED else "converged"})
    if code is Exit.FAILED:
        for text in view.reasons(found.failed):
            console.note(f"error: {text}", "error", reason="RolloutFailed")
    return code


def expired(context: click.Context, found: Rollout | None, problem: str, timeout: float) -> Exit:
    """Raises HostCannot, NotConverged."""
    from reconciler.fleet import view
    from reconciler.output import console

    if found is None:
        raise HostCannot(problem, hint="see docs/fleet.md")
    if not found.members:
        raise NotConverged("no host with these labels reports", hint="reconcile fleet hosts")
    if context.params["format_"] == "json":
        console.document(found.json() | {"result": "expired"})
    for text in view.reasons(found.waiting):
        console.note(f"note: {text}", "notice")
    raise NotConverged(f"after {timeout:g} s: {found.line()}", hint=f"reconcile fleet rollout {found.revision}")


@fleet.command()
@sink
@click.pass_context
def migrate(context: click.Context, /, **_: Any) -> int:
    """Create the tables in the database, or upgrade them to those of this version."""
    from reconciler.fleet import migrate
    from reconciler.output import console

    where = reporting.required(context)
    with Interrupted().installed() as interrupted:
        try:
            with needing_the_sink():
                version = migrate.upgrade(where, unless=interrupted.stop.is_set)
        except HostCannot:
            if not interrupted.signal:
                raise
            console.note("stopped; tables are upgraded in one transaction: all of it was done, or nothing")
            return interrupted.exit
    console.note(f"{where.shown} has schema {version}")
    return Exit.OK

"""``--report-to``: the sink of the fleet that a run reports to, and that the verbs of ``fleet`` read. No state."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from reconciler.dataclass import replace
from reconciler.errors import CommandError, LockHeld, ManifestsInvalid, UsageError

if TYPE_CHECKING:
    from reconciler.controller.summary import Reports
    from reconciler.fleet.address import Address
    from reconciler.host.context import Host
    from reconciler.settings import Settings

ONCE_SECONDS = 10.0
"""How long `--once` waits for the sink at its end."""

LAST_LOOK_SECONDS = 5.0
"""How long a run that has ended before it was done waits for a pool."""


def address(context: click.Context) -> Address | None:
    """The sink of the option; None where it is not given. Raises UsageError."""
    if not (given := context.params["report_to"]):
        return None
    from reconciler.fleet import address

    return address.parse(given, public=context.get_parameter_source("report_to") is ParameterSource.COMMANDLINE)


def required(context: click.Context) -> Address:
    """Raises UsageError where it is not given."""
    if (found := address(context)) is None:
        raise UsageError("fleet needs the database that the hosts report to", hint="--report-to, or RECONCILER_REPORT_TO")
    return found


@contextmanager
def to_sink(context: click.Context, *, service: bool) -> Iterator[Reports | None]:
    """Report within the context; None where there is no sink. Raises UsageError, HostCannot."""
    if (found := address(context)) is None:
        yield None
        return
    from reconciler.fleet import sink
    from reconciler.fleet.reporter import Reporter

    sink.require_driver()
    with Reporter(found, service=service) if service else Reporter(found, service=False, patience=ONCE_SECONDS) as reports:
        yield reports


@contextmanager
def working(
    context: click.Context,
    settings: Settings,
    stop: threading.Event,
    *,
    service: bool = False,
    on_invalid: str = "fail",
    told: tuple[type[CommandError], ...] = (CommandError,),
) -> Iterator[tuple[Host, Reports | None]]:
    """The host that a run changes, and where it reports; what ends the run before it is done, of a type that is ``told``, too.

    A service reports its end itself: ``ours`` has the manifests of its start.

    Raises what ``host.context.writing`` and ``to_sink`` raise.
    """
    from reconciler.host import context as host

    try:
        with (
            host.writing(settings, stop=stop, on_invalid=on_invalid) as ours,
            to_sink(context, service=service) as reports,
        ):
            try:
                yield ours, reports
            except told as error:
                unfinished(ours, reports, error)
                raise
    except ManifestsInvalid as error:
        refused(context, settings, error)
        raise


def unfinished(host: Host, reports: Reports | None, error: CommandError) -> None:
    """Report the host as it is, and the error. One that can't be observed either is not reported."""
    if reports is None:
        return
    from reconciler.controller import assess, summary
    from reconciler.controller.executor import Ledger
    from reconciler.output import console

    try:
        now = assess.assess_offline(host, calls=host.calls, patience=LAST_LOOK_SECONDS)
    except Exception as failed:
        console.note(f"warning: not reported: {failed}", "warning")
        return
    reports.offer(host, now, summary.outcome(host.name, now.desired, now.observed, now.plan, Ledger(), 0.0), error)


def refused(context: click.Context, settings: Settings, error: ManifestsInvalid) -> None:
    """Report a host that refuses its manifests: as it is with those of before. A run that holds the lock reports by itself."""
    if address(context) is None:
        return
    from reconciler.host import context as host
    from reconciler.host.state_directory import make_state
    from reconciler.output import console
    from reconciler.registry.lock import lock
    from reconciler.registry.reader import Records

    try:
        make_state(settings.state)
        with (
            lock(settings.lock),
            Records.of(settings.registry) as records,
            host.reading(settings, lenient=True) as seen,
            to_sink(context, service=False) as reports,
        ):
            unfinished(replace(seen, records=records), reports, error)
    except LockHeld:
        return
    except Exception as failed:
        console.note(f"warning: not reported: {failed}", "warning")

"""Options that verbs share, and the settings that follow from them. An option given before the verb counts as given after it.

State: one ``Invocation`` a process, for the last-resort handler.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from reconciler.dataclass import dataclass
from reconciler.manifests.selectors import parse_labels
from reconciler.output import log
from reconciler.settings import Settings, default_host_file, default_state
from reconciler.sizes import parse_duration

FORMATS = ("table", "json")


@dataclass
class Invocation:
    """One run of the command, for the report of an internal error: its words, object and state directory."""

    words: Sequence[str] = ()
    debug: bool = False
    subject: str = ""
    state: Path | None = None


class Text(click.types.StringParamType):
    """Free text and names: UTF-8 whatever the locale, without bytes that no registry or terminal takes."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return os.fsencode(value).decode(errors="replace")
        except UnicodeEncodeError:  # given by a program, not by the shell
            return str(value).encode(errors="replace").decode()


TEXT = Text()


class Duration(click.ParamType[float]):
    """Seconds as a number, or a duration such as 90s or 15m; at least ``least``, more than that where ``above``."""

    name = "duration"

    def __init__(self, least: float = 0.0, *, above: bool = False) -> None:
        self._least, self._above = least, above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            try:
                seconds = parse_duration(value, zero=True)
            except ValueError as error:
                self.fail(f"{error}, or a number of seconds", param, ctx)
        if not (seconds > self._least if self._above else seconds >= self._least):
            self.fail(f"{value} is not {'more than' if self._above else 'at least'} {self._least:g} seconds", param, ctx)
        return seconds


@dataclass(frozen=True, slots=True)
class Options:
    """The options that every verb shares."""

    settings: Settings
    format: str

    @property
    def json(self) -> bool:
        return self.format == "json"


class Forwarding(click.Group):
    """A group whose options may be given before the verb: they are handed on to it, and beat the environment.

    An option that the verb doesn't use is a usage error.
    """

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, [*_handed_on(ctx, command), *rest] if command else rest


def _handed_on(context: click.Context, verb: click.Command) -> Iterator[str]:
    """The options of the command line so far, as words for the verb. Raises click.UsageError."""
    used = {param.name for param in verb.params if isinstance(param, click.Option)}
    for param in context.command.params:
        if not isinstance(param, click.Option) or param.is_eager or not param.name:
            continue
        if context.get_parameter_source(param.name) is not ParameterSource.COMMANDLINE:
            continue
        option = max(param.opts, key=len)
        if param.name not in used:
            raise click.UsageError(f"`reconcile {verb.name}` does not use {option}", ctx=context)
        yield option
        if not param.is_flag:
            yield str(context.params[param.name])


def _use_log_format(context: click.Context, param: click.Parameter, form: str) -> str:
    log.use(form)
    return form


def _use_debug(context: click.Context, param: click.Parameter, debug: bool) -> bool:
    invocation(context).debug |= debug
    return debug


def logged(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for standard error. Every verb has them."""
    for option in (
        click.option("--debug", is_flag=True, callback=_use_debug, help="Print the traceback of an internal error."),
        click.option(
            "--log-format",
            type=click.Choice(("text", "json")),
            envvar="RECONCILER_LOG_FORMAT",
            default="text",
            callback=_use_log_format,
            help="Format of the lines on standard error.  [default: text]",
        ),
    ):
        command = option(command)
    return command


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of all verbs that read manifests or state, or print an answer."""
    directory = click.Path(path_type=Path, readable=False)
    for option in (
        logged,
        click.option("-o", "--format", "format_", type=click.Choice(FORMATS), help="Output format.  [default: table]"),
        click.option("--state", type=directory, envvar="RECONCILER_STATE", help="State directory."),
        click.option("--host-file", type=directory, help="Name, labels and policy of this host."),
        click.option("-f", "--manifests", type=directory, envvar="RECONCILER_MANIFESTS", help="Directory of manifests."),
    ):
        command = option(command)
    return command


def invocation(context: click.Context) -> Invocation:
    return context.find_root().ensure_object(Invocation)


def options(context: click.Context) -> Options:
    """The shared options of a verb."""
    params = context.params
    settings = Settings(
        manifests=params.get("manifests") or Path("manifests"),
        state=(params.get("state") or default_state()).absolute(),
        jobs=params.get("jobs") or 2,
        downloads=params.get("downloads") or 4,
        timeout=params.get("timeout"),
        resync=params.get("interval") or 300.0,
        host_file=params.get("host_file") or default_host_file(),
        host_labels=parse_labels(os.environ.get("RECONCILER_HOST_LABELS", "")),
    )
    run = invocation(context)
    verb = context.command_path.partition(" ")[2]
    run.state, run.subject = settings.state, f"{verb} {params.get('object_') or ''}".strip()
    return Options(settings, params.get("format_") or "table")


def changing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the verbs that plan."""
    for option in (
        click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 if something changed or is pending."),
        click.option("-l", "--selector", metavar="SELECTOR", help="Only images with these labels: key=value,key!=value,key."),
        click.option(
            "--prune-grace",
            metavar="DURATION",
            envvar="RECONCILER_PRUNE_GRACE",
            help="Prune only what has been undeclared for this long: 0s, 2h, 3d.  [default: 15m]",
        ),
        click.option("--upgrade-layout", is_flag=True, help="Rebuild images of an older layout (with -l: these only)."),
        click.option("--confirm-labels", is_flag=True, help="Prune although the labels of this host have changed."),
        click.option(
            "--prune-max",
            metavar="N|N%",
            help="Refuse to prune more images or snapshots than this at once.  [default: 50%, or 5]",
        ),
        click.option("--prune", is_flag=True, help="Also remove what no manifest declares any more."),
        click.option("--diff", is_flag=True, help="Show the fields of each change."),
    ):
        command = option(command)
    return command


def working(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the verbs that converge."""
    for option in (
        click.option("--progress", type=click.Choice(("auto", "plain", "none")), default="auto", help="How to show progress."),
        click.option("--timeout", type=Duration(above=True), metavar="DURATION", help="Stop after this time."),
        click.option("--jobs", type=click.IntRange(1, 64), help="Volumes built at once from local layers.  [default: 2]"),
        click.option("--downloads", type=click.IntRange(1, 64), help="Volumes built at once while layers arrive.  [default: 4]"),
    ):
        command = option(command)
    return command


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """Of the runs that report to the sink of the fleet."""
    about = "Report to this PostgreSQL database (docs/fleet.md), or the one whose URL is in FILE."
    return click.option("--report-to", metavar="URL|FILE", envvar="RECONCILER_REPORT_TO", help=about)(command)


def about_layers(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the verbs that read layers given on the command line."""
    for option in (
        click.option("--anonymous", is_flag=True, help="Read s3:// layers without credentials."),
        click.option("--endpoint-url", metavar="URL", help="S3 endpoint of s3:// layers."),
        click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="A limit as in the manifest: maxEntries=9."),
    ):
        command = option(command)
    return command

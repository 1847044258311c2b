"""The command line: verbs, options, exit codes. Each verb builds its objects and calls one core function.

The only file that knows click. Everything heavy is imported by the verb that needs it, so that ``--help`` and completion answer
at once. ``main`` returns an exit code and is the one place where errors become words on standard error.
"""

from __future__ import annotations

import gc as garbage
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from reconciler import __version__
from reconciler.errors import CommandError, Exit, ReconcilerError, Stopped, UsageError
from reconciler.interrupt import Interrupted
from reconciler.labels import parse_labels
from reconciler.limits import parse as parse_limits
from reconciler.settings import Settings, default_state

FORMATS = ("table", "json")


@dataclass(frozen=True, slots=True)
class Options:
    """The options that every verb shares; given before the verb or behind it."""

    settings: Settings
    format: str

    @property
    def json(self) -> bool:
        return self.format == "json"


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("-o", "--format", "format_", type=click.Choice(FORMATS), help="Form of the answer.  [default: table]"),
        click.option("--state", type=click.Path(path_type=Path), envvar="RECONCILER_STATE", help="State directory."),
        click.option(
            "-f", "--manifests", type=click.Path(path_type=Path), envvar="RECONCILER_MANIFESTS", help="Directory of manifests."
        ),
    ):
        command = option(command)
    return command


def options(context: click.Context) -> Options:
    """The shared options: what stands behind the verb wins over what stands before it."""

    def given(name: str) -> Any:
        own = context.params.get(name)
        return own if own is not None else context.find_root().params.get(name)

    root = context.find_root().params
    settings = Settings(
        manifests=given("manifests") or Path("manifests"),
        state=(given("state") or default_state()).absolute(),
        jobs=root.get("jobs") or 2,
        timeout=given("timeout"),
        host_labels=parse_labels(os.environ.get("RECONCILER_HOST_LABELS", "")),
    )
    return Options(settings, given("format_") or "table")


def changing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the verbs that plan."""
    for option in (
        click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 where something changed or is pending."),
        click.option("-l", "--selector", metavar="SELECTOR", help="Only images with these labels: key=value,key!=value,key."),
        click.option("--prune", is_flag=True, help="Also remove what no manifest declares any more."),
        click.option("--diff", is_flag=True, help="Show the fields of each change."),
    ):
        command = option(command)
    return command


def about_layers(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the verbs that read layers given on the command line."""
    for option in (
        click.option("--anonymous", is_flag=True, help="Read s3:// layers without credentials."),
        click.option("--endpoint-url", metavar="URL", help="S3 endpoint for s3:// layers."),
        click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="As in the manifest: maxEntries=100000."),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="reconcile")
@shared
@changing
@click.option("--once", is_flag=True, help="Converge once and end.")
@click.option("--check", is_flag=True, help="Say what would change, as `plan` does, and change nothing.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Runs under way at once.  [default: 2]")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Give up after this time.")
@click.option("--progress", type=click.Choice(("auto", "plain", "none")), default="auto", help="How long work is shown.")
@click.pass_context
def cli(context: click.Context, /, once: bool, check: bool, **_: Any) -> int:
    """Make this host hold the root-filesystem images that a directory of manifests declares.

    Without a verb it converges: with --once it does so once; without, it goes on watching the manifests.
    """
    if context.invoked_subcommand is not None:
        return Exit.OK
    if check:
        return show_plan(context)
    return run(context, once=once)


def run(context: click.Context, *, once: bool) -> int:
    from reconciler import host, loop, outcome, report

    chosen, params = options(context), context.params
    wish = loop.Wish(prune=params["prune"], selector=params["selector"], diff=params["diff"])
    mode = "none" if chosen.json else params["progress"]
    with Interrupted().installed() as interrupted, host.writing(chosen.settings, stop=interrupted.stop) as ours:
        if not once:
            loop.watch(ours, wish, report.progress(mode), stop=interrupted.stop)
            return interrupted.exit
        result = loop.converge(ours, wish, report.progress(mode), stop=interrupted.stop)
    if chosen.json:
        report.document(report.result_json(result))
    else:
        report.show_result(result)
    if interrupted.signal:
        return interrupted.exit
    return outcome.exit_code(result, detailed=params["detailed_exitcode"])


def show_plan(context: click.Context) -> int:
    from reconciler import host, loop, outcome, report

    chosen, params = options(context), context.params
    with host.reading(chosen.settings) as ours:
        found = loop.look(ours, loop.Wish(prune=params["prune"], selector=params["selector"]))
        selected = loop.selected(ours.desired, params["selector"])
        images = set(ours.desired.images) if selected is None else selected
    if chosen.json:
        report.document(report.plan_json(found.plan, ours.name))
    else:
        report.show_plan(found.plan, diff=params["diff"])
    return outcome.plan_exit_code(found.plan, images, detailed=params["detailed_exitcode"])


@cli.command()
@shared
@changing
@click.pass_context
def plan(context: click.Context, /, **_: Any) -> int:
    """Say what would change, and why. Reads only."""
    return show_plan(context)


@cli.command()
@shared
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.pass_context
def validate(context: click.Context, /, paths: tuple[Path, ...], **_: Any) -> int:
    """Check manifests: every fault of every file. Needs no root, registry or network."""
    from reconciler import asking

    chosen = options(context)
    return asking.show_validity(paths or (chosen.settings.manifests,), json=chosen.json)


@cli.command()
def schema() -> int:
    """Print the JSON Schema of manifests, for editors."""
    from reconciler import documents, report

    report.document(documents.schema())
    return Exit.OK


@cli.command("list")
@shared
@click.argument("kind", required=False)
@click.pass_context
def list_(context: click.Context, /, kind: str | None, **_: Any) -> int:
    """Show images, snapshots, volumes and pools: state, size used, path."""
    from reconciler import asking, inventory, report

    chosen = options(context)
    wanted = asking.parse_kind(kind) if kind else None
    with asking.looking(chosen.settings) as ours:
        listing = inventory.listing(ours)
    if chosen.json:
        report.document(listing.json(wanted))
    else:
        listing.show(wanted)
    return Exit.OK


@cli.command()
@shared
@click.argument("object_", metavar="KIND/NAME")
@click.pass_context
def describe(context: click.Context, /, object_: str, **_: Any) -> int:
    """Tell all that is known of one object: what is declared, what is there, its runs and events."""
    from reconciler import asking, inventory, report

    chosen = options(context)
    kind, name = asking.parse_object(object_)
    with asking.looking(chosen.settings) as ours:
        told = inventory.describe(ours, kind, name)
    if chosen.json:
        report.document(told)
    else:
        inventory.show_description(told)
    return Exit.OK


@cli.command()
@shared
@click.argument("object_", metavar="[KIND/NAME]", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest N events.")
@click.pass_context
def events(context: click.Context, /, object_: str | None, limit: int, **_: Any) -> int:
    """Show what happened, oldest first."""
    from reconciler import asking, inventory, report

    chosen = options(context)
    kind, name = asking.parse_object(object_) if object_ else (None, None)
    with asking.looking(chosen.settings) as ours:
        found = inventory.events(ours, kind, name, limit)
    if chosen.json:
        report.document({"events": found})
    else:
        inventory.show_events(found)
    return Exit.OK


@cli.command()
@shared
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest N runs.")
@click.option("--release", is_flag=True, help="You have looked: let the run RUN, which waits for a person, try again.")
@click.option("--cancel", is_flag=True, help="End the run RUN; what it was for is planned anew.")
@click.pass_context
def runs(context: click.Context, /, run_id: str | None, limit: int, release: bool, cancel: bool, **_: Any) -> int:
    """Show state machine runs, or one run with each of its transitions."""
    from reconciler import asking, host, inventory, report

    chosen = options(context)
    if release or cancel:
        if run_id is None or (release and cancel):
            raise UsageError("--release and --cancel are for one run", hint="name it: reconcile runs RUN --release")
        with host.writing(chosen.settings, stop=threading.Event()) as ours:
            inventory.settle(ours, run_id, release=release)
    with asking.looking(chosen.settings) as ours:
        found = inventory.runs(ours, run_id, limit)
    if chosen.json:
        report.document({"runs": found})
    else:
        inventory.show_runs(found)
    return Exit.OK


@cli.command()
@shared
@click.pass_context
def health(context: click.Context, /, **_: Any) -> int:
    """Look at the host, pools, registry and S3; say what is wrong and what to do."""
    from reconciler import asking, checks

    chosen = options(context)
    found = checks.health(chosen.settings)
    return asking.show_checks(found, json=chosen.json)


@cli.command()
@shared
@click.argument("names", nargs=-1)
@click.pass_context
def verify(context: click.Context, /, names: tuple[str, ...], **_: Any) -> int:
    """Cross-check pool, registry and file systems (of the named images, or of all). Reads only."""
    from reconciler import asking, checks

    chosen = options(context)
    with asking.looking(chosen.settings) as ours:
        found = checks.verify(ours, names)
    return asking.show_checks(found, json=chosen.json)


@cli.command()
@shared
@click.argument("layer")
@about_layers
@click.pass_context
def inspect(
    context: click.Context, /, layer: str, limits: tuple[str, ...], endpoint_url: str | None, anonymous: bool, **_: Any
) -> int:
    """Judge one tar: members and totals, or the reason why it is refused."""
    from reconciler import oneshot, report

    chosen = options(context)
    with Interrupted().installed() as interrupted:
        verdict = oneshot.inspect(
            oneshot.source(layer, endpoint_url, anonymous), parse_limits(limits), chosen.settings, stop=interrupted.stop
        )
    if chosen.json:
        report.document(verdict)
    else:
        oneshot.show_verdict(verdict)
    return Exit.OK if verdict["verdict"] == "accept" else Exit.FAILED


@cli.command()
@shared
@click.argument("layers", nargs=-1, required=True)
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The image file to write.")
@click.option("--size", required=True, metavar="SIZE", help="Size of the file system, e.g. 8GiB.")
@about_layers
@click.option("--progress", type=click.Choice(("auto", "plain", "none")), default="auto", help="How long work is shown.")
@click.pass_context
def build(
    context: click.Context,
    /,
    layers: tuple[str, ...],
    output: Path,
    size: str,
    limits: tuple[str, ...],
    endpoint_url: str | None,
    anonymous: bool,
    progress: str,
    **_: Any,
) -> int:
    """Turn tar layers into one ext4 image. Needs no registry, no root, no mount."""
    from reconciler import oneshot, report

    chosen = options(context)
    sources = [oneshot.source(layer, endpoint_url, anonymous) for layer in layers]
    shown = report.progress("none" if chosen.json else progress)
    with Interrupted().installed() as interrupted, shown:
        built = oneshot.build(
            sources, output.absolute(), oneshot.size(size), parse_limits(limits), chosen.settings, shown, stop=interrupted.stop
        )
    if chosen.json:
        report.document(built)
    else:
        oneshot.show_built(built)
    return Exit.OK


def mending(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the verbs that mend a thin pool."""
    for option in (
        click.option("--apply", "apply_", is_flag=True, help="Do it. Without this, only say what would be done."),
        click.argument("pool"),
        shared,
    ):
        command = option(command)
    return command


def mend(context: click.Context, act: str, *arguments: Any) -> int:
    from reconciler import asking

    chosen = options(context)
    return asking.mend(chosen.settings, act, context.params["pool"], *arguments, apply=context.params["apply_"], json=chosen.json)


@cli.command()
@mending
@click.option("--snapshot", "named", multiple=True, metavar="NAME=ID", help="The thin id ID is the snapshot NAME.")
@click.pass_context
def adopt(context: click.Context, /, named: tuple[str, ...], **_: Any) -> int:
    """Make the registry agree with a thin pool that contradicts it."""
    from reconciler import asking

    return mend(context, "adopt", asking.parse_named(named))


@cli.command()
@mending
@click.pass_context
def gc(context: click.Context, /, **_: Any) -> int:
    """Delete what was once made in a thin pool, and nothing knows any more."""
    return mend(context, "gc")


@cli.command()
@mending
@click.pass_context
def detach(context: click.Context, /, **_: Any) -> int:
    """Take a thin pool out of the kernel; what it holds stays."""
    return mend(context, "detach")


@cli.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> int:
    """Print the completion script of a shell: eval "$(reconcile completion bash)"."""
    from click.shell_completion import get_completion_class

    from reconciler import report

    found = get_completion_class(shell)
    assert found is not None
    report.data(found(cli, {}, "reconcile", "_RECONCILE_COMPLETE").source())
    return Exit.OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error of ours ends here as one clear message."""
    garbage.set_threshold(
        50_000
    )  # importing and reading make many objects and few cycles: looking for those cost a tenth of the time
    try:
        code = cli.main(args=list(sys.argv[1:] if argv is None else argv), prog_name="reconcile", standalone_mode=False)
        return int(code) if code is not None else Exit.OK
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as error:
        error.show()
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        return Exit.SIGINT
    except CommandError as error:
        complain(error)
        return error.exit
    except Stopped as error:
        complain(error)
        return Exit.SIGINT
    except ReconcilerError as error:
        complain(error)
        return Exit.FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on; Python must not complain at exit
        return Exit.OK


def complain(error: ReconcilerError) -> None:
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint:  {error.hint}", err=True)


if __name__ == "__main__":
    sys.exit(main())

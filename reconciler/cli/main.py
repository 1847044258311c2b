"""The command line: one group of the ``verbs``, exit codes, and errors in words.

``main`` returns an exit code and is the one place where errors become words on standard error. Besides ``verbs`` this is the only
file that knows click.
"""

from __future__ import annotations

import gc as garbage
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from reconciler import __version__
from reconciler.cli.options import changing, shared
from reconciler.errors import CommandError, Exit, ReconcilerError, Stopped
from reconciler.output import log

VERBS = {
    "Converge": ("converge.plan", "converge.apply", "converge.show", "converge.drift"),
    "Look": (
        *("show.list", "show.describe", "manifests.get", "show.graph", "live.top"),
        *("show.events", "show.runs", "show.health", "show.verify"),
    ),
    "Steer": (
        *("steer.suspend", "steer.resume", "steer.protect", "steer.unprotect"),
        *("steer.retry", "steer.wait"),
    ),
    "Write manifests": ("show.validate", "manifests.explain", "show.schema"),
    "Layers by hand": ("layers.inspect", "layers.build"),
    "Mend": ("state.state", "state.import", "pools.adopt", "pools.gc", "pools.detach"),
    "Shell": ("main.completion",),
}
"""By what they are for, as ``--help`` shows them; each behind its module of ``verbs``, or this one."""

HOMES = {verb: module for places in VERBS.values() for module, _, verb in (place.partition(".") for place in places)}


class Grouped(click.Group):
    """A command whose help lists its verbs by what they are for. Loads those that it is asked for: one, as a rule."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands or cmd_name not in HOMES:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"reconciler.cli.{HOMES[cmd_name]}")
        # A verb that is one of Python's own words has an underscore behind it there.
        found: click.Command = vars(module).get(cmd_name) or vars(module)[f"{cmd_name}_"]
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in HOMES:  # click looks among the loaded ones for what may have been meant
            self.commands.update({verb: found for verb in HOMES if (found := self.get_command(ctx, verb))})
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, places in VERBS.items():
            verbs = (self.get_command(ctx, place.partition(".")[2]) for place in places)
            with formatter.section(title):
                formatter.write_dl([(str(verb.name), verb.get_short_help_str(110)) for verb in verbs if verb])
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), meaning) for code, meaning in EXITS.items()])


EXITS = {
    Exit.OK: "success (with --detailed-exitcode: and nothing changed or is pending)",
    Exit.FAILED: "an object failed; a layer is refused",
    Exit.CHANGED: "only with --detailed-exitcode: changes made or pending; drift found",
    Exit.INVALID: "manifests invalid; nothing touched",
    Exit.GUARDED: "refused by a guard",
    Exit.NOT_CONVERGED: "not converged in time; safe to run again",
    Exit.USAGE: "the command line is wrong",
    Exit.HOST_CANNOT: "this host can't: no device-mapper, no permission, pool missing",
    Exit.LOCKED: "another reconciler holds the lock",
    Exit.SIGINT: "stopped by SIGINT at a step's boundary; SIGTERM is 143",
}


@click.group(
    cls=Grouped, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="reconcile")
@shared
@changing
@click.option("--once", is_flag=True, help="Converge once and end.")
@click.option("--check", is_flag=True, help="Say what would change, as `plan` does, and change nothing.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Runs under way at once.  [default: 2]")
@click.option(
    "--interval",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Look at everything again after this time.  [default: 300]",
)
@click.option("--metrics-file", type=click.Path(path_type=Path), help="Write Prometheus metrics to FILE after each pass.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Serve Prometheus metrics on 127.0.0.1:PORT.")
@click.option("--prune-grace", metavar="DURATION", help="Prune only what has been undeclared for so long: 15m, 2h, 3d.")
@click.option(
    "--on-invalid",
    type=click.Choice(("freeze", "hold", "fail")),
    help="With faults in a manifest its file stays as it was, all do, or nothing is done.  [default: freeze; with --once fail]",
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Give up after this time.")
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    envvar="RECONCILER_LOG_FORMAT",
    default="text",
    help="Form of the lines on standard error.  [default: text]",
)
@click.option("--progress", type=click.Choice(("auto", "plain", "none")), default="auto", help="How long work is shown.")
@click.pass_context
def cli(context: click.Context, /, once: bool, check: bool, log_format: str, **_: Any) -> int:
    """Make this host hold the root-filesystem images that a directory of manifests declares.

    Without a verb it converges: with --once it does so once; without, it goes on watching the manifests.
    """
    log.use(log_format)
    if context.invoked_subcommand is not None:
        return Exit.OK
    from reconciler.cli import converge

    if check:
        return converge.show_plan(context)
    return converge.run(context, once=once)


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> int:
    """Print the completion script of a shell: eval "$(reconcile completion bash)"."""
    from click.shell_completion import get_completion_class

    from reconciler.output import console

    found = get_completion_class(shell)
    assert found is not None
    console.data(found(cli, {}, "reconcile", "_RECONCILE_COMPLETE").source())
    return Exit.OK


cli.add_command(completion)


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
    log.write(f"error: {error.message}", "error", reason=error.reason, hint=error.hint if log.is_json() else "")
    if error.hint and not log.is_json():
        log.write(f"hint:  {error.hint}", "error")


if __name__ == "__main__":
    sys.exit(main())

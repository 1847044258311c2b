"""The command line: verbs in groups, exit codes, and errors as lines on standard error.

``main`` returns the exit code; every error ends here. State: none.
"""

from __future__ import annotations

import errno
import gc as garbage
import importlib
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from reconciler import __version__
from reconciler.cli.options import Duration, Forwarding, Invocation, changing, logged, reported, shared, working
from reconciler.errors import CommandError, Exit, HostCannot, ManifestsInvalid, ReconcilerError, Stopped
from reconciler.output import log, streams

VERBS = {
    "Converge": ("converge.plan", "converge.apply", "converge.show", "converge.drift"),
    "Inspect": (
        *("inspect.list", "inspect.describe", "manifests.get", "inspect.graph", "top.top"),
        *("inspect.events", "inspect.runs", "inspect.health", "inspect.verify"),
    ),
    "Operate": (
        *("operate.suspend", "operate.resume", "operate.protect", "operate.unprotect"),
        *("operate.retry", "operate.wait"),
    ),
    "Claim": ("claims.claim", "claims.renew", "claims.release", "claims.recycle", "boot.boot-config"),
    "Fleet": ("fleet.fleet",),
    "Author": ("inspect.validate", "manifests.explain", "inspect.schema", "pin.pin", "layers.inspect", "layers.build"),
    "Repair": ("state.state", "state.import", "pools.adopt", "pools.gc", "pools.detach"),
    "Shell": ("main.completion",),
}
"""The verbs in the groups of ``--help``, each with its module of this package."""

HOMES = {verb: module for places in VERBS.values() for module, _, verb in (place.partition(".") for place in places)}


class Grouped(Forwarding):
    """The command, whose help lists its verbs in groups. Imports the module of a verb when the verb is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands or cmd_name not in HOMES:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"reconciler.cli.{HOMES[cmd_name]}")
        # A verb that is a word of Python's own has an underscore behind it there.
        found: click.Command = vars(module).get(cmd_name.replace("-", "_")) or vars(module)[f"{cmd_name}_"]
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in HOMES:  # click suggests a similar one of the verbs that are loaded
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
    Exit.USAGE: "usage error",
    Exit.HOST_CANNOT: "the host can't: no device-mapper, no permission, pool missing",
    Exit.INTERNAL: "internal error: one line names the report",
    Exit.LOCKED: "another reconciler holds the lock",
    Exit.SIGINT: "stopped by SIGINT; SIGTERM is 143",
}


@click.group(
    cls=Grouped, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="reconcile")
@shared
@changing
@click.option("--once", is_flag=True, help="Converge once and exit.")
@click.option("--check", is_flag=True, help="Show what would change, as `plan` does, and change nothing.")
@click.option(
    "--interval",
    type=Duration(1),
    metavar="DURATION",
    help="Observe everything again after this time.  [default: 300]",
)
@click.option("--metrics-file", type=click.Path(path_type=Path), help="Write Prometheus metrics to FILE after each pass.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Serve Prometheus metrics on PORT.")
@click.option("--metrics-address", default="127.0.0.1", show_default=True, help="Serve them on this address of the host.")
@reported
@click.option(
    "--on-invalid",
    type=click.Choice(("freeze", "hold", "fail")),
    help="If a manifest is invalid: keep its last valid text, keep that of all files, or do nothing."
    "  [default: freeze; with --once fail]",
)
@working
@click.pass_context
def cli(context: click.Context, /, once: bool, check: bool, **_: Any) -> int:
    """Make this host hold the root-filesystem images that a directory of manifests declares.

    Without a verb, converge: once with --once, else again whenever manifests, pools or time require it.
    """
    if context.invoked_subcommand is not None:
        return Exit.OK
    from reconciler.cli import converge

    if check:
        return converge.show_plan(context)
    return converge.run(context, once=once)


@click.command()
@logged
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str, **_: Any) -> int:
    """Print the completion script of a shell.

    For bash: eval "$(reconcile completion bash)"
    """
    from click.shell_completion import get_completion_class

    from reconciler.output import console

    found = get_completion_class(shell)
    assert found is not None
    console.data(found(cli, {}, "reconcile", COMPLETE).source())
    return Exit.OK


cli.add_command(completion)

COMPLETE = "_RECONCILE_COMPLETE"
"""The environment variable by which a shell asks for completions."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error ends here as lines on standard error."""
    garbage.set_threshold(50_000)  # importing and reading make many objects and few cycles: collecting those costs a tenth
    streams.prepare()
    current = Invocation(list(sys.argv[1:] if argv is None else argv))
    threading.excepthook = lambda ended: report(ended.exc_value, current)
    try:
        return _code_of(current)
    except Exception as error:  # the last resort
        return report(error, current)
    finally:
        threading.excepthook = threading.__excepthook__
        streams.settle()


def report(error: BaseException | None, current: Invocation) -> Exit:
    """Report an exception that ended the command, or one of its threads."""
    from reconciler.cli import crash

    if error is not None:
        crash.report(error, current)
    return Exit.INTERNAL


def _run(current: Invocation) -> int:
    if COMPLETE in os.environ:
        return _complete(current)
    with cli.make_context("reconcile", list(current.words), obj=current) as context:
        return int(cli.invoke(context) or Exit.OK)


def _complete(current: Invocation) -> int:
    """Print completions for a shell; nothing on any error."""
    try:
        cli.main(args=list(current.words), prog_name="reconcile", complete_var=COMPLETE, standalone_mode=False, obj=current)
    except (Exception, SystemExit):
        return Exit.OK
    return Exit.OK


def _code_of(current: Invocation) -> int:
    """Run the command; errors that are expected become lines and an exit code."""
    try:
        return _run(current)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "reconcile"
        return complain(ReconcilerError(" ".join(error.format_message().split()), hint=f"{where} --help"), Exit.USAGE)
    except (click.Abort, KeyboardInterrupt) as error:
        return Exit(getattr(error, "exit", Exit.SIGINT))
    except ManifestsInvalid as error:
        from reconciler.cli import faults

        return faults.report(error)
    except (CommandError, Stopped) as error:
        return complain(error, error.exit)
    except ReconcilerError as error:
        return complain(error, Exit.FAILED)
    except BrokenPipeError:
        if not streams.is_closed(sys.stdout):
            raise
        streams.discard(sys.stdout)
        return Exit.OK
    except OSError as error:
        if error.errno not in OF_THE_HOST:
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        return complain(HostCannot(what, hint=OF_THE_HOST[error.errno]), Exit.HOST_CANNOT)


OF_THE_HOST = {
    errno.EACCES: "run as the user who owns it, or check its permissions",
    errno.EPERM: "run as the user who owns it, or check its permissions",
    errno.EROFS: "its file system is mounted read-only",
    errno.ENOSPC: "free space on its file system",
    errno.EDQUOT: "free space in the quota of its owner",
    errno.EIO: "check the disk and the kernel's log",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files (fs.file-max)",
}
"""Errors of the operating system that the host's administrator can remove, each with a hint."""


def complain(error: ReconcilerError, code: Exit) -> Exit:
    """Write the error and its hint; return the exit code."""
    reason = "Usage" if code is Exit.USAGE else error.reason
    log.write(f"error: {error.message}", "error", reason=reason, hint=error.hint if log.is_json() else "")
    if error.hint and not log.is_json():
        log.write(f"hint:  {error.hint}", "error")
    return code


if __name__ == "__main__":
    sys.exit(main())

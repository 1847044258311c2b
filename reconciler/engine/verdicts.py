"""What an attempt of a run leads to: the run afterwards, and the entry for its history. Pure; called by ``engine``."""

from __future__ import annotations

import random
from pathlib import Path

from reconciler.dataclass import replace
from reconciler.engine.definitions import (
    Entry,
    Machine,
    Result,
    Retry,
    Run,
    Status,
)
from reconciler.errors import CommandError, NeedsOperator, Retryable, Stopped, Terminal, visible

INTERNAL_ATTEMPTS = 2
"""Attempts of a step that fails by an internal error: the second separates a rare state from a plain mistake."""


def after_error(run: Run, retry: Retry, error: Exception, elapsed: float, now: float, rng: random.Random) -> tuple[Run, Entry]:
    """The run after an attempt of ``elapsed`` seconds that raised ``error``, and the entry for its history."""
    reason, message = describe(error)
    attempt = run.attempt + 1
    failed = replace(run, attempt=attempt, crashes=0, status=Status.FAILED, reason=reason, message=message)
    if isinstance(error, NeedsOperator):
        return replace(failed, status=Status.NEEDS_OPERATOR), Entry(Result.NEEDS_OPERATOR, reason, message)
    if isinstance(error, Terminal | CommandError):
        return failed, Entry(Result.FAILED, reason, message)
    limit = retry.attempts if isinstance(error, Retryable) else min(INTERNAL_ATTEMPTS, retry.attempts)
    delay = retry.delay(attempt, rng)
    spent = run.spent + elapsed + delay
    if attempt >= limit or spent > retry.total:
        text = f"{message}; failed after {attempt} attempt{'s' * (attempt > 1)}"
        return replace(failed, spent=spent, message=text), Entry(Result.FAILED, reason, text)
    waiting = replace(failed, status=Status.ACTIVE, spent=spent, not_before=now + delay)
    return waiting, Entry(Result.RETRY, reason, message)


def paused(run: Run, error: Exception) -> tuple[Run, Entry]:
    return run, Entry(Result.STOPPED, *describe(error))


def describe(error: Exception) -> tuple[str, str]:
    """Reason and message of an error; one that isn't ours names the innermost calls as well."""
    if isinstance(error, Retryable | Terminal | NeedsOperator | Stopped | CommandError):
        return error.reason, str(error)
    import traceback

    frames = traceback.extract_tb(error.__traceback__)[-3:]
    trail = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return "InternalError", visible(f"{type(error).__name__}: {error} [{trail}]")


def rested(run: Run) -> Run:
    return replace(run, attempt=0, spent=0.0, crashes=0, not_before=0.0)


def called_off(run: Run) -> bool:
    return bool(run.cancel) or run.status is not Status.ACTIVE


def stopped_for_operator(run: Run, reason: str, message: str) -> tuple[Run, Entry]:
    after = replace(run, status=Status.NEEDS_OPERATOR, reason=reason, message=message)
    return after, Entry(Result.NEEDS_OPERATOR, reason, message)


def unknown(run: Run, machine: Machine | None) -> tuple[Run, Entry]:
    what = f"machine {run.machine!r} is" if machine is None else f"state {run.state!r} of machine {run.machine!r} is"
    text = f"{run.subject}: {what} unknown to this version: another version wrote it; use that version, or cancel the run"
    return stopped_for_operator(run, "UnknownState", text)


def redefined(run: Run, machine: Machine) -> tuple[Run, Entry]:
    text = f"{run.subject}: machine {machine.name!r} has changed since the run began; continuing from {run.state!r}"
    return replace(run, digest=machine.digest), Entry(Result.NOTED, "DefinitionChanged", text)


def crashed(run: Run) -> tuple[Run, Entry]:
    text = f"crash loop: {run.crashes} crashes in step {run.state}; check the log"
    return stopped_for_operator(run, "CrashLoop", text)

"""SIGKILL at any SQL statement of a run: what is on disk agrees with itself, and the run goes on from there."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path

import pytest

from reconciler.engine.definitions import Context, Machine, Outcome, Result, Run, Status, Step
from reconciler.engine.engine import Engine
from reconciler.engine.facts import VolumeSealed
from reconciler.model import Key, Kind, VolumeRow
from reconciler.registry.writer import Registry

STATES = ("downloading", "provisioning", "ready")
ROOT = Path(__file__).resolve().parents[2]


def machine(effects: Path) -> Machine:
    """Two steps; each leaves a line in ``effects``, as a device would be left, and returns a volume of its own."""

    def act(context: Context) -> Outcome:
        with effects.open("a") as file:
            file.write(f"{context.run.state}\n")
        row = VolumeRow("default", context.run.state, None, 1, (), "")
        return Outcome({context.run.state: True}, facts=(VolumeSealed(row),))

    steps = tuple(Step(state, act, following) for state, following in pairwise(STATES))
    return Machine("volume", steps, STATES[0], frozenset({"ready"}))


def engine(state: Path, registry: Registry) -> Engine:
    return Engine(registry, [machine(state / "effects")])


def begin(state: Path) -> None:
    with Registry.open(state / "registry.sqlite3") as registry:
        engine(state, registry).open("volume", Key(Kind.VOLUME, "default", "c0ffee"), {})


def execute_until(state: Path, statement: int) -> None:
    """Execute the run; the process dies just before that statement of it, counting those that change something."""
    registry = quick(state)
    left = count(statement - 1, -1)

    def before(sql: str) -> None:
        if not sql.startswith("SELECT") and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    registry._raw.set_trace_callback(before)
    for run in registry.open_runs():
        engine(state, registry).execute(run.id)


def quick(state: Path) -> Registry:
    """Without waiting for the disk: a killed process, unlike a power cut, loses nothing that it has handed to the kernel."""
    registry = Registry.open(state / "registry.sqlite3")
    registry._raw.execute("PRAGMA synchronous = OFF")
    return registry


def crash_everywhere(root: Path) -> None:
    """Die at the first statement, at the second, and so on until a run gets through; each in a state directory of its own."""
    begin(root / "begun")
    for statement in count(1):
        state = shutil.copytree(root / "begun", root / f"{statement:03}")
        if (child := os.fork()) == 0:
            execute_until(state, statement)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """State directories, each left by a process that died one statement later; in the last one it got through.

    Made by a process without threads, because it forks.
    """
    root = tmp_path_factory.mktemp("crashed")
    code = (
        f"import pathlib; from tests.registry.test_crashes import crash_everywhere; crash_everywhere(pathlib.Path({str(root)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return sorted(root.glob("0*"))


def left_behind(crashed: list[Path]) -> Iterator[tuple[Path, Registry, Run]]:
    for state in crashed:
        with quick(state) as registry:
            yield state, registry, registry.runs()[0]


def test_state_facts_data_and_history_agree_wherever_the_process_died(crashed: list[Path]) -> None:
    reached = set()
    for state, registry, run in left_behind(crashed):
        passed = list(STATES[: STATES.index(run.state)])
        history = registry.transitions(run.id)
        reached.add(run.state)

        assert sorted(chain for _, chain in registry.volumes()) == sorted(passed), state
        assert list(run.data) == sorted(passed)
        assert [t.from_state for t in history if t.result is Result.ADVANCED] == passed
        assert [e.reason.lower() for e in registry.events()][1:] == list(STATES[1 : len(passed) + 1])
        assert (run.status is Status.DONE) == (run.state == "ready")
    assert len(crashed) >= 20, "every statement was a place to die at"
    assert reached == set(STATES)


def test_whatever_was_cut_off_is_resumed_and_nothing_committed_is_done_again(crashed: list[Path]) -> None:
    for state, registry, run in left_behind(crashed):
        passed = STATES.index(run.state)
        before = effects(state)
        for resumed in registry.open_runs():
            engine(state, registry).execute(resumed.id)

        assert registry.run(run.id).status is Status.DONE, state
        assert sorted(chain for _, chain in registry.volumes()) == sorted(STATES[:-1])
        assert effects(state)[len(before) :] == list(STATES[passed:-1])
        assert passed <= len(before) <= passed + 1, "at most the step under way had acted without being recorded"


def effects(state: Path) -> list[str]:
    path = state / "effects"
    return path.read_text().split() if path.exists() else []


def test_the_files_are_sound_wherever_the_process_died(crashed: list[Path]) -> None:
    for state in crashed:
        with sqlite3.connect(state / "registry.sqlite3") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.close()

"""Runs that act together: one transaction a step, however many they are, and each with a result of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from reconciler.engine.definitions import Context, Entry, Machine, Outcome, Run, Status, Step
from reconciler.errors import HostCannot, SourceUnavailable, Stopped, VolumeCorrupt
from reconciler.model import Key, Kind
from tests.engine.test_engine import World

Many = Callable[[Sequence[Context]], Sequence[Outcome | Exception]]
REQUESTS = [(Key(Kind.SNAPSHOT, "p", f"s{n}"), {"n": n}) for n in range(40)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "registry.sqlite3")
    yield world
    world.registry.close()


def alone(context: Context) -> Outcome:
    return Outcome({"alone": True})


def machine(many: Many) -> Machine:
    def admit(contexts: Sequence[Context]) -> Sequence[Outcome | Exception]:
        return [Outcome() for _ in contexts]

    steps = (Step("pending", alone, "making", act_many=admit), Step("making", alone, "ready", act_many=many))
    return Machine("snapshot", steps, "pending", frozenset({"ready"}))


def test_each_run_has_its_own_result_and_all_are_committed_together(world: World) -> None:
    def make(contexts: Sequence[Context]) -> Sequence[Outcome | Exception]:
        return [
            VolumeCorrupt("bad") if context.run.input["n"] == 7 else Outcome({"id": context.run.input["n"]})
            for context in contexts
        ]

    before = world.registry.serial
    runs = world.engine(machine(make)).execute_many("snapshot", REQUESTS)

    assert world.registry.serial - before <= 4, "opened, admitted, made: not one transaction for each run"
    assert [run.data.get("id") for run in runs] == [None if n == 7 else n for n in range(40)]
    assert {run.status for run in runs} == {Status.DONE, Status.FAILED}
    assert runs[7].reason == "FilesystemCorrupt"
    assert world.results(runs[0]) == ["advanced", "advanced"]
    assert not world.registry.open_runs()


def test_one_that_is_to_be_retried_goes_on_by_itself(world: World) -> None:
    def make(contexts: Sequence[Context]) -> Sequence[Outcome | Exception]:
        return [SourceUnavailable("busy") if context.run.input["n"] == 3 else Outcome() for context in contexts]

    runs = world.engine(machine(make)).execute_many("snapshot", REQUESTS)

    assert {run.status for run in runs} == {Status.DONE}
    assert world.results(runs[3]) == ["advanced", "retry", "advanced"]
    assert runs[3].data == {"alone": True}


def test_an_error_of_the_whole_batch_is_each_runs_error(world: World) -> None:
    def make(contexts: Sequence[Context]) -> Sequence[Outcome | Exception]:
        raise VolumeCorrupt("all of it")

    runs = world.engine(machine(make)).execute_many("snapshot", REQUESTS)

    assert {(run.status, run.message) for run in runs} == {(Status.FAILED, "all of it")}


def test_runs_that_were_interrupted_are_taken_up_again(world: World) -> None:
    """The process dies while the batch acts: the runs are as they were before it, and each counts one interruption."""

    def die(contexts: Sequence[Context]) -> Sequence[Outcome | Exception]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.engine(machine(die)).execute_many("snapshot", REQUESTS)
    world.restart()

    runs = world.engine(machine(lambda contexts: [Outcome() for _ in contexts])).execute_many("snapshot", REQUESTS)

    assert {run.status for run in runs} == {Status.DONE}
    assert world.results(runs[0]) == ["advanced", "interrupted", "advanced"]


def test_a_stop_leaves_all_of_them_to_be_taken_up_again(world: World) -> None:
    def stop(contexts: Sequence[Context]) -> Sequence[Outcome | Exception]:
        world.stop.set()
        contexts[0].check()
        return []

    runs = world.engine(machine(stop)).execute_many("snapshot", REQUESTS)

    assert {(run.status, run.state, run.attempt) for run in runs} == {(Status.ACTIVE, "making", 0)}


@pytest.mark.parametrize("error", [Stopped("now"), HostCannot("no")], ids=repr)
def test_what_is_no_fault_of_a_run_is_no_attempt_of_it(world: World, error: Exception) -> None:
    calls = []

    def make(contexts: Sequence[Context]) -> Sequence[Outcome | Exception]:
        calls.append(len(contexts))
        world.stop.set()
        return [error for _ in contexts]

    runs = world.engine(machine(make)).execute_many("snapshot", REQUESTS)

    assert calls == [40]
    assert {(run.status, run.attempt) for run in runs} == {(Status.ACTIVE, 0)}


def test_the_listener_gets_the_changes_once_they_are_durable(world: World) -> None:
    """Not within the transaction: it may take its time, and others may read the registry."""
    heard: list[tuple[str, str]] = []

    def listen(run: Run, entry: Entry) -> None:
        reader = threading.Thread(target=lambda: heard.append((run.state, world.registry.run(run.id).state)))
        reader.start()
        reader.join(10)

    engine = world.engine(machine(lambda contexts: [Outcome() for _ in contexts]), listener=listen)
    engine.execute_many("snapshot", REQUESTS)

    assert len(heard) == 80
    assert {state for state, _ in heard} == {"making", "ready"}
    assert all(stored in (state, "ready") for state, stored in heard)

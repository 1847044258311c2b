"""Durable runs on a real SQLite registry: what a step raises decides what happens, and nothing that was committed is lost."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reconciler.engine.definitions import Context, Machine, Outcome, Result, Retry, Run, Status, Step, Store
from reconciler.engine.engine import Engine, Progress, _quiet, after_error, ulid
from reconciler.engine.facts import VolumeSealed
from reconciler.errors import BuilderDied, DigestMismatch, HostCannot, NeedsOperator, SourceUnavailable, Stopped
from reconciler.model import Key, Kind, VolumeRow
from reconciler.registry.writer import Registry

VOLUME = Key(Kind.VOLUME, "default", "c0ffee")
Act = Callable[[Context], Outcome]


def volume(chain: str) -> VolumeSealed:
    return VolumeSealed(VolumeRow("default", chain, None, 1 << 20, ("d1",), f"identity of {chain}"))


def done(context: Context) -> Outcome:
    return Outcome()


def machine(**acts: Act) -> Machine:
    """One step for each keyword, in order, then ``ready``."""
    names = [*acts, "ready"]
    steps = tuple(Step(name, act, names[i + 1], retry=Retry(total=600)) for i, (name, act) in enumerate(acts.items()))
    return Machine("volume", steps, names[0], frozenset({"ready"}))


class Patient(Engine):
    """An engine whose caller executes a run again when it is due, as the scheduler does."""

    def __init__(self, store: Store, machines: Iterable[Machine], wait: Callable[[float], bool], **options: Any) -> None:
        super().__init__(store, machines, **options)
        self._wait = wait

    def execute(self, run_id: str, progress: Progress = _quiet) -> Run:
        run = super().execute(run_id, progress)
        while run.status is Status.ACTIVE and (seconds := run.waits(self._clock())) and not self._wait(seconds):
            run = super().execute(run_id, progress)
        return run


class World:
    """A registry on disk, a clock that only waiting moves, and a seeded generator."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1_000_000.0
        self.waits: list[float] = []
        self.stop = threading.Event()
        self.rng = random.Random(7)
        self.registry = Registry.open(path, clock=self.clock)

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return self.stop.is_set()

    def engine(self, *machines: Machine, **options: Any) -> Patient:
        wait = options.pop("wait", self.wait)
        hands = {"clock": self.clock, "monotonic": self.clock, "rng": self.rng, "stop": self.stop}
        return Patient(self.registry, machines, wait, **{**hands, **options})

    def restart(self) -> None:
        """As a new process would find it."""
        self.registry.close()
        self.stop = threading.Event()
        self.registry = Registry.open(self.path, clock=self.clock)

    def results(self, run: Run) -> list[str]:
        return [transition.result.value for transition in self.registry.transitions(run.id)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "registry.sqlite3")
    yield world
    world.registry.close()


class Fails:
    """A step that raises ``errors`` in turn, then returns."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, context: Context) -> Outcome:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return Outcome({"calls": self.calls})


def active(registry: Registry) -> list[Run]:
    return [run for run in registry.open_runs() if run.status is Status.ACTIVE]


def start(engine: Engine, value: Mapping[str, Any] | None = None, subject: Key = VOLUME) -> Run:
    return engine.open("volume", subject, {"size": 1} if value is None else value)


# ---------------------------------------------------------------------------------------------------- the way through


def test_a_run_goes_through_its_steps_to_the_end_and_keeps_what_they_returned(world: World) -> None:
    engine = world.engine(
        machine(
            downloading=lambda c: Outcome({"digest": "d1", "tries": 1}, message="1 layer"),
            provisioning=lambda c: Outcome({"tries": 2, "saw": c.run.data["digest"]}, (volume("c0ffee"),)),
        )
    )
    run = engine.execute(start(engine).id)

    assert (run.state, run.status, run.data) == ("ready", Status.DONE, {"digest": "d1", "tries": 2, "saw": "d1"})
    assert world.registry.volumes()[("default", "c0ffee")] == volume("c0ffee").row
    assert [(t.from_state, t.to_state, t.data) for t in world.registry.transitions(run.id)] == [
        ("downloading", "provisioning", {"digest": "d1", "tries": 1}),
        ("provisioning", "ready", {"tries": 2, "saw": "d1"}),
    ]
    assert [e.reason for e in world.registry.events(VOLUME)] == ["Opened", "Provisioning", "Ready"]


def test_a_finished_run_is_not_run_again(world: World) -> None:
    step = Fails()
    engine = world.engine(machine(pending=step))
    run = start(engine)

    assert engine.execute(run.id).status is engine.execute(run.id).status is Status.DONE
    assert step.calls == 1


def test_an_unknown_run_is_a_key_error(world: World) -> None:
    with pytest.raises(KeyError):
        world.engine(machine(pending=done)).execute("nowhere")


def test_the_listener_gets_a_change_after_it_is_durable(world: World) -> None:
    seen: list[str] = []
    engine = world.engine(
        machine(pending=done, provisioning=done), listener=lambda run, entry: seen.append(world.registry.run(run.id).state)
    )
    engine.execute(start(engine).id)

    assert seen == ["provisioning", "ready"]


def test_run_ids_sort_by_time() -> None:
    rng = random.Random(1)
    ids = [ulid(at, rng) for at in (0.0, 1.5, 1.501, 1e9, 2e9, 9e9)]

    assert ids == sorted(ids)
    assert {len(i) for i in ids} == {26}


# ------------------------------------------------------------------------------------------------- errors decide


def test_a_passing_error_is_tried_again_after_a_growing_back_off(world: World) -> None:
    engine = world.engine(machine(downloading=Fails(*[SourceUnavailable("no answer")] * 3)))
    run = engine.execute(start(engine).id)

    expected = random.Random(7)
    expected.getrandbits(80)
    assert run.status is Status.DONE
    assert sum(world.waits) == pytest.approx(sum(expected.uniform(0, bound) for bound in (0.5, 1.0, 2.0)))
    assert world.results(run) == ["retry", "retry", "retry", "advanced"]
    assert [t.attempt for t in world.registry.transitions(run.id)] == [1, 2, 3, 4]


def test_attempts_have_an_end_and_the_reason_is_kept(world: World) -> None:
    step = Fails(*[SourceUnavailable("no answer from s3://images/1.tar", hint="is the endpoint up?")] * 9)
    engine = world.engine(machine(downloading=step))
    run = engine.execute(start(engine).id)

    assert (run.status, run.reason, step.calls) == (Status.FAILED, "SourceUnavailable", 5)
    assert run.message == "no answer from s3://images/1.tar (is the endpoint up?); failed after 5 attempts"
    failure = world.registry.failures()[VOLUME]
    assert (failure.reason, failure.message, failure.waits_for_person) == (run.reason, run.message, False)


def test_time_has_an_end_too(world: World) -> None:
    def slow(context: Context) -> Outcome:
        world.now += 400
        raise SourceUnavailable("no answer")

    engine = world.engine(machine(downloading=slow))
    run = engine.execute(start(engine).id)

    assert (run.status, run.attempt) == (Status.FAILED, 2), "600 s are over in the second attempt of 400 s"


def test_hours_switched_off_do_not_count_as_time_spent(world: World) -> None:
    step = Fails(SourceUnavailable("no answer"), Stopped("bye"), SourceUnavailable("no answer"))
    engine = world.engine(machine(downloading=step))
    run = engine.execute(start(engine).id)
    assert run.status is Status.ACTIVE
    world.now += 1_000_000
    world.restart()

    assert world.engine(machine(downloading=step)).execute(run.id).status is Status.DONE


def test_attempts_start_again_with_each_step(world: World) -> None:
    errors = [SourceUnavailable("no answer")] * 4
    engine = world.engine(machine(downloading=Fails(*errors), validating=Fails(*errors), provisioning=Fails(*errors)))

    assert engine.execute(start(engine).id).status is Status.DONE


def test_an_error_that_stays_fails_at_once(world: World) -> None:
    step = Fails(DigestMismatch("got a, not b"))
    engine = world.engine(machine(downloading=step))
    run = engine.execute(start(engine).id)

    assert (run.status, run.state, run.reason, step.calls) == (Status.FAILED, "downloading", "DigestMismatch", 1)
    assert not world.waits


def test_a_failed_object_gets_a_fresh_run_when_it_is_asked_for_again(world: World) -> None:
    step = Fails(DigestMismatch("got a, not b"))
    engine = world.engine(machine(downloading=step))
    failed = engine.execute(start(engine).id)
    again = engine.execute(start(engine).id)

    assert again.id != failed.id
    assert again.status is Status.DONE
    assert not world.registry.failures()


def test_what_needs_an_operator_waits_and_goes_on_when_released(world: World) -> None:
    step = Fails(NeedsOperator("two pools answer to one name"))
    engine = world.engine(machine(downloading=step))
    run = engine.execute(start(engine).id)

    assert run.status is Status.NEEDS_OPERATOR
    assert world.registry.failures()[VOLUME].waits_for_person
    assert engine.execute(start(engine).id) == run, "asking again attaches to it and tries nothing"
    assert step.calls == 1
    assert active(world.registry) == []
    assert engine.release(run.id).status is Status.ACTIVE
    assert engine.execute(run.id).status is Status.DONE


def test_a_fault_of_ours_is_recorded_with_its_place_and_tried_once_more(world: World) -> None:
    step = Fails(*[ValueError("unexpected")] * 9)
    engine = world.engine(machine(downloading=step))
    run = engine.execute(start(engine).id)

    assert (run.status, run.reason, step.calls) == (Status.FAILED, "InternalError", 2)
    assert run.message.startswith("ValueError: unexpected [")
    assert "test_engine.py:" in run.message


def test_what_is_not_json_is_a_fault_of_ours(world: World) -> None:
    engine = world.engine(machine(downloading=lambda c: Outcome({"x": object()})))

    assert engine.execute(start(engine).id).reason == "InternalError"


def test_an_error_of_the_host_in_a_step_fails_the_run_and_nothing_else(world: World) -> None:
    step = Fails(HostCannot("no device-mapper", hint="load the module dm_mod"))
    engine = world.engine(machine(downloading=step))
    run = engine.execute(start(engine).id)

    assert (run.status, run.reason) == (Status.FAILED, "HostUnsupported")
    assert run.message == "no device-mapper (load the module dm_mod)"
    assert 24 <= run.waits(world.now) <= 36


def test_an_error_of_the_registry_reaches_the_caller(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine(machine(downloading=done))
    run = start(engine)

    def full(*_: object) -> None:
        raise HostCannot("registry: database or disk is full")

    monkeypatch.setattr(world.registry, "commit_run", full)
    with pytest.raises(HostCannot, match="full"):
        engine.execute(run.id)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupts_are_never_swallowed(world: World, error: type[BaseException]) -> None:
    engine = world.engine(machine(downloading=Fails(error())))
    run = start(engine)
    with pytest.raises(error):
        engine.execute(run.id)

    assert world.registry.run(run.id).status is Status.ACTIVE


def test_a_verdict_never_loses_the_cause() -> None:
    run = Run("1", "volume", VOLUME, "downloading", "", 0, 0)
    for error in (SourceUnavailable("x"), DigestMismatch("x"), NeedsOperator("x"), ValueError("x")):
        after, entry = after_error(run, Retry(), error, 0.0, 0.0, random.Random(0))

        assert after.attempt == 1
        assert "x" in after.message
        assert (after.reason, after.message) == (entry.reason, entry.message)


# ---------------------------------------------------------------------------------------------- stop and time-out


def test_a_stop_in_the_middle_of_a_step_leaves_the_run_resumable_and_counts_no_attempt(world: World) -> None:
    def stopping(context: Context) -> Outcome:
        world.stop.set()
        context.check()
        raise AssertionError("check must raise")

    engine = world.engine(machine(pending=done, downloading=stopping))
    run = engine.execute(start(engine).id)
    assert (run.status, run.state, run.attempt) == (Status.ACTIVE, "downloading", 0)
    assert world.results(run) == ["advanced", "stopped"]

    world.restart()
    engine = world.engine(machine(pending=Fails(AssertionError("already done")), downloading=done))
    assert active(world.registry) == [run]
    assert start(engine).id == run.id
    assert engine.execute(run.id).status is Status.DONE


def test_whatever_fails_while_stopping_may_fail_because_of_it(world: World) -> None:
    def cut_off(context: Context) -> Outcome:
        world.stop.set()
        raise DigestMismatch("the stream ended early")

    engine = world.engine(machine(downloading=cut_off))
    run = engine.execute(start(engine).id)

    assert (run.status, run.attempt, run.reason) == (Status.ACTIVE, 0, "")


def test_a_stopped_engine_begins_nothing(world: World) -> None:
    step = Fails()
    engine = world.engine(machine(downloading=step))
    run = start(engine)
    world.stop.set()

    assert engine.execute(run.id).status is Status.ACTIVE
    assert step.calls == 0


def test_a_run_that_waits_gives_its_thread_back(tmp_path: Path) -> None:
    """With the real clock: the back-off is a minute, the test is not."""
    retry = Retry(base=60, cap=60)
    step = Fails(*[BuilderDied("gone")] * 9)
    always = Machine("volume", (Step("downloading", step, "ready", retry=retry),), "downloading", frozenset({"ready"}))
    with Registry.open(tmp_path / "r") as registry:
        engine = Engine(registry, [always], rng=Highest())
        run = engine.execute(start(engine).id)

        assert (run.status, run.attempt, run.reason) == (Status.ACTIVE, 1, "BuilderDied")
        assert 59 < run.waits(run.updated) <= 60
        assert engine.execute(run.id) == run, "it is not due"
        assert step.calls == 1


class Highest(random.Random):
    """Always the longest back-off."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_a_back_off_is_kept_over_a_restart(world: World) -> None:
    step = Fails(SourceUnavailable("no answer"))
    engine = world.engine(machine(downloading=step), rng=Highest(), wait=lambda seconds: world.stop.set() or True)  # type: ignore[func-returns-value]
    run = engine.execute(start(engine).id)
    assert run.not_before == world.now + 0.5
    world.restart()

    assert world.engine(machine(downloading=step)).execute(run.id).status is Status.DONE
    assert sum(world.waits) == 0.5


def test_a_clock_that_was_set_back_does_not_hold_a_run_for_hours(world: World) -> None:
    step = Fails(SourceUnavailable("no answer"))
    engine = world.engine(machine(downloading=step), wait=lambda seconds: world.stop.set() or True)  # type: ignore[func-returns-value]
    run = engine.execute(start(engine).id)
    world.restart()
    world.now -= 86_400

    assert world.engine(machine(downloading=step)).execute(run.id).status is Status.DONE
    assert not world.waits


def test_a_step_learns_of_its_deadline_and_is_tried_again(world: World) -> None:
    lasts = [7200.0, 10.0]

    def slow(context: Context) -> Outcome:
        assert context.remaining() == 3600
        world.now += lasts.pop(0)
        context.check()
        return Outcome({"left": context.remaining()})

    engine = world.engine(replace(machine(downloading=slow), steps=(Step("downloading", slow, "ready", retry=Retry(total=1e6)),)))
    run = engine.execute(start(engine).id)

    assert run.data == {"left": 3590}
    assert [(t.result, t.reason) for t in world.registry.transitions(run.id)] == [
        (Result.RETRY, "StepTimeout"),
        (Result.ADVANCED, "Ready"),
    ]


def test_progress_of_a_step_under_way(world: World) -> None:
    seen: list[tuple[str, int, int]] = []

    def working(context: Context) -> Outcome:
        context.progress(3, 10)
        return Outcome()

    engine = world.engine(machine(downloading=working))
    run = start(engine)
    engine.execute(run.id, lambda now, some, total: seen.append((now.state, some, total)))

    assert seen == [("downloading", 3, 10)]


# ----------------------------------------------------------------------------------------- cancel, attach, supersede


def test_asking_twice_for_the_same_attaches_to_the_open_run(world: World) -> None:
    engine = world.engine(machine(pending=done))
    first = start(engine, {"size": 1, "layers": ["a", "b"]})

    assert start(engine, {"layers": ["a", "b"], "size": 1}).id == first.id
    assert start(engine, {"size": 1}, Key(Kind.VOLUME, "default", "other")).id != first.id
    assert start(engine, {"size": 1, "layers": ["a", "b"]}, Key(Kind.VOLUME, "second", "c0ffee")).id != first.id


def test_asking_for_something_else_supersedes_the_open_run(world: World) -> None:
    engine = world.engine(machine(pending=done))
    old = start(engine, {"size": 1})
    new = start(engine, {"size": 2})

    assert world.registry.run(old.id).status is Status.CANCELLED
    assert world.registry.run(old.id).message == f"superseded by run {new.id}, which has other input"
    assert active(world.registry) == [new]
    assert engine.execute(new.id).status is Status.DONE
    assert engine.execute(old.id).status is Status.CANCELLED


def test_a_run_that_no_thread_executes_is_cancelled_at_once(world: World) -> None:
    step = Fails(NeedsOperator("look"))
    engine = world.engine(machine(pending=step))
    waiting = engine.execute(start(engine).id)

    assert engine.cancel(waiting.id, "not wanted any more").status is Status.CANCELLED
    assert engine.cancel(waiting.id, "second thought").message == "not wanted any more"
    assert engine.execute(waiting.id).status is Status.CANCELLED


def test_a_cancel_is_durable(world: World) -> None:
    """Requested by a process that dies before it takes effect."""
    run = start(world.engine(machine(pending=done)))
    world.registry.request_cancel(run.id, "not wanted any more")
    world.restart()

    assert world.engine(machine(pending=Fails(AssertionError()))).execute(run.id).status is Status.CANCELLED


def test_a_cancel_during_a_step_lets_the_step_end_and_keeps_its_facts(world: World) -> None:
    def cancelled_meanwhile(context: Context) -> Outcome:
        assert engine.cancel(context.run.id).status is Status.ACTIVE
        return Outcome(facts=(volume("c0ffee"),))

    after = Fails()
    engine = world.engine(machine(provisioning=cancelled_meanwhile, checking=after))
    run = engine.execute(start(engine).id)

    assert (run.status, run.state, after.calls) == (Status.CANCELLED, "checking", 0)
    assert ("default", "c0ffee") in world.registry.volumes()


def test_a_step_that_asks_learns_that_it_is_cancelled(world: World) -> None:
    def cancelled_meanwhile(context: Context) -> Outcome:
        engine.cancel(context.run.id)
        world.now += 1
        context.check()
        raise AssertionError("check must raise")

    engine = world.engine(machine(provisioning=cancelled_meanwhile))
    run = engine.execute(start(engine).id)

    assert run.status is Status.CANCELLED
    assert world.results(run) == ["stopped", "cancelled"]


def test_a_cancel_ends_a_back_off(world: World) -> None:
    engine = world.engine(machine(downloading=Fails(*[SourceUnavailable("no answer")] * 2)), rng=Highest())
    run = start(engine)

    def cancelled_while_waiting(seconds: float) -> bool:
        world.registry.request_cancel(run.id, "never mind")
        return world.wait(seconds)

    engine._wait = cancelled_while_waiting
    assert engine.execute(run.id).status is Status.CANCELLED


# ------------------------------------------------------------------------------------------------ other versions


def test_a_run_of_an_unknown_state_needs_an_operator(world: World) -> None:
    run = start(world.engine(machine(pending=done, downloading=done)))
    engine = world.engine(machine(fetching=done))

    assert engine.execute(run.id).status is Status.NEEDS_OPERATOR
    assert world.registry.run(run.id).reason == "UnknownState"
    assert "state 'pending' of machine 'volume' is unknown" in world.registry.run(run.id).message


def test_a_run_of_an_unknown_machine_needs_an_operator_and_blocks_no_other(world: World) -> None:
    run = start(world.engine(machine(pending=done)))
    other = replace(machine(pending=done), name="snapshot")
    engine = world.engine(other)
    fine = engine.open("snapshot", Key(Kind.SNAPSHOT, "", "ci"), {})

    assert engine.execute(run.id).status is Status.NEEDS_OPERATOR
    assert "machine 'volume' is unknown" in world.registry.run(run.id).message
    assert active(world.registry) == [fine]


def test_a_changed_definition_that_still_has_the_state_goes_on_with_one_entry(world: World) -> None:
    run = start(world.engine(machine(pending=done)))
    engine = world.engine(machine(pending=done, checking=done))

    assert engine.execute(run.id).status is Status.DONE
    assert [e.reason for e in world.registry.events()] == ["Opened", "DefinitionChanged", "Checking", "Ready"]


def test_a_failed_run_waits_longer_each_time_until_its_input_changes(world: World) -> None:
    engine = world.engine(machine(downloading=Fails(*[DigestMismatch("got a, not b")] * 30)), rng=Highest())
    waits = [engine.execute(start(engine).id).waits(world.now) for _ in range(9)]
    assert waits == [1.2 * min(30 * 2**n, 3600) for n in range(9)]

    world.restart()
    engine = world.engine(machine(downloading=Fails(*[DigestMismatch("got a, not b")] * 3)), rng=Highest())
    assert engine.execute(start(engine).id).waits(world.now) == 1.2 * 3600, "a restart forgets nothing"
    assert engine.execute(start(engine, {"size": 2}).id).waits(world.now) == 1.2 * 30
    assert engine.execute(start(engine).id).waits(world.now) == 1.2 * 30


def test_an_attempt_that_has_gained_something_is_not_counted_as_a_crash(world: World) -> None:
    gained = iter([*range(0, 100, 5), *[95] * 30])
    step = Fails(*[SystemExit()] * 100)
    slow = Step("downloading", step, "ready", progress=lambda run: next(gained))
    whole = Machine("volume", (slow,), "downloading", frozenset({"ready"}))
    run = start(world.engine(whole))
    for _ in range(20):
        with pytest.raises(SystemExit):
            world.engine(whole).execute(run.id)
    assert world.registry.run(run.id).crashes == 0

    for _ in range(19):
        with pytest.raises(SystemExit):
            world.engine(whole).execute(run.id)
    assert world.engine(whole).execute(run.id).reason == "CrashLoop"


def test_a_crash_loop_needs_an_operator(world: World) -> None:
    step = Fails(*[SystemExit()] * 20)
    run = start(world.engine(machine(downloading=step)))
    for _ in range(20):
        with pytest.raises(SystemExit):
            world.engine(machine(downloading=step)).execute(run.id)
    now = world.engine(machine(downloading=step)).execute(run.id)

    assert (now.status, now.reason, step.calls) == (Status.NEEDS_OPERATOR, "CrashLoop", 20)
    assert world.results(run) == ["interrupted"] * 20 + ["needs-operator"]


# ---------------------------------------------------------------------------------------------------- many threads


def test_many_runs_execute_in_many_threads(tmp_path: Path) -> None:
    acts = {name: lambda c: Outcome(facts=(volume(f"{c.run.subject.name}-{c.run.state}"),)) for name in ("a", "b", "c")}
    with Registry.open(tmp_path / "r") as registry:
        engine = Engine(registry, [machine(**acts)])
        runs = [start(engine, {}, Key(Kind.VOLUME, "", str(n))) for n in range(8)]
        together([lambda run=run: engine.execute(run.id) for run in runs])  # type: ignore[misc]

        assert {run.status for run in registry.runs()} == {Status.DONE}
        assert {chain for _, chain in registry.volumes()} == {f"{n}-{s}" for n in range(8) for s in "abc"}


def test_one_object_is_worked_on_by_one_thread_at_a_time(tmp_path: Path) -> None:
    inside = threading.Semaphore(1)
    calls: list[str] = []

    def alone(context: Context) -> Outcome:
        assert inside.acquire(blocking=False), "two threads work on one object"
        context.stop.wait(0.02)
        calls.append(context.run.id)
        inside.release()
        return Outcome()

    with Registry.open(tmp_path / "r") as registry:
        engine = Engine(registry, [machine(pending=alone)])
        run = start(engine)
        together([lambda: engine.execute(run.id)] * 4)

        assert registry.run(run.id).status is Status.DONE
        assert calls == [run.id], "the others waited and found it done"


def test_superseding_a_run_that_is_being_executed_waits_for_its_step(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()
    order: list[int] = []

    def act(context: Context) -> Outcome:
        entered.set()
        assert leave.wait(10)
        order.append(context.run.input["size"])
        return Outcome(facts=(volume(f"size-{context.run.input['size']}"),))

    with Registry.open(tmp_path / "r") as registry:
        engine = Engine(registry, [machine(pending=act, checking=done)])
        old = start(engine, {"size": 1})
        first = threading.Thread(target=engine.execute, args=(old.id,))
        first.start()
        assert entered.wait(10)
        new = start(engine, {"size": 2})
        second = threading.Thread(target=engine.execute, args=(new.id,))
        second.start()
        leave.set()
        first.join(10)
        second.join(10)

        assert (registry.run(old.id).status, registry.run(new.id).status) == (Status.CANCELLED, Status.DONE)
        assert order == [1, 2]
        assert len(registry.volumes()) == 2, "what the old run had made by then is not forgotten"


def together(jobs: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


# ----------------------------------------------------------------------------------------- any order of things


class AnyOrder(RuleBasedStateMachine):
    """One object, any sequence of opening, executing, failing, cancelling, releasing and restarting, against a small model."""

    STATES = ("downloading", "provisioning", "ready")
    ERRORS: ClassVar = {
        "retry": SourceUnavailable("x"),
        "internal": ValueError("x"),
        "terminal": DigestMismatch("x"),
        "operator": NeedsOperator("x"),
        "stop": Stopped("x"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.world = World(Path(self.directory.name) / "registry.sqlite3")
        self.world.registry._raw.execute("PRAGMA synchronous = OFF")
        self.script: list[str] = []
        self.run: Run | None = None
        self.value, self.state, self.status, self.attempt = 0, 0, "none", 0
        self.facts: set[str] = set()
        self.restart()

    def teardown(self) -> None:
        self.world.registry.close()
        self.directory.cleanup()

    def act(self, context: Context) -> Outcome:
        if word := self.script.pop(0) if self.script else "":
            raise self.ERRORS[word]
        return Outcome(facts=(volume(f"{context.run.id} {context.run.state}"),))

    @rule()
    def restart(self) -> None:
        steps = tuple(Step(state, self.act, following) for state, following in pairwise(self.STATES))
        self.engine = self.world.engine(Machine("volume", steps, self.STATES[0], frozenset({"ready"})))

    @rule(value=st.integers(1, 2))
    def open(self, value: int) -> None:
        run = self.engine.open("volume", VOLUME, {"value": value})
        if self.status in ("active", "needs-operator") and value == self.value:
            assert self.run and run.id == self.run.id
            return
        if self.run and self.status in ("active", "needs-operator"):
            assert self.world.registry.run(self.run.id).status is Status.CANCELLED
        self.run, self.value, self.state, self.status, self.attempt = run, value, 0, "active", 0

    @precondition(lambda self: self.run)
    @rule(script=st.lists(st.sampled_from(["", *ERRORS]), max_size=8))
    def execute(self, script: list[str]) -> None:
        assert self.run
        self.script = list(script)
        self.engine.execute(self.run.id)
        while self.status == "active":
            word = script.pop(0) if script else ""
            if word == "stop":
                break
            self.expect(word)

    def expect(self, word: str) -> None:
        assert self.run
        if word == "":
            self.facts.add(f"{self.run.id} {self.STATES[self.state]}")
            self.state, self.attempt = self.state + 1, 0
            self.status = "done" if self.state == 2 else "active"
            return
        self.attempt += 1
        ends = {"terminal": "failed", "operator": "needs-operator"}
        limits = {"retry": 5, "internal": 2}
        self.status = ends.get(word) or ("failed" if self.attempt >= limits[word] else "active")

    @precondition(lambda self: self.run)
    @rule()
    def cancel(self) -> None:
        assert self.run
        self.engine.cancel(self.run.id)
        self.status = "cancelled" if self.status in ("active", "needs-operator") else self.status

    @precondition(lambda self: self.run)
    @rule()
    def release(self) -> None:
        assert self.run
        self.engine.release(self.run.id)
        if self.status == "needs-operator":
            self.status, self.attempt = "active", 0

    @invariant()
    def the_registry_agrees(self) -> None:
        registry = self.world.registry
        assert {chain for _, chain in registry.volumes()} == self.facts
        assert len(registry.open_runs()) == (self.status in ("active", "needs-operator"))
        if self.run:
            now = registry.run(self.run.id)
            assert (now.status.value, now.state, now.attempt) == (self.status, self.STATES[self.state], self.attempt)
            assert [r.id for r in active(registry)] == [now.id] * (self.status == "active")


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)

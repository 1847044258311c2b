"""The scheduler: what an assessment leads to, in which order, and what has to wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from reconciler.controller import assess, queue, scheduler
from reconciler.controller.events import Wanted
from reconciler.controller.executor import Done, perform_all
from reconciler.engine.definitions import BETWEEN_RUNS
from reconciler.errors import PoolUnusable
from reconciler.host.context import Host
from reconciler.model import Action, Desired, ImageSpec, Kind, PoolSpec
from reconciler.pool.file.pool import FilePool
from reconciler.registry.marks import Mark, What
from tests.support.bench import Bench, Running


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.declare("web", [0, 1], ["web-a", "web-b"])
    made.declare("db", [0, 2], ["db-a"])
    made.write()
    return made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def held(of: Host) -> dict[str, Any]:
    """All that the registry says of what is there."""
    rows = of.records
    return {
        "images": rows.images(),
        "volumes": sorted(rows.volumes()),
        "snapshots": {key: (row.image, row.chain) for key, row in rows.snapshots().items()},
        "runs": sorted((str(run.subject), run.status) for run in rows.runs(limit=10_000)),
    }


def edit(bench: Bench, random: Random) -> None:
    """One commit, of one or two changes."""
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(["web", "db", "new", "other"])
        if name in bench.images and random.random() < 0.2:
            del bench.images[name]
            continue
        numbers = random.sample(range(4), random.choice((1, 2, 3)))
        snapshots = [f"{name}-{letter}" for letter in random.sample("abc", random.choice((0, 1, 2)))]
        bench.declare(name, numbers, snapshots, suspend=random.random() < 0.15)
    bench.images = bench.images or {"web": {"layers": [bench.layer(0)], "size": "16MiB"}}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_few_images_and_then_all_come_to_the_same_as_all_at_once(bench: Bench, stack: ExitStack, seed: int) -> None:
    random = Random(seed)
    eager, plain = Running(bench, stack, "eager"), Running(bench, stack, "plain")
    eager.converge()
    plain.converge()

    for _ in range(8):
        edit(bench, random)
        bench.write()
        eager.ahead()
        eager.converge()
        plain.converge()

        assert held(eager.host) == held(plain.host)
        assert not eager.plan().actions


def test_a_run_ends_as_soon_as_its_last_action_has_ended(bench: Bench, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assessments rest for the sake of what runs, and for nothing else."""
    running, seen = Running(bench, stack, "state"), threading.Semaphore(0)
    monkeypatch.setattr(scheduler, "ASSESS_PAUSE", 3600.0)

    def noted(*args: Any, **options: Any) -> Any:
        try:
            return assess.assess(*args, **options)
        finally:
            seen.release()

    def last(host: Host, actions: Sequence[Action], *more: Any) -> Iterable[Done]:
        if any(action.name == "web-a" for action in actions):
            assert seen.acquire(timeout=30) and seen.acquire(timeout=30)  # the first assessment, and one beside this action
        return perform_all(host, actions, *more)

    monkeypatch.setattr(scheduler, "assess", noted)
    monkeypatch.setattr(scheduler, "perform_all", last)
    began = time.monotonic()

    running.converge()

    assert time.monotonic() - began < 600
    assert not running.plan().actions


def test_what_is_soon_done_is_looked_at_once_and_not_piece_by_piece(
    bench: Bench, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batches of a pool end one after the other: an assessment between two of them would have to be made again."""
    running, looked = Running(bench, stack, "state"), []
    monkeypatch.setattr(scheduler, "ASSESS_PAUSE", 3600.0)
    monkeypatch.setattr(queue, "BLOCKED_SECONDS", 3600.0)
    monkeypatch.setattr(scheduler, "assess", lambda *args, **options: looked.append(1) or assess.assess(*args, **options))

    running.converge()

    assert len(looked) == 2  # before the first action, and after the last
    assert not running.plan().actions


def test_only_the_changed_image_is_touched_until_the_pass_over_everything(bench: Bench, stack: ExitStack) -> None:
    service = Running(bench, stack, "state")
    service.converge()
    snapshots = bench.root / "state/pools/default/snapshots"
    (snapshots / "db-a.ext4").unlink()
    bench.declare("web", [0, 1], ["web-a", "web-b", "web-c"])
    bench.write()

    result = service.ahead()

    assert {(one.name, one.action) for one in result.objects if one.changed} == {("web-c", "create")}
    assert sorted(path.name for path in snapshots.iterdir()) == ["web-a.ext4", "web-b.ext4", "web-c.ext4"]
    service.converge()
    assert (snapshots / "db-a.ext4").exists()


def test_layers_that_nobody_has_pinned_are_not_built_again(
    bench: Bench, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume for each layer: the lower ones are known only by what their sources hold now."""
    monkeypatch.setattr(FilePool, "shares_blocks", True)
    for name in bench.images:
        bench.images[name]["layers"] = [{"source": layer["source"]} for layer in bench.images[name]["layers"]]
    bench.write()
    service = Running(bench, stack, "state")
    service.converge()
    bench.images["web"]["snapshots"].append({"name": "web-c"})
    bench.declare("late", [0, 1], ["late-a"])
    bench.images["late"]["layers"] = bench.images["web"]["layers"]
    bench.write()

    result = service.ahead()

    assert {(one.kind, one.name) for one in result.objects if one.changed} == {
        (Kind.SNAPSHOT, "web-c"),
        (Kind.SNAPSHOT, "late-a"),
        (Kind.IMAGE, "late"),
    }


def test_what_has_failed_ahead_is_not_tried_again_at_once(bench: Bench, stack: ExitStack) -> None:
    service = Running(bench, stack, "state")
    service.converge()
    bench.declare("web", [0, 1], [])
    bench.images["web"]["layers"][1]["sha256"] = "0" * 64
    bench.write()

    ahead_of_all = service.ahead()
    service.converge()

    assert [one.reason for one in ahead_of_all.objects if one.name == "web"] == ["DigestMismatch"]
    assert sum(run.status == "failed" for run in service.host.records.runs()) == 1


@pytest.fixture
def service(bench: Bench, stack: ExitStack) -> Running:
    service = Running(bench, stack, "state")
    service.converge()
    return service


def snapshots(bench: Bench) -> list[str]:
    return sorted(path.stem for path in (bench.root / "state/pools/default/snapshots").iterdir())


def test_what_a_file_adds_is_made_before_others_are_read(bench: Bench, service: Running) -> None:
    bench.declare("web", [0, 1], ["web-a", "web-b", "web-c"])
    bench.declare("new", [3], ["new-a"])
    bench.declare("db", [0, 2], ["db-a", "db-b"])
    bench.write()

    service.hint("web", "new")

    assert snapshots(bench) == ["db-a", "new-a", "web-a", "web-b", "web-c"]
    assert {one.name for one in service.converge().objects if one.changed} == {"db-b"}


def test_what_has_failed_at_a_glance_is_not_tried_again_at_once(bench: Bench, service: Running) -> None:
    bench.declare("web", [0, 3], [])
    bench.images["web"]["layers"][1]["sha256"] = "0" * 64
    bench.write()

    service.hint("web")
    service.ahead()
    service.converge()

    assert sum(run.status == "failed" for run in service.host.records.runs()) == 1


HALF: dict[str, Callable[[Bench], object]] = {
    "a snapshot would be replaced": lambda bench: bench.declare("web", [0, 3], ["web-a", "web-b"], replacePolicy="Recreate"),
    "the file is gone": lambda bench: bench.images.pop("web"),
    "the file is broken": lambda bench: bench.images["web"].update(size="much"),
    "the file declares what another one has": lambda bench: bench.declare("web", [0, 1], ["web-a", "db-a"]),
}
"""A file that has changed, and of which a glance is not enough."""


@pytest.mark.parametrize("change", HALF.values(), ids=HALF)
def test_nothing_is_done_at_a_glance_that_only_the_whole_can_decide(
    change: Callable[[Bench], object], bench: Bench, service: Running
) -> None:
    before = held(service.host)
    change(bench)
    bench.write()

    service.hint("web")
    assert held(service.host) == before
    assert snapshots(bench) == ["db-a", "web-a", "web-b"]


def test_a_file_that_a_link_leads_to_is_not_glanced_at(bench: Bench, service: Running) -> None:
    """Where it leads may have been swapped with all that is beside it."""
    bench.declare("new", [3], ["new-a"])
    bench.write()
    path = bench.root / "manifests/new.yaml"
    path.rename(bench.root / "elsewhere.yaml")
    path.symlink_to(bench.root / "elsewhere.yaml")

    service.hint("new")

    assert "new-a" not in snapshots(bench)


def test_nothing_is_done_at_a_glance_while_a_manifest_has_a_fault(bench: Bench, service: Running) -> None:
    (bench.root / "manifests/broken.yaml").write_text("kind: Imagine\n")
    service.ahead()
    assert service.host.faults
    bench.declare("web", [0, 1], ["web-a", "web-b", "web-c"])
    bench.write()

    service.hint("web")


def spec(name: str, **more: Any) -> ImageSpec:
    return ImageSpec(name, "default", 1 << 24, (), limits=LIMITS, **more)


LIMITS = ImageSpec("", "", 0, ()).limits
POOLS = {"default": PoolSpec("default")}


def test_changed_are_images_that_are_new_or_declared_otherwise() -> None:
    before = Desired(POOLS, {"a": spec("a"), "b": spec("b"), "gone": spec("gone")})
    now = Desired(POOLS, {"a": spec("a"), "b": spec("b", suspend=True), "new": spec("new")})

    assert assess.changed(before, now) == {"b", "new"}


def test_a_few_are_not_told_from_the_rest_where_pools_or_limits_count_or_they_are_many() -> None:
    images = {"a": spec("a")}
    other_limits = ImageSpec("b", "default", 1 << 24, ())

    assert not assess.changed(Desired({}, {}), Desired(POOLS, images))
    assert not assess.changed(Desired(POOLS, {}), Desired(POOLS, images | {"b": other_limits}))
    assert not assess.changed(Desired(POOLS, {}), Desired(POOLS, {str(n): spec(str(n)) for n in range(assess.MOST_CHANGED + 1)}))


def test_nothing_is_waited_for_that_is_no_longer_wanted(bench: Bench, stack: ExitStack) -> None:
    """A service would wake for it again and again."""
    service = Running(bench, stack, "state")
    bench.images["web"]["layers"][1]["sha256"] = "0" * 64
    bench.write()
    service.converge()
    assert service.withheld.next() < float("inf")

    del bench.images["web"]
    bench.write()
    service.converge()

    assert service.withheld.next() == float("inf")


def test_what_waits_for_something_that_has_failed_does_not_wake_a_service_before_that_is_due(
    bench: Bench, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would wake, find nothing to try, and wake again."""
    service = Running(bench, stack, "state")
    monkeypatch.setattr(service.host.engine._rng, "uniform", lambda low, high: high)
    bench.images = {"web": bench.images["web"]}
    bench.images["web"]["layers"][1]["sha256"] = "0" * 64
    bench.write()
    began = time.monotonic()
    service.converge()
    assert service.withheld.next() >= began + 1.2 * BETWEEN_RUNS.first

    now = service.assess()
    last = service.host.records.last_runs(action.key for action in now.plan.actions)
    withheld = service.withheld.withheld(now, last, ())
    assert {action.key for action in now.plan.actions} == withheld.keys()


def test_a_service_that_is_restarted_goes_on_waiting(bench: Bench, tmp_path: Path) -> None:
    bench.images = {"web": bench.images["web"]}
    bench.images["web"]["layers"][1]["sha256"] = "0" * 64
    bench.write()
    for _ in range(3):
        with ExitStack() as process:
            service = Running(bench, process, "state")
            result = service.converge()
            assert [one.reason for one in result.objects if one.name == "web"] == ["DigestMismatch"]
            assert len(service.host.records.runs()) == 1

    with ExitStack() as process:
        service = Running(bench, process, "state")
        service.host.registry.mark(Mark("web", What.RETRY, since=time.time()))
        service.converge()
        assert len(service.host.records.runs()) == 2
        service.converge()
        assert len(service.host.records.runs()) == 2, "the request is older than the second failure"


def test_a_layer_whose_source_fails_for_a_moment_holds_no_slot_meanwhile(bench: Bench, stack: ExitStack) -> None:
    """With one slot for builds, another image is built between two attempts."""
    service = Running(bench, stack, "state")
    service.scheduler.host = replace(service.host, settings=replace(service.host.settings, jobs=1)).sharing(service.host)
    order: list[str] = []
    real = FilePool.create_volume

    def failing(pool: FilePool, chain: str, *arguments: Any) -> Any:
        order.append(chain[:4])
        if order.count(chain[:4]) == 1 and len(order) == 1:
            raise PoolUnusable("not now")
        return real(pool, chain, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FilePool, "create_volume", failing)
        patch.setattr(service.host.engine._rng, "uniform", lambda low, high: high)
        result = service.converge()

    assert not [one for one in result.objects if not one.ok]
    assert len(order) == 3
    assert order[0] == order[2] != order[1]


@pytest.mark.slow
def test_a_replacement_that_has_failed_is_not_tried_again_on_the_grounds_of_older_manifests(
    bench: Bench, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They change while its first attempt is out; the next plan, which takes its time, does not ask for it any more."""
    service = Running(bench, stack, "state")
    bench.declare("web", [0, 1], ["web-a"])
    bench.write()
    service.converge()
    bench.declare("web", [0, 3], ["web-a"], replacePolicy="Recreate")
    bench.write()
    tried: list[str] = []
    read = service.scheduler.read

    def failing(pool: FilePool, name: str, *rest: Any) -> str:
        tried.append(name)
        bench.declare("web", [0, 1], ["web-a"], replacePolicy="Keep")
        bench.write()
        service.scheduler.wake(None)
        raise PoolUnusable("not now")

    def slow(host: Host, wanted: Wanted) -> tuple[Host, Wanted]:
        time.sleep(2.0 if tried else 0.0)
        return read(host, wanted)

    service.scheduler.read = slow
    monkeypatch.setattr(FilePool, "replace_snapshot", failing)
    service.converge()

    assert tried == ["web-a"]


def test_what_succeeds_again_and_again_is_not_done_in_a_loop(
    bench: Bench, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that accepts an activation and never shows it costs a pause that grows, not a processor."""
    service = Running(bench, stack, "state")
    service.converge()
    (bench.root / "state/pools/default/snapshots/db-a.ext4").unlink()
    made: list[str] = []
    monkeypatch.setattr(FilePool, "create_snapshot", lambda pool, name, chain, *rest: made.append(name) or "lost")  # type: ignore[func-returns-value]

    result = service.converge()

    assert made == ["db-a", "db-a"]
    assert [one.reason for one in result.objects if one.name == "db-a"] == ["DifferencePersists"]
    assert service.withheld.next() <= time.monotonic() + 2

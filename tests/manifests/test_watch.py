"""When the service runs its next pass: each hazard of watching, with the real watcher on a real file system."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.manifests import watch as watching
from reconciler.manifests.watch import Watch, same_content, scan

pytestmark = [pytest.mark.timeout(60), pytest.mark.slow]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything as in production, with shorter times: these tests wait most of the time."""
    monkeypatch.setattr(watching, "TICK_SECONDS", 0.1)
    monkeypatch.setattr(watching, "SETTLE_SECONDS", 0.1)


class Woken:
    """A watch that runs in a thread; ``next`` waits for a wake. ``named`` are the files that wakes have named, in order."""

    def __init__(self) -> None:
        self.pulse = 0
        self.named: list[str] = []
        self._wakes: queue.SimpleQueue[float] = queue.SimpleQueue()

    def run(self, watch: Watch) -> None:
        for named in watch.wakes():
            if named:
                self.named += sorted(named)
            else:
                self._wakes.put(time.monotonic())

    def next(self) -> None:
        self._wakes.get(timeout=20)

    def none(self, seconds: float = 0.7) -> None:
        with pytest.raises(queue.Empty):
            self._wakes.get(timeout=seconds)


@contextmanager
def watched(directory: Path, resync: float = 3600) -> Iterator[Woken]:
    stop, woken = threading.Event(), Woken()
    watch = Watch(directory, lambda: woken.pulse, stop=stop, resync=resync)
    thread = threading.Thread(target=woken.run, args=(watch,), daemon=True)
    thread.start()
    try:
        woken.next()
        yield woken
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "a.yaml").write_text("a: 1")
    return directory


CHANGES: dict[str, Callable[[Path], object]] = {
    "an edit": lambda tree: (tree / "a.yaml").write_text("a: 2"),
    "a new file": lambda tree: (tree / "b.yaml").write_text("b: 1"),
    "a new file in a new directory": lambda tree: ((tree / "d").mkdir(), (tree / "d" / "b.yml").write_text("b: 1")),
    "a removal": lambda tree: (tree / "a.yaml").unlink(),
    "a rename over it": lambda tree: ((tree / ".a").write_text("a: 9"), (tree / ".a").rename(tree / "a.yaml")),
    "its permissions": lambda tree: (tree / "a.yaml").chmod(0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_wakes_once(tree: Path, change: Callable[[Path], object]) -> None:
    with watched(tree) as woken:
        change(tree)
        woken.next()
        woken.none()


def test_other_files_than_manifests_cause_no_wake(tree: Path) -> None:
    with watched(tree) as woken:
        (tree / "README.md").write_text("words")
        (tree / ".a.yaml.swp").write_text("an editor's")
        (tree / ".git").mkdir()
        (tree / ".git" / "config.yaml").write_text("git's")
        woken.none()


def test_a_root_that_is_a_link_and_is_swapped_wakes_as_git_sync_does_it(tmp_path: Path) -> None:
    """The trees are beside each other, and the new one has the same names, sizes and times."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(name[:1])
        os.utime(tmp_path / name / "a.yaml", (1, 1))
    root = tmp_path / "current"
    root.symlink_to("one")

    def swap(target: str) -> None:
        (tmp_path / "next").symlink_to(target)
        (tmp_path / "next").rename(root)

    with watched(root) as woken:
        swap("two")
        woken.next()
        (tmp_path / "two" / "a.yaml").write_text("edited in the new tree")
        woken.next()
        (tmp_path / "one" / "a.yaml").write_text("edited in the old tree")
        woken.none()
        swap("three")
        woken.next()


def test_a_configmap_volume_wakes_when_its_data_is_swapped(tmp_path: Path) -> None:
    """Kubernetes: ``a.yaml -> ..data/a.yaml``, ``..data -> ..2026_01``; only ``..data`` is ever replaced."""
    root = tmp_path / "volume"
    for name, text in (("..2026_01", "a: 1"), ("..2026_02", "a: 2")):
        (root / name).mkdir(parents=True)
        (root / name / "a.yaml").write_text(text)
    (root / "..data").symlink_to("..2026_01")
    (root / "a.yaml").symlink_to("..data/a.yaml")

    with watched(root) as woken:
        (root / "..data_tmp").symlink_to("..2026_02")
        (root / "..data_tmp").rename(root / "..data")
        woken.next()


@pytest.mark.parametrize("how", ["removed and made again", "replaced by a rename"])
def test_a_root_that_becomes_another_one_is_watched_on(tree: Path, how: str) -> None:
    with watched(tree) as woken:
        if how == "replaced by a rename":
            tree.rename(tree.with_name("old"))
            tree.with_name("new").mkdir()
            tree.with_name("new").rename(tree)
        else:
            shutil.rmtree(tree)
            woken.next()
            tree.mkdir()
        woken.next()
        (tree / "later.yaml").write_text("later: 1")
        woken.next()


def test_a_root_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    with watched(tmp_path / "manifests") as woken:
        (tmp_path / "manifests").mkdir()
        woken.next()


def test_a_name_that_is_not_utf8_hides_no_change(tree: Path) -> None:
    with watched(tree) as woken:
        Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9.txt")).write_text("latin")
        woken.none()
        (tree / "b.yaml").write_text("b: 1")
        woken.next()
        Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9.yaml")).write_text("c: 1")
        woken.next()


def test_more_events_than_the_kernel_keeps_lose_nothing(tree: Path, tmp_path: Path) -> None:
    """The watcher stops while its queue overflows: the last change is not reported, and a scan finds it."""
    bound = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    ready = tmp_path / "ready"
    pid = os.fork()
    if not pid:
        with watched(tree) as woken:
            ready.touch()
            while not (tree / "LAST.yaml").exists():
                woken.next()
            os._exit(0)
    try:
        while not ready.exists():
            time.sleep(0.05)
        os.kill(pid, signal.SIGSTOP)
        for number in range(bound // 2 + 200):
            (tree / "many.txt").touch()
            (tree / "many.txt").unlink()
            if number == bound // 2 + 100:
                (tree / "LAST.yaml").write_text("last: 1")
        os.kill(pid, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise


def test_two_edits_within_one_tick_of_the_file_systems_clock_are_two(tree: Path) -> None:
    """The same size, and the same time by force: only the content differs."""
    path = tree / "a.yaml"

    def write(text: str) -> None:
        path.write_text(text)
        os.utime(path, ns=(10**18, 10**18))

    write("a: 3")
    before = scan(tree)
    write("a: 4")
    assert not same_content(before, scan(tree))


def test_a_file_that_comes_to_rest_is_no_change(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = scan(tree)
    monkeypatch.setattr(watching, "RACY_NANOSECONDS", 0)
    after = scan(tree)

    assert before != after
    assert same_content(before, after)


def test_pools_and_registry_wake_by_their_pulse(tree: Path) -> None:
    with watched(tree) as woken:
        woken.pulse = 1
        woken.next()
        woken.none()


def test_a_change_after_the_last_observation_wakes_again(tree: Path) -> None:
    """A change of the pass itself, before its last observation, does not."""
    stop, pulse = threading.Event(), [0]
    watch = Watch(tree, lambda: pulse[0], stop=stop, resync=8)
    for woken, _ in enumerate(watch.wakes(), 1):
        if woken == 1:
            watch.begin_observation()
            pulse[0] = 1
            watch.begin_observation()
            watch.end_observation()
            began = time.monotonic()
        elif woken == 2:
            assert time.monotonic() - began > 5, "by the resync alone"
            watch.begin_observation()
            pulse[0] = 2
            watch.end_observation()
            began = time.monotonic()
        else:
            assert time.monotonic() - began < 5, "long before the next resync"
            stop.set()


def test_the_resync_comes_whatever_happens(tree: Path) -> None:
    with watched(tree, resync=0.5) as woken:
        woken.next()
        woken.next()


def test_a_tree_that_is_being_written_is_waited_for(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SETTLE_SECONDS", 0.5)  # longer than the pauses between the writes
    with watched(tree) as woken:
        for number in range(10):
            (tree / f"{number}.yaml").write_text("n: 1")
            time.sleep(0.2)
            assert not woken.named
        wrote = time.monotonic()
        woken.next()
        assert time.monotonic() >= wrote
        woken.none()


@pytest.mark.parametrize("layout", ["clone", "subdirectory", "worktree"])
def test_a_checkout_is_waited_for_as_long_as_it_takes(tmp_path: Path, layout: str) -> None:
    clone = tmp_path / "clone"
    git = clone / ".git"
    git.mkdir(parents=True)
    tree = clone
    if layout == "subdirectory":
        tree = clone / "hosts" / "web"
        tree.mkdir(parents=True)
    elif layout == "worktree":
        tree = tmp_path / "tree"
        tree.mkdir()
        git = git / "worktrees" / "tree"
        git.mkdir(parents=True)
        (tree / ".git").write_text(f"gitdir: {git}\n")
    with watched(tree) as woken:
        (git / "index.lock").touch()
        (tree / "half.yaml").write_text("half: 1")
        woken.none(1.5)
        assert not woken.named
        (tree / "whole.yaml").write_text("whole: 1")
        (git / "index.lock").unlink()
        woken.next()
        woken.none()


def write_until_named(path: Path, woken: Woken) -> None:
    """The first time may be before the watcher has started: a scan finds the change all the same."""
    for number in range(20):
        path.write_text(f"a: {number}")
        woken.next()
        if woken.named:
            return


def test_a_file_at_rest_is_named_before_the_full_pass(tree: Path) -> None:
    (tree / "team").mkdir()
    with watched(tree) as woken:
        (tree / "README.md").write_text("words")
        write_until_named(tree / "team" / "b.yaml", woken)
        assert woken.named == [str(tree / "team" / "b.yaml")]
        (tree / "team" / "b.yaml").unlink()
        woken.next()
        woken.none()
        assert len(woken.named) == 1


def test_names_are_spelled_as_the_directory_is(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the keys of the cached files."""
    monkeypatch.chdir(tree.parent)
    with watched(Path("manifests")) as woken:
        write_until_named(tree / "a.yaml", woken)
        assert woken.named == ["manifests/a.yaml"]


def test_a_root_that_was_swapped_names_nothing(tmp_path: Path) -> None:
    """What is reported under its name is still the old tree's."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(name)
    root = tmp_path / "current"
    root.symlink_to("one")
    with watched(root) as woken:
        (tmp_path / "one" / "a.yaml").write_text("edited in the old tree")
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(root)
        woken.next()
        assert not woken.named

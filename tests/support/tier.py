"""The tests of a directory run in a guest, and are told one by one as if they had run here.

The host's pytest collects and chooses as always. For each test its name is handed to a pytest in the guest (``inside.py``), and
the reports that come back are replayed. ``-k``, node ids, ``-x``, JUnit XML and xdist work as they do elsewhere (an xdist worker
has a guest of its own). A test during which the guest dies or hangs has failed; the next one gets a new guest. State: the guest.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.guest import Guest, GuestDied, GuestTimeout, post, unusable

ROOTFS = "RECONCILER_TEST_ROOTFS"
"""Names a tar of a whole root file system, for the tests that want one."""
MODES = ("auto", "here", "required")
MEMORY = "3G"
START = 120.0  # seconds, for pytest and its imports on a machine that is busy
PATIENCE = 60.0  # seconds after which a test that should have timed out in the guest is given up by the host
POLL = 0.005
PLUGINS = ("no:cacheprovider", "pytest_timeout", "_hypothesis_pytestplugin")
"""All that the guest's pytest loads: to look for others takes it seconds."""

REBOOTS = "reboots"
HELP = (
    "where the tests of tests/kernel run: in User-Mode Linux if it is installed (auto), there or fail (required; with CI=true), "
    "or on this machine's own kernel, as root (here)"
)


class Tier:
    """A pytest plugin for one directory of tests. Those marked ``reboots`` drive guests themselves, and run on the host."""

    def __init__(self, directory: Path, config: pytest.Config) -> None:
        self.directory, self.config = directory, config
        mode = config.getoption("--kernel")
        self.here = mode == "here"
        self.required = mode == "required" or (mode == "auto" and os.environ.get("CI") == "true")
        self.unusable = unusable()
        self.ours: list[pytest.Item] = []
        self.inside: Inside | None = None
        self.hopeless = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Last of all, so that it sees what is left."""
        for item in items:
            if self.directory not in item.path.parents:
                continue
            if item.get_closest_marker(REBOOTS):
                if self.unusable and not self.required:
                    item.add_marker(pytest.mark.skip(reason=self.unusable))
            elif not self.here:
                self.ours.append(item)
        if self.here and os.geteuid() != 0:
            raise pytest.UsageError("--kernel=here was given, but this is not root: the tests of device-mapper could not run")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if item not in self.ours:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self.reports(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_timeout_set_timer(self, item: pytest.Item) -> bool | None:
        """The guest has the timer; ours is longer, and knows how to end a guest."""
        return True if item in self.ours else None

    def pytest_unconfigure(self) -> None:
        self.stop()

    def reports(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[pytest.TestReport]:
        if self.unusable:
            failed = f"this test must run in a guest, and can't: {self.unusable}"
            yield from made_up(item, failed) if self.required else skipped(item, self.unusable)
            return
        told = []
        try:
            for report in self.running(item).run(item, nextitem if nextitem in self.ours else None):
                told.append(report.when)
                yield report
        except (GuestDied, GuestTimeout) as error:
            self.stop()
            yield from made_up(item, f"{type(error).__name__}: {error}", told)

    def running(self, item: pytest.Item) -> Inside:
        """One that failed to start is not tried again for each test."""
        if self.hopeless:
            raise GuestDied(self.hopeless)
        if self.inside is None:
            try:
                self.inside = Inside(self.config, self.ours)
            except (GuestDied, GuestTimeout) as error:
                self.hopeless = str(error)
                raise
        return self.inside

    def stop(self) -> None:
        if self.inside is not None:
            self.inside.guest.cut()
            self.inside = None


class Inside:
    """A guest with a pytest in it that waits for tests."""

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self.config, self.asked, self.answered = config, 0, 0
        self.guest = Guest(memory=MEMORY)
        self.guest.boot()
        try:
            self.directory = self.guest.private / "tests"
            self.directory.mkdir()
            passed_on = {name: value for name, value in os.environ.items() if name == ROOTFS}
            env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | passed_on
            self.job = self.guest.start(self.command(items), env=env)
            answer = self.next(START)
            assert answer["kind"] == "ready", answer
        except BaseException:
            self.guest.cut()
            raise

    def command(self, items: list[pytest.Item]) -> list[str]:
        options = ["--rootdir", str(self.config.rootpath), "--kernel=here", "--root", "--basetemp=/run/tmp/pytest", "-q"]
        options += [f"--tb={self.config.option.tbstyle}", *["-v"] * (self.config.option.verbose + 1)]
        options += [f"-p{plugin}" for plugin in PLUGINS]
        if self.config.inipath:
            options += ["-c", str(self.config.inipath)]
        if self.config.option.showlocals:
            options.append("--showlocals")
        files = dict.fromkeys(str(item.path) for item in items)
        return [sys.executable, "-m", "tests.support.inside", str(self.directory), *options, *files]

    def run(self, item: pytest.Item, after: pytest.Item | None) -> Iterator[pytest.TestReport]:
        """Raises ``GuestDied`` and ``GuestTimeout``, where needed with what was reported before."""
        post(self.directory, f"test-{self.asked:06}", {"test": item.nodeid, "after": after.nodeid if after else None})
        self.asked += 1
        bound = 2 * limit(item) + PATIENCE
        while (answer := self.next(bound))["kind"] == "report":
            report = self.config.hook.pytest_report_from_serializable(config=self.config, data=answer["content"])
            if isinstance(report.longrepr, list):  # of one that is skipped: JSON knows no tuples
                report.longrepr = tuple(report.longrepr)
            yield report
        if answer["kind"] != "done":
            raise GuestDied(f"pytest in the guest knows no such test\n{self.job.stdout}{self.job.stderr}")

    def next(self, timeout: float) -> dict[str, Any]:
        path = self.directory / f"answer-{self.answered:06}"
        deadline = time.monotonic() + timeout
        while not path.exists():
            if (code := self.job.poll()) is not None and not path.exists():
                raise GuestDied(f"pytest in the guest has ended, exit code {code}\n{self.told()}")
            if time.monotonic() > deadline:
                raise GuestTimeout(f"nothing was heard for {timeout} s\n{self.told()}")
            time.sleep(POLL)
        self.answered += 1
        answer: dict[str, Any] = json.loads(path.read_text())
        path.unlink()
        return answer

    def told(self) -> str:
        return f"{self.job.stdout}{self.job.stderr}\n{self.guest.tail()}"


def limit(item: pytest.Item) -> float:
    """Seconds that pytest-timeout gives the test."""
    marker = item.get_closest_marker("timeout")
    if marker and (marker.args or "timeout" in marker.kwargs):
        return float(marker.args[0] if marker.args else marker.kwargs["timeout"])
    return float(item.config.getini("timeout") or 0) or 120.0


def made_up(item: pytest.Item, text: str, told: Sequence[str | None] = ()) -> Iterator[pytest.TestReport]:
    """What is missing of a failed test's three reports."""
    if "setup" not in told:
        yield report(item, "setup", "passed", None)
    if "call" not in told:
        yield report(item, "call", "failed", text)
    yield report(item, "teardown", "passed" if "call" not in told else "failed", text if "call" in told else None)


def skipped(item: pytest.Item, reason: str) -> Iterator[pytest.TestReport]:
    yield report(item, "setup", "skipped", (str(item.path), (item.location[1] or 0) + 1, f"Skipped: {reason}"))
    yield report(item, "teardown", "passed", None)


def report(item: pytest.Item, when: Any, outcome: Any, longrepr: Any) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), outcome, longrepr, when)

"""The tests of a directory run in a guest; pytest reports each of them as if it had run on the host.

The host's pytest collects and selects as always. It passes the name of each test to a pytest in the guest (``inside.py``) and
replays the reports that come back. ``-k``, node ids, ``-x``, JUnit XML and xdist work as elsewhere (an xdist worker has a guest
of its own). A test during which the guest dies or hangs fails; the next one gets a new guest. Where no guest can run, the first
test fails with the reason and the others are skipped. State: the guest, and the reason why there is none.
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
"""Names a tar of a whole root file system, for the tests that read one."""
MODES = ("auto", "here", "required")
MEMORY, PROBE = "3G", "128M"
START = 120.0  # seconds, for pytest and its imports on a machine that is busy
GRACE = 60.0  # seconds that a test has beyond its timeout in the guest before the host ends the guest
POLL = 0.005
PLUGINS = ("no:cacheprovider", "pytest_timeout", "_hypothesis_pytestplugin")
"""All that the guest's pytest loads: a search for others takes seconds."""

REBOOTS = "reboots"
HELP = (
    "where the tests of tests/kernel run: in User-Mode Linux if it is installed (auto), there or fail (required; with CI=true), "
    "or on this machine's own kernel, as root (here)"
)


class Tier:
    """A pytest plugin for one directory of tests. Tests marked ``reboots`` start guests themselves and run on the host."""

    def __init__(self, directory: Path, config: pytest.Config) -> None:
        self.directory, self.config = directory, config
        mode = config.getoption("--kernel")
        self.here = mode == "here"
        self.required = mode == "required" or (mode == "auto" and os.environ.get("CI") == "true")
        self.unusable = unusable()
        self.ours: list[pytest.Item] = []
        self.on_host: list[pytest.Item] = []
        self.inside: Inside | None = None
        self.reported = self.started = False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Runs last, after all deselection."""
        for item in items:
            if self.directory not in item.path.parents:
                continue
            if item.get_closest_marker(REBOOTS):
                self.on_host.append(item)
            elif not self.here:
                self.ours.append(item)
        if self.here and os.geteuid() != 0:
            raise pytest.UsageError("--kernel=here was given, but this is not root: the tests of device-mapper could not run")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if item not in self.ours and not (item in self.on_host and self.no_guest_boots()):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self.reports(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_timeout_set_timer(self, item: pytest.Item) -> bool | None:
        """The guest has the timer; the host's is longer, and ends the guest."""
        return True if item in self.ours else None

    def pytest_unconfigure(self) -> None:
        self.stop()

    def reports(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[pytest.TestReport]:
        if self.no_guest_boots():
            yield from self.without_guest(item)
            return
        sent = []
        try:
            for report in self.running(item).run(item, nextitem if nextitem in self.ours else None):
                sent.append(report.when)
                yield report
        except (GuestDied, GuestTimeout) as error:
            self.stop()
            yield from made_up(item, f"{type(error).__name__}: {error}", sent)

    def no_guest_boots(self) -> str:
        """Why no guest can boot; tried once."""
        if not self.unusable and not self.started:
            try:
                Guest(memory=PROBE).boot_once()
                self.started = True
            except (GuestDied, GuestTimeout) as error:
                self.unusable = f"it does not start: {error}"
        return self.unusable

    def without_guest(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """One failure with the reason, where guests are required; all other tests are skipped."""
        if self.required and not self.reported:
            self.reported = True
            yield from made_up(item, f"the tests of {self.directory.name} need a guest, and none can run here: {self.unusable}")
        else:
            yield from skipped(item, self.unusable.partition("\n")[0])

    def running(self, item: pytest.Item) -> Inside:
        """The guest. If it doesn't start, ``unusable`` is set, so that it is not tried again for each test."""
        if self.inside is None:
            try:
                self.inside = Inside(self.config, self.ours)
            except (GuestDied, GuestTimeout) as error:
                self.unusable, self.reported = f"it does not start: {error}", True
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
        self.guest = Guest(
            memory=MEMORY, readable=[config.rootpath, *([Path(tar).parent] if (tar := os.environ.get(ROOTFS)) else [])]
        )
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
        bound = 2 * limit(item) + GRACE
        while (answer := self.next(bound))["kind"] == "report":
            report = self.config.hook.pytest_report_from_serializable(config=self.config, data=answer["content"])
            if isinstance(report.longrepr, list):  # of a skipped test: JSON has no tuples
                report.longrepr = tuple(report.longrepr)
            yield report
        if answer["kind"] != "done":
            raise GuestDied(f"pytest in the guest did not collect this test\n{self.job.stdout}{self.job.stderr}")

    def next(self, timeout: float) -> dict[str, Any]:
        path = self.directory / f"answer-{self.answered:06}"
        deadline = time.monotonic() + timeout
        while not path.exists():
            if (code := self.job.poll()) is not None and not path.exists():
                raise GuestDied(f"pytest in the guest has ended, exit code {code}\n{self.output()}")
            if time.monotonic() > deadline:
                raise GuestTimeout(f"no answer within {timeout} s\n{self.output()}")
            time.sleep(POLL)
        self.answered += 1
        answer: dict[str, Any] = json.loads(path.read_text())
        path.unlink()
        return answer

    def output(self) -> str:
        return f"{self.job.stdout}{self.job.stderr}\n{self.guest.tail()}"


def limit(item: pytest.Item) -> float:
    """Seconds that pytest-timeout gives the test."""
    marker = item.get_closest_marker("timeout")
    if marker and (marker.args or "timeout" in marker.kwargs):
        return float(marker.args[0] if marker.args else marker.kwargs["timeout"])
    return float(item.config.getini("timeout") or 0) or 120.0


def made_up(item: pytest.Item, text: str, sent: Sequence[str | None] = ()) -> Iterator[pytest.TestReport]:
    """Those of a failed test's three reports that are missing."""
    if "setup" not in sent:
        yield report(item, "setup", "passed", None)
    if "call" not in sent:
        yield report(item, "call", "failed", text)
    yield report(item, "teardown", "passed" if "call" not in sent else "failed", text if "call" in sent else None)


def skipped(item: pytest.Item, reason: str) -> Iterator[pytest.TestReport]:
    yield report(item, "setup", "skipped", (str(item.path), (item.location[1] or 0) + 1, f"Skipped: {reason}"))
    yield report(item, "teardown", "passed", None)


def report(item: pytest.Item, when: Any, outcome: Any, longrepr: Any) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), outcome, longrepr, when)

"""Stopped or killed in the middle: what was done counts, the next run goes on, and it ends in the very same bytes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from contextlib import closing
from itertools import count

import pytest

from .layers import Layer, change, noise, root
from .workshop import Running, Workshop, contents

MIB = 1 << 20
BIG = root("big", {"srv/big": noise(6 * MIB)})


def declare(host: Workshop, layer: Layer = BIG) -> None:
    host.image("web", [layer], s3=True, size="64MiB")


def held(host: Workshop) -> Running:
    """A run in the middle of its download: three and a half MiB have been sent, no more comes, and what came is on record."""
    assert host.gate is not None
    declare(host)
    host.gate.hold("big.tar", 7 * MIB // 2)
    return host.start("--once", "-o", "json").until(lambda: recorded(host) >= MIB, "a record of the download")


def recorded(host: Workshop) -> int:
    """Bytes that the next run can build upon: a record of them is written every second, and at the end."""
    lengths = [json.loads(path.read_text())["proofs"][-1][0] for path in host.spool.glob("*.json")]
    return max(lengths, default=0)


def states(host: Workshop) -> list[str]:
    """The states of the runs, as somebody reads them who looks over the registry's shoulder."""
    try:
        with closing(sqlite3.connect(f"file:{host.state}/registry.sqlite3?mode=ro", uri=True)) as database:
            return [state for (state,) in database.execute("SELECT state FROM run")]
    except sqlite3.Error:
        return []


def goes_on(host: Workshop) -> None:
    """The next run fetches only what is missing, and converges."""
    assert host.gate is not None
    already = recorded(host)
    assert already >= MIB
    host.gate.release()
    host.gate.forget()
    host.converge()
    assert [(r.first, r.sent) for r in host.gate.requests if r.method == "GET"] == [(already, len(BIG.data) - already)]
    host.settled()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_stopped_download_goes_on_where_it_was(bucket: Workshop, number: int, code: int) -> None:
    """The signal ends the run with its exit code and nothing half-built; the bytes that had arrived are not fetched again."""
    done = held(bucket).signal(number).wait().expect(code)

    assert "Traceback" not in done.stderr
    assert not [path for path in bucket.state.rglob("*") if path.name.endswith((".partial", ".ext4"))]
    bucket.run("list").expect(0).words("web")
    bucket.run("plan", "--detailed-exitcode").expect(2)
    goes_on(bucket)


def test_a_killed_download_goes_on_where_it_was(bucket: Workshop) -> None:
    """SIGKILL gives no time for a last word: the record that is written every second is what the next run builds on."""
    held(bucket).kill().expect(-signal.SIGKILL)

    goes_on(bucket)


def test_a_damaged_partial_download_is_not_built_upon(bucket: Workshop) -> None:
    """Bytes that rotted between two runs are found and fetched again: the digest is right in the end."""
    held(bucket).signal(signal.SIGINT).wait().expect(130)
    (part,) = bucket.spool.glob("*.part")
    with part.open("r+b") as file:
        file.seek(MIB)
        file.write(b"rotten")
    assert bucket.gate is not None
    bucket.gate.release()

    bucket.converge()

    bucket.settled()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_provisioning_that_is_stopped_is_done_again(workshop: Workshop, number: int, code: int) -> None:
    """Stopped while the file system is written: the exit code says so, nothing is left, the next run makes it."""
    layer = root("large", {f"srv/{n}": noise(8 * MIB, n) for n in range(5)})
    workshop.image("web", [layer], size="128MiB")

    for attempt in count(1):
        run = workshop.start("--once").until(lambda: set(states(workshop)) & {"provisioning", "ready"}, "provisioning")
        done = run.signal(number).wait()
        if done.code == code or attempt == 5:
            break
        workshop.image(f"web-{attempt}", [layer], size=f"{128 + attempt}MiB")

    done.expect(code)
    assert not [path for path in workshop.state.rglob("*") if path.name.endswith(".partial")]
    workshop.converge()
    workshop.settled()


def test_killed_again_and_again_it_converges(workshop: Workshop) -> None:
    """SIGKILL for the whole group after ever longer delays, until a run outlives them: the same bytes as without."""
    workshop.image("web", [root("base", {"srv/big": noise(2 * MIB)}), change("app", {"srv/app": b"v1"})], snapshots=["a", "b"])
    workshop.converge("--state", str(workshop.root / "calm"))
    calm = contents((workshop.root / "calm/pools").rglob("*.ext4"))

    killed = 0
    for attempt in count():
        run = workshop.start("--once")
        try:
            run.process.wait(0.02 * 1.3**attempt)
            break
        except subprocess.TimeoutExpired:
            run.kill()
            killed += 1

    assert killed, "it was never killed in time"
    workshop.converge()
    assert contents((workshop.state / "pools").rglob("*.ext4")) == calm
    assert workshop.plan()["actions"] == []
    workshop.settled()


def test_a_reader_is_not_disturbed_by_a_run_and_does_not_disturb_it(bucket: Workshop) -> None:
    """While a run is under way, `list`, `plan`, `events` and `runs` answer at once."""
    run = held(bucket)

    bucket.run("list").expect(0).words("web")
    bucket.run("plan").expect(0)
    bucket.run("runs").expect(0).words("downloading")
    bucket.run("health").expect(0)

    assert bucket.gate is not None
    bucket.gate.release()
    run.wait().expect(0)
    bucket.settled()


def test_two_at_once_are_one_too_many(bucket: Workshop) -> None:
    """The second ends with exit 75 at once and names the first; the first is not disturbed."""
    first = held(bucket)

    bucket.once().expect(75).words(str(first.process.pid), "--once")
    told = bucket.once("-o", "json").expect(75)

    assert told.stdout == ""
    assert bucket.gate is not None
    bucket.gate.release()
    first.wait().expect(0)
    bucket.settled()

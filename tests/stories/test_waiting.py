"""Back-off, retries and crashes: what waits, what ends the waiting, and what a run outside the scope of another keeps."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing

import pytest

from .layers import change, noise, root
from .test_interrupted import MIB, declare, goes_on, held, recorded
from .workshop import Workshop

BASE = root("base")


def edit_run(host: Workshop, columns: str, machine: str = "volume") -> str:
    """Change the newest run of a machine behind the command's back; its id."""
    with closing(sqlite3.connect(host.state / "registry.sqlite3")) as db:
        newest = "number = (SELECT MAX(number) FROM run WHERE machine = ?)"
        assert db.execute(f"UPDATE run SET {columns} WHERE {newest}", (machine,)).rowcount == 1
        db.commit()
        return str(db.execute(f"SELECT id FROM run WHERE {newest}", (machine,)).fetchone()[0])


CRASHED = "status = 'active', reason = '', message = '', state = 'downloading', attempt = 0, crashes = 20, not_before = 0"


def crash_looped(host: Workshop) -> str:
    """An image whose run needs an operator although its layer is whole by now; the run's id."""
    host.image("web", [BASE])
    layer = host.layers / f"{BASE.name}.tar"
    layer.write_bytes(b"other bytes")
    host.once().expect(1)
    run = edit_run(host, CRASHED)
    assert host.once("-o", "json").expect(1).object("Image", "web")["reason"] == "CrashLoop"
    layer.write_bytes(BASE.data)
    return run


@pytest.mark.parametrize("how", ["retry", "release"])
def test_a_service_retries_a_crash_loop_when_asked_also_beside_an_invalid_manifest(workshop: Workshop, how: str) -> None:
    run = crash_looped(workshop)
    workshop.image("other", [change("other", {"srv/other": b"x"})])
    service = workshop.start("--interval", "3600").until(workshop.snapshot("other-a").exists, "the other image")
    workshop.declare("broken", {"kind": "Imagine"})
    assert not workshop.snapshot("web-a").exists()

    workshop.run("health").words("`reconcile retry image/web` retries it")
    words = ("retry", "image/web") if how == "retry" else ("runs", run, "--release")
    workshop.run(*words).expect(0)
    service.until(workshop.snapshot("web-a").exists, "the snapshot")
    assert service.signal(signal.SIGTERM).wait().code == 143


def test_a_killed_download_that_has_gained_bytes_is_no_crash_loop(bucket: Workshop) -> None:
    running = held(bucket)
    running.kill()
    edit_run(bucket, "crashes = 19")

    goes_on(bucket)


def test_a_killed_download_that_has_gained_nothing_is_one(bucket: Workshop) -> None:
    held(bucket).kill()
    edit_run(bucket, "crashes = 19")
    for path in bucket.spool.iterdir():
        path.unlink()
    assert bucket.gate is not None
    bucket.gate.release()

    assert bucket.once("-o", "json").expect(1).object("Image", "web")["reason"] == "CrashLoop"


def test_a_restarted_service_goes_on_waiting_and_one_run_tries_at_once(workshop: Workshop) -> None:
    workshop.image("web", [BASE])
    layer = workshop.layers / f"{BASE.name}.tar"
    layer.write_bytes(b"other bytes")
    workshop.once().expect(1)
    layer.write_bytes(BASE.data)
    workshop.image("other", [change("other", {"srv/other": b"x"})])

    service = workshop.start("--interval", "3600").until(workshop.snapshot("other-a").exists, "the other image")
    workshop.run("wait", "image/other", "--timeout", "30").expect(0)
    assert service.signal(signal.SIGTERM).wait().code == 143
    assert not workshop.snapshot("web-a").exists(), "30 s have not passed"
    workshop.once().expect(0)
    assert workshop.snapshot("web-a").exists()


def test_a_selector_leaves_runs_and_downloads_of_other_images_alone(bucket: Workshop) -> None:
    held(bucket).kill()
    before = recorded(bucket)
    bucket.image("other", [BASE], labels={"app": "other"})
    bucket.once("-l", "app=other").expect(0)

    assert recorded(bucket) == before >= MIB
    assert {run["status"] for run in bucket.run("runs", "-o", "json").json["runs"] if run["kind"] == "Volume"} == {
        "active",
        "done",
    }
    goes_on(bucket)


def test_suspending_an_image_keeps_its_run_and_its_download(bucket: Workshop) -> None:
    held(bucket).kill()
    before = recorded(bucket)
    bucket.image("other", [BASE])
    bucket.run("suspend", "image/web").expect(0)
    bucket.once().expect(0)

    assert recorded(bucket) == before >= MIB
    bucket.run("resume", "image/web").expect(0)
    goes_on(bucket)


def test_an_image_is_downloading_only_while_a_process_does_it(bucket: Workshop) -> None:
    running = held(bucket)
    bucket.run("list").expect(0).words("Downloading")
    running.kill()

    assert "Downloading" not in bucket.run("list").expect(0).stdout


def test_a_service_that_does_not_converge_in_time_exits_with_6(bucket: Workshop) -> None:
    assert bucket.gate is not None
    declare(bucket)
    bucket.gate.hold("big.tar", MIB)

    bucket.start("--timeout", "2").wait().expect(6).words("not converged within 2 s")


def test_a_second_sigterm_ends_a_run_at_once_with_143(bucket: Workshop) -> None:
    running = held(bucket)
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGTERM)

    running.wait().expect(143)


def test_the_recap_counts_as_ok_what_is_ready(workshop: Workshop) -> None:
    workshop.image("web", [BASE])
    workshop.image("bad", [change("bad", {"srv/bad": noise(1024)})])
    (workshop.layers / "bad.tar").write_bytes(b"other bytes")

    failed = workshop.once().expect(1)
    assert "ok=3 changed=3 pruned=0 failed=3" in failed.stdout, failed
    done = workshop.once("-o", "json").expect(1).json
    assert (done["ready"], done["unchanged"], done["changed"], done["failed"]) == (3, 3, 0, 3)


def test_an_image_is_removed_from_the_registry_beside_an_invalid_manifest(workshop: Workshop) -> None:
    for name in ("web", "gone", "broken"):
        workshop.image(name, [BASE])
    workshop.converge()
    workshop.withdraw("gone")
    workshop.declare("broken", {"kind": "Imagine"})

    workshop.run("state", "rm", "image/gone").expect(0).words("stay on disk", "fault")
    workshop.run("state", "rm", "image/broken").expect(5)
    workshop.declare("never-valid", {"kind": "Imagine"})
    workshop.run("state", "rm", "image/web").expect(4)

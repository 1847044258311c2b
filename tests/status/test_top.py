"""``top``: lines that fit the terminal, without control characters from names."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.engine.definitions import Event
from reconciler.image.spec import GIB, MIB
from reconciler.model import PoolObserved
from reconciler.output.progress import Silent
from reconciler.pool.driver import PoolState, Space
from reconciler.registry import lock
from reconciler.status import top
from reconciler.telemetry import activity
from reconciler.telemetry.activity import Board, Running

AT = 1_700_000_000.0
DOWNLOAD = Running("volume/8a6c (web)", "downloading", 300 * MIB, GIB, AT - 30, AT)
SCENE = top.Scene(
    host="web-1",
    at=AT,
    holder="process 7 (/usr/bin/reconcile --once)",
    pools={
        "default": PoolObserved("default", True, PoolState(Space(100 * GIB, 60 * GIB, 10 * GIB), {}, {}, ())),
        "thin": PoolObserved("thin", True, PoolState(Space(10 * GIB, GIB, GIB), {}, {}, (), metadata=Space(GIB, GIB // 2, 0))),
        "gone": PoolObserved("gone", False, None, "can't be read"),
    },
    phases=["Ready", "Ready", "Downloading", "Failed"],
    running=[DOWNLOAD],
    rates={DOWNLOAD.key: 40.0 * MIB},
    events=[Event(1, AT, "Image", "web", "Declared", "words\x1b[2J")],
    pending=3,
)


def plain(text: str, code: str) -> str:
    return text


def coloured(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m"


def test_a_frame_shows_pools_images_work_and_events() -> None:
    shown = top.frame(SCENE, plain, width=200)

    assert re.search(r"web-1 .* reconcile, process 7", shown)
    assert re.search(r"default +ready +█{5}░+ 40.0 GiB of 100.0 GiB", shown)
    assert re.search(r"thin +ready +█{12}░+ 9.0 GiB of 10.0 GiB +█{7}░+ 512.0 MiB of 1.0 GiB", shown)
    assert re.search(r"gone +unavailable", shown)
    assert "1 Downloading, 1 Failed, 2 Ready; 3 actions left to do" in shown
    assert re.search(r"volume/8a6c \(web\) +downloading +█{4}░+ 300.0 MiB of 1.0 GiB +40.0 MiB/s +30 s", shown)
    assert re.search(r"image/web +Declared +words\\x1b\[2J", shown), "an event can't clear the screen"


def test_claims_are_listed_by_image_the_scarcest_first() -> None:
    stocks = {"web": top.Stock(ready=4, claimed=2), "ci": top.Stock(claimed=8, expired=1, wanting=4)}
    stocks |= {f"spare{number}": top.Stock(ready=9) for number in range(9)}
    scene = replace(SCENE, stocks=stocks)
    shown = top.frame(scene, plain, width=120)

    assert re.search(
        r"CLAIMS +READY +CLAIMED +EXPIRED +ENDED +USED +WANTING\nci +0 +8 +1 +0 +0 +4\nweb +4 +2 +0 +0 +0 +0\n", shown
    )
    assert re.search(r"spare3 .*\nand 5 more\n", shown)
    assert "CLAIMS" not in top.frame(SCENE, plain)
    assert top.document(scene)["claims"]["ci"]["expired"] == 1


@pytest.mark.parametrize("width", [20, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = top.frame(SCENE, coloured, width=width).splitlines()
    shown = [re.sub(r"\x1b\[[0-9]+m", "", line) for line in lines]

    assert max(map(len, shown)) == width
    assert all(line.count("\x1b[") % 2 == 0 or line.endswith("\x1b[0m") for line in lines), "no colour runs on"


@pytest.mark.parametrize("height", [1, 2, 5, 12, 23, 60])
def test_a_short_terminal_shows_the_first_lines(height: int) -> None:
    whole = top.frame(SCENE, plain, 80).splitlines()
    lines = top.frame(SCENE, plain, 80, height).splitlines()

    assert len(lines) == min(height, len(whole))
    assert lines[0] == whole[0]
    if 1 < height < len(whole):
        assert lines[:-1] == whole[: height - 1]
        assert lines[-1] == f"and {len(whole) - height + 1} lines more: enlarge the terminal"


def test_an_empty_host_has_a_frame() -> None:
    shown = top.frame(replace(SCENE, pools={}, phases=[], running=[], events=[], holder="", pending=0), plain)

    assert "no reconciler is running" in shown
    assert shown.count("none") + shown.count("nothing") == 5


def test_a_rate_is_of_bytes_in_one_state() -> None:
    later = replace(DOWNLOAD, done=DOWNLOAD.done + 20 * MIB, at=AT + 2)

    assert top.rates([DOWNLOAD], [later]) == {DOWNLOAD.key: 10.0 * MIB}
    assert top.rates([DOWNLOAD], [replace(later, state="validating")]) == {}
    assert top.rates([], [later]) == {}


# ------------------------------------------------------------------------------------------------------- the board


def test_running_work_is_readable_by_another_process_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "running.json"
    now = [AT]
    with Board(Silent(), path, clock=lambda: now[0]) as work:
        work.update("volume/a", "downloading", 1, 10)
        now[0] += 5
        work.update("volume/a", "downloading", 4, 10)
        os.utime(path, (now[0], now[0]))
        assert activity.read(path, clock=lambda: now[0]) == (Running("volume/a", "downloading", 4, 10, AT, AT + 5),)
        now[0] += 5
        work.finish("volume/a", "ready")
        assert activity.read(path) == ()

    assert not path.exists()


def test_the_file_of_a_killed_process_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "running.json"
    path.write_text(json.dumps([]))
    os.utime(path, (AT, AT))
    assert activity.read(path, clock=lambda: AT + activity.STALE_SECONDS + 1) == ()

    path.write_text("{half a li")
    assert activity.read(path) == ()
    assert activity.read(tmp_path / "nothing") == ()


def test_the_holder_of_the_lock_is_read_without_taking_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert lock.holder(path) == ""
    with lock.lock(path):
        assert lock.holder(path).startswith(f"process {os.getpid()} (")
    assert lock.holder(path) == ""


# -------------------------------------------------------------------------------------------------- the command


def command(tmp_path: Path, *words: str) -> list[str]:
    (tmp_path / "manifests").mkdir(exist_ok=True)
    return [
        sys.executable,
        "-m",
        "reconciler.cli.main",
        "top",
        "-f",
        str(tmp_path / "manifests"),
        "--state",
        str(tmp_path / "s"),
        *words,
    ]


def test_without_a_terminal_one_frame_is_printed(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)

    assert "POOL" in done.stdout
    assert "\x1b" not in done.stdout
    assert not (tmp_path / "s").exists(), "looking makes nothing"


def test_json_is_one_document(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path, "-o", "json"), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["running"] == []


def test_on_a_terminal_it_runs_until_q_and_restores_the_screen(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command(tmp_path, "--every", "0.1"), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        seen = read_until(ours, lambda text: text.count("POOL") >= 2)
        os.write(ours, b"q")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)

    assert seen.startswith("\x1b[?1049h\x1b[?25l\x1b[H")


def read_until(fd: int, enough: object) -> str:
    assert callable(enough)
    text, give_up = "", time.monotonic() + 30
    while not enough(text):
        ready, _, _ = select.select([fd], [], [], 1)
        if ready:
            text += os.read(fd, 1 << 16).decode()
        assert time.monotonic() < give_up, text
    return text

"""The harness itself: what happens in a guest is told here as it was, and a guest's power can be cut."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.guest import CHECKOUT, DISK, Guest, GuestDied, GuestTimeout, make_disk

pytestmark = [pytest.mark.reboots, pytest.mark.timeout(400)]

CONFTEST = """
from pathlib import Path

from tests.conftest import pytest_addoption
from tests.support import tier

tier.PATIENCE = 2

def pytest_configure(config):
    config.pluginmanager.register(tier.Tier(Path(__file__).parent, config))
"""
INI = "[pytest]\nmarkers = reboots: on the host\ntimeout = 60\naddopts = --strict-markers\n"
TESTS = """
import os, signal, time
import pytest

@pytest.fixture(scope="module")
def shared():
    print("made once")
    return []

def test_passes(shared, tmp_path):
    shared.append(tmp_path.parts[:3])

def test_fails(shared):
    print("printed before it failed")
    assert shared == ["something else"]

@pytest.mark.parametrize("text", ["a/b::c[d]", "e f"])
def test_of_any_name(text): assert text

def test_skips(): pytest.skip("there is a reason")

@pytest.mark.xfail
def test_fails_as_it_should(): assert False

@pytest.mark.timeout(1)
def test_takes_too_long(): time.sleep(60)

def test_deselected(): assert False

def test_ends_pytest(): os._exit(7)

def test_has_another_guest(): assert not os.path.exists("/run/tmp/pytest/test_passes0")

@pytest.mark.reboots
def test_on_the_host(): assert os.path.exists(os.environ["ONLY_HERE"] + "/results")

@pytest.mark.timeout(1)
def test_hangs(): os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_results_are_told_one_by_one(tmp_path: Path) -> None:
    outcomes = outer(tmp_path, TESTS, "-k", "not deselected")

    assert outcomes.keys() == set(re.findall(r"def (test_\w+)", TESTS)) - {"test_deselected", "test_of_any_name"} | {
        "test_of_any_name[a/b::c[d]]",
        "test_of_any_name[e f]",
    }
    failed = {name: text for name, (outcome, text) in outcomes.items() if outcome == "failure"}
    assert failed.keys() == {"test_fails", "test_takes_too_long", "test_ends_pytest", "test_hangs"}
    assert "('/', 'run', 'tmp')" in failed["test_fails"]
    assert "printed before it failed" in failed["test_fails"]
    assert "Timeout" in failed["test_takes_too_long"]
    assert "exit code 7" in failed["test_ends_pytest"]
    assert "nothing was heard" in failed["test_hangs"]
    assert "the guest's console" in failed["test_hangs"]
    assert outcomes["test_skips"][0] == "skipped"
    assert "there is a reason" in outcomes["test_skips"][1]
    assert outcomes["test_fails_as_it_should"][0] == "skipped"


@pytest.mark.parametrize(
    ("options", "ci", "outcome"),
    [
        ((), "", "skipped"),
        ((), "true", "failure"),
        (("--kernel=required",), "", "failure"),
        (("--kernel=auto",), "true", "failure"),
    ],
)
def test_without_user_mode_linux(tmp_path: Path, options: tuple[str, ...], ci: str, outcome: str) -> None:
    (told,) = outer(tmp_path, "def test_one(): pass\n", *options, PATH="/nonexistent", CI=ci).values()

    assert told[0] == outcome
    assert "not installed" in told[1]


def outer(directory: Path, tests: str, *options: str, **environment: str) -> dict[str, tuple[str, str]]:
    """The tests, run by a pytest of their own; for each one its outcome in JUnit's words, with what was said of it."""
    for name, content in (("conftest.py", CONFTEST), ("pytest.ini", INI), ("test_inner.py", tests)):
        (directory / name).write_text(content)
    (directory / "results").mkdir()
    command = [sys.executable, "-m", "pytest", "-pno:cacheprovider", "-pno:xdist", "--rootdir", str(directory), str(directory)]
    command += ["-ojunit_logging=all", "--junitxml", str(directory / "results" / "all.xml"), *options]
    environment = {**os.environ, "CI": "", "ONLY_HERE": str(directory), **environment}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    cases = ElementTree.parse(directory / "results" / "all.xml").iter("testcase")
    return {case.attrib["name"]: (outcome(case), said(case)) for case in cases}


def outcome(case: ElementTree.Element) -> str:
    return next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")


def said(case: ElementTree.Element) -> str:
    return "\n".join(child.get("message", "") + (child.text or "") for child in case)


# ---------------------------------------------------------------------------------------------------- guests


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    shared, bare = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("disks") / "bare"
    bare.write_bytes(bytes(4 << 20))
    with Guest(raw=[bare], shared=[shared]) as one:
        yield one


def test_a_command_is_told_with_its_code_and_output(guest: Guest) -> None:
    done = guest.run("echo $WORD; pwd; echo wrong >&2; exit 3", env={"WORD": "said"}, cwd=Path("/usr"))

    assert (done.code, done.stdout, done.stderr) == (3, "said\n/usr\n", "wrong\n")
    assert guest.run("kill -9 $$").code == -9
    assert guest.run(["no-such-program"]).code == 127


def test_a_command_can_be_followed_and_ended(guest: Guest) -> None:
    job = guest.start("echo begun; exec sleep 600")
    guest.until(lambda: job.stdout == "begun\n", 30, "begun")
    assert job.poll() is None

    job.signal(signal.SIGTERM)

    assert job.wait().code == -signal.SIGTERM


def test_a_command_is_given_so_much_time(guest: Guest) -> None:
    with pytest.raises(GuestTimeout, match="as far as this"):
        guest.run("echo as far as this; sleep 600", timeout=2)


def test_device_mapper_is_there_and_makes_its_own_nodes(guest: Guest) -> None:
    assert "thin-pool" in guest.run("dmsetup targets").check().stdout
    guest.run("dmsetup create made --table '0 8 zero' && test -b /dev/mapper/made && dmsetup remove made").check()


def test_this_hosts_files_can_be_read_and_not_written(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("read\n")

    assert guest.run(["cat", tmp_path / "here"]).check().stdout == "read\n"
    assert "Read-only" in guest.run(["touch", tmp_path / "there"]).stderr


def test_a_shared_directory_can_be_written(guest: Guest) -> None:
    (shared,) = guest.shared

    guest.run(f"echo written > {shared}/there").check()

    assert (shared / "there").read_text() == "written\n"


def test_a_bare_disk_is_a_file_of_this_host(guest: Guest) -> None:
    (bare,) = guest.raw

    guest.run("printf found | dd of=/dev/ubdb conv=fsync").check()

    assert bare.read_bytes()[:6] == b"found\0"


def test_a_power_cut_loses_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "a disk, with: all.img", 64 << 20)
    with Guest(disk) as guest:
        guest.run(f"cd {DISK}; echo kept > synced; sync synced .; echo lost > unsynced; cat unsynced").check()
        guest.cut()
        guest.boot()
        assert guest.run(f"cd {DISK}; cat synced; cat unsynced").stdout == "kept\n"
        guest.run(f"echo kept too > {DISK}/unsynced").check()
        guest.shutdown()
        guest.boot()
        assert guest.run(f"cd {DISK}; cat synced unsynced").check().stdout == "kept\nkept too\n"


def test_two_guests_know_nothing_of_each_other(guest: Guest) -> None:
    with Guest(memory="256M") as other:
        job = other.start("echo theirs > /run/mark; exec sleep 600")
        guest.run("echo ours > /run/mark; dmsetup create mine --table '0 8 zero'").check()

        assert other.run("cat /run/mark; ls /dev/mapper").check().stdout == "theirs\ncontrol\n"
        assert job.poll() is None
        assert guest.run("cat /run/mark; dmsetup remove mine").check().stdout == "ours\n"


def test_a_guest_that_dies_is_told_with_its_console() -> None:
    with Guest(memory="256M") as guest, pytest.raises(GuestDied, match=r"(?s)ended.*console.*sysrq"):
        guest.run("echo c > /proc/sysrq-trigger; sleep 600")


def test_a_guest_that_does_not_come_up_is_told_with_its_console(tmp_path: Path) -> None:
    (tmp_path / "no ext4").write_bytes(bytes(1 << 20))
    guest = Guest(tmp_path / "no ext4", memory="256M")

    with pytest.raises(GuestDied, match=r"(?s)mount ext4 on /run/disk.*console"):
        guest.boot()
    assert guest.private == Path()


def test_nothing_is_left_of_a_guest_whose_host_was_killed() -> None:
    script = "import sys, time; from tests.support.guest import Guest; guest = Guest(memory='256M'); guest.boot(); \
print(guest.private, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout
        private = host.stdout.readline().strip()
        assert processes_of(private)
        host.kill()

    deadline = time.monotonic() + 60
    while processes_of(private) or os.path.exists(private):
        assert time.monotonic() < deadline, (processes_of(private), private)
        time.sleep(0.01)


def processes_of(word: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found += [path.parent.name] if word.encode() in path.read_bytes() else []
    return found

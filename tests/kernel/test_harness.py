"""The harness itself: results in a guest are reported on the host, wherever the checkout is, and a guest's power can be cut."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
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

tier.GRACE = 2

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


def test_the_result_of_each_test_is_reported(tmp_path: Path) -> None:
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
    assert "no answer within" in failed["test_hangs"]
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
    (result,) = outer(tmp_path, "def test_one(): pass\n", *options, PATH="/nonexistent", CI=ci).values()

    assert result[0] == outcome
    assert "not installed" in result[1]


THREE = "import pytest\ndef test_one(): pass\ndef test_two(): pass\n@pytest.mark.reboots\ndef test_three(): pass\n"


def test_a_missing_user_mode_linux_is_one_failure(tmp_path: Path) -> None:
    first, *others = outer(tmp_path, THREE, "--kernel=required", PATH="/nonexistent").values()

    assert first[0] == "failure"
    assert "not installed" in first[1]
    assert [kind for kind, _ in others] == ["skipped", "skipped"]


def test_a_guest_that_does_not_start_is_one_failure_with_its_console(tmp_path: Path) -> None:
    kernel = tmp_path / "bin" / "linux.uml"
    kernel.parent.mkdir()
    kernel.write_text("#!/bin/sh\necho 'no room for this guest'\nexit 1\n")
    kernel.chmod(0o755)

    first, *others = outer(tmp_path, THREE, "--kernel=required", PATH=f"{kernel.parent}:{os.environ['PATH']}").values()

    assert first[0] == "failure"
    assert "no room for this guest" in first[1]
    assert [kind for kind, _ in others] == ["skipped", "skipped"]


PLACES = """
import sys
from pathlib import Path

import reconciler

def test_one():
    assert [*reconciler.__path__, sys.prefix] == Path(__file__).with_name("expected").read_text().splitlines()
"""


@pytest.mark.parametrize("top", ["/var/tmp", "/dev/shm", "/run/lock"])
def test_checkout_environment_and_temporary_directory_may_be_anywhere(top: str) -> None:
    """These directories are the guest's own; the paths have blanks, and only their owner can read them."""
    if not os.access(top, os.W_OK | os.X_OK):
        pytest.skip(f"{top} is not writable here")
    with tempfile.TemporaryDirectory(prefix="a b ", dir=top) as made:
        checkout, inner = Path(made) / "check out", Path(made) / "tests of it"
        for name in ("reconciler", "tests/support"):
            shutil.copytree(CHECKOUT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("tests/__init__.py", "tests/conftest.py"):
            shutil.copy(CHECKOUT / name, checkout / name)
        inner.mkdir()
        (inner / "expected").write_text(f"{checkout / 'reconciler'}\n{checkout / '.venv'}")
        python = virtual_environment(checkout / ".venv")

        results = outer(inner, PLACES, "--kernel=required", python=python, cwd=checkout, TMPDIR=made)

        assert results["test_one"][0] == "passed", results


def virtual_environment(directory: Path) -> Path:
    """One with the packages of this one. Returns its interpreter."""
    venv.create(directory, symlinks=True)
    packages = [path for path in map(Path, sys.path) if path.name in ("site-packages", "dist-packages")]
    (site,) = directory.glob("lib/python*/site-packages")
    (site / "shared.pth").write_text("".join(f"{path}\n" for path in packages))
    return directory / "bin" / "python"


def outer(
    directory: Path,
    tests: str,
    *options: str,
    python: str | Path = sys.executable,
    cwd: Path = CHECKOUT,
    **environment: str,
) -> dict[str, tuple[str, str]]:
    """Runs the tests with a pytest of their own. Returns for each its outcome in JUnit's words, and the message."""
    for name, content in (("conftest.py", CONFTEST), ("pytest.ini", INI), ("test_inner.py", tests)):
        (directory / name).write_text(content)
    (directory / "results").mkdir()
    command = [python, "-m", "pytest", "-pno:cacheprovider", "-pno:xdist", "--rootdir", str(directory), str(directory)]
    command += ["-ojunit_logging=all", "--junitxml", str(directory / "results" / "all.xml"), *options]
    environment = {**os.environ, "CI": "", "ONLY_HERE": str(directory), **environment}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, umask=0o077)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    cases = ElementTree.parse(directory / "results" / "all.xml").iter("testcase")
    return {case.attrib["name"]: (outcome(case), message(case)) for case in cases}


def outcome(case: ElementTree.Element) -> str:
    return next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")


def message(case: ElementTree.Element) -> str:
    return "\n".join(child.get("message", "") + (child.text or "") for child in case)


# ---------------------------------------------------------------------------------------------------- guests


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    shared, bare = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("disks") / "bare"
    bare.write_bytes(bytes(4 << 20))
    with Guest(raw=[bare], shared=[shared], readable=[tmp_path_factory.getbasetemp()]) as one:
        yield one


def test_a_command_returns_its_code_and_output(guest: Guest) -> None:
    done = guest.run("echo $WORD; pwd; echo wrong >&2; exit 3", env={"WORD": "said"}, cwd=Path("/usr"))

    assert (done.code, done.stdout, done.stderr) == (3, "said\n/usr\n", "wrong\n")
    assert guest.run("kill -9 $$").code == -9
    assert guest.run(["no-such-program"]).code == 127


def test_a_running_command_can_be_read_and_signalled(guest: Guest) -> None:
    job = guest.start("echo begun; exec sleep 600")
    guest.until(lambda: job.stdout == "begun\n", 30, "begun")
    assert job.poll() is None

    job.signal(signal.SIGTERM)

    assert job.wait().code == -signal.SIGTERM


def test_a_command_has_a_timeout(guest: Guest) -> None:
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

    guest.run(f"echo written > {shlex.quote(str(shared))}/there").check()

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


def test_two_guests_are_independent(guest: Guest) -> None:
    with Guest(memory="256M") as other:
        job = other.start("echo theirs > /run/mark; exec sleep 600")
        guest.run("echo ours > /run/mark; dmsetup create mine --table '0 8 zero'").check()

        assert other.run("cat /run/mark; ls /dev/mapper").check().stdout == "theirs\ncontrol\n"
        assert job.poll() is None
        assert guest.run("cat /run/mark; dmsetup remove mine").check().stdout == "ours\n"


def test_the_error_of_a_guest_that_dies_has_its_console() -> None:
    with Guest(memory="256M") as guest, pytest.raises(GuestDied, match=r"(?s)ended.*console.*sysrq"):
        guest.run("echo c > /proc/sysrq-trigger; sleep 600")


def test_the_error_of_a_guest_that_does_not_boot_has_its_console(tmp_path: Path) -> None:
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

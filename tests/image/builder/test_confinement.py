"""Hostile code in the builder: what it can reach when a parser's flaw has let it in. The flaw is planted, all else is real."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler import errors
from reconciler.image.builder import libc, process, seccomp
from reconciler.image.builder.feed import Input
from reconciler.image.builder.measures import NOT_IN_KERNEL, ONLY_ROOT, OPTIONAL, gaps
from reconciler.image.builder.parent import Build, Milestone, Request
from reconciler.image.source.spool import Spool
from reconciler.image.spec import MIB, Layer, Source, chain_ids
from reconciler.policy import force
from reconciler.policy.rules import Policy
from samples import layers as samples
from tests.support import planted

ROOT = os.geteuid() == 0
SOMEBODY = 65533
USERS = [0, SOMEBODY] if ROOT else [0]
"""As who the builder is started: as whoever runs the tests, and where that is root as an ordinary user too."""


@pytest.fixture
def targets(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Things of this host that anybody could reach who is not confined."""
    secret = tmp_path / "secret"
    secret.write_text("not for images")
    for path in (secret, *tmp_path.parents[:3], tmp_path):
        with contextlib.suppress(PermissionError):
            path.chmod(path.stat().st_mode | 0o777)
    abstract = f"reconciler-test-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind("\0" + abstract)
        unix.listen()
        victim = subprocess.Popen(["sleep", "600"], user=SOMEBODY if ROOT else None)
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        yield {
            "secret": str(secret),
            "directory": str(tmp_path),
            "port": tcp.getsockname()[1],
            "abstract": abstract,
            "victim": victim.pid,
            "parent": os.getpid(),
        }
        assert not (tmp_path / "planted").exists()


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, targets: dict[str, Any], user: int, *without: str) -> dict[str, str]:
    settings = json.dumps({"targets": targets, "user": user, "without": without})
    monkeypatch.setattr(process, "COMMAND", (sys.executable, planted.__file__, settings))
    layer = tmp_path / "layer.tar"
    samples.pack(layer, [samples.file("etc/hostname", "mallory\n")])
    stop = threading.Event()
    spool = Spool(tmp_path / "spool", stop=stop)
    inputs = (Input("layer.tar", lambda: spool.fetch(Layer(Source(str(layer))))),)
    request = Request(inputs, 64 * MIB, lambda digests: chain_ids(64 * MIB, digests)[-1])
    with pytest.raises(errors.LayerCorrupt) as told, Build(request) as build:
        build.wait(Milestone.ACCEPTED, stop=stop)
    said: dict[str, str] = json.loads(told.value.message.partition(": ")[2])
    return said


@pytest.mark.parametrize("user", USERS, ids=["as is", "as a user"][: len(USERS)])
def test_code_in_the_builder_reaches_nothing_of_the_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, targets: dict[str, Any], user: int
) -> None:
    said = run(monkeypatch, tmp_path, targets, user)

    assert set(said) == set(planted.attempts(targets))
    assert {attempt for attempt, outcome in said.items() if outcome == "done"} == set()


@pytest.mark.parametrize("without", ["seccomp"])
def test_a_builder_that_lacks_a_required_measure_gets_no_layer_where_the_policy_requires_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, targets: dict[str, Any], without: str
) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, planted.__file__, json.dumps(
        {"targets": targets, "user": 0, "without": [without]})))  # fmt: skip
    begun: list[str] = []

    def begin() -> Any:
        begun.append("layer")
        raise AssertionError("nothing is read")

    force.use(Policy(requires_confinement=True))
    request = Request((Input("layer.tar", begin),), 64 * MIB, lambda digests: "chain")
    with pytest.raises(errors.PolicyRefused, match=f"not fully confined: {without}") as refused, Build(request) as build:
        build.wait(Milestone.ACCEPTED, stop=threading.Event())

    assert "policy.confinement" in refused.value.hint
    assert not begun


def scopes_signals() -> bool:
    """Since Linux 6.12. Before, only seccomp keeps a user's builder from that user's own processes."""
    try:
        return libc.landlock_version() >= 6
    except OSError:
        return False


@pytest.mark.parametrize("without", ["seccomp", "Landlock", "namespaces"])
@pytest.mark.parametrize("user", USERS, ids=["as is", "as a user"][: len(USERS)])
def test_one_measure_that_a_host_lacks_opens_no_way_to_files_network_or_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, targets: dict[str, Any], user: int, without: str
) -> None:
    """No single measure is what everything hangs on: a flaw in the kernel's part of one leaves the others."""
    said = run(monkeypatch, tmp_path, targets, user, without)

    allowed = {"signal another process"} if user and without == "seccomp" and not scopes_signals() else set()
    assert {attempt for attempt, outcome in said.items() if outcome == "done"} <= allowed


def test_the_attempts_are_real_without_confinement_they_succeed(tmp_path: Path, targets: dict[str, Any]) -> None:
    """The same code, run by whoever runs the tests: a test of the test."""
    harmless = ("read a file of the host", "list the root directory", "reach a server on this host", "reach an abstract socket")
    found = planted.attempts(targets)

    for name in (*harmless, "send a datagram", "signal its parent"):
        result = found[name]()
        if isinstance(result, int) and name.startswith("read"):
            os.close(result)


def test_health_can_tell_what_confines_the_builder() -> None:
    measures = process.confinement()

    assert list(measures)[:2] == ["resource limits", "namespaces"]
    assert measures["resource limits"] == measures["no new privileges"] == ""
    if ROOT:
        assert measures["own uid"] == measures["empty root directory"] == ""


def test_the_measures_and_which_of_them_a_policy_requires_are_documented() -> None:
    table = (
        (Path(__file__).parents[3] / "docs" / "architecture.md").read_text().split("| measure | as root |")[1].split("\n\n")[0]
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]

    assert [row[0] for row in rows] == [name for name in process.confinement() if name in {row[0] for row in rows}]
    assert set(process.confinement()) <= {row[0] for row in rows}
    assert {row[0] for row in rows if row[3] == "no"} == OPTIONAL


def test_a_missing_measure_is_a_gap_and_one_that_this_user_can_not_have_is_not() -> None:
    measures = {
        "resource limits": "",
        "namespaces": "this host does not allow it (Operation not permitted)",
        "own uid": ONLY_ROOT,
        "Landlock": f"{NOT_IN_KERNEL} (Function not implemented)",
        "seccomp": "libseccomp can't be used (Debian: install libseccomp2): not found",
    }

    assert [(gap.measure, gap.required) for gap in gaps(measures)] == [
        ("namespaces", False),
        ("Landlock", False),
        ("seccomp", True),
    ]
    assert [gap.required for gap in gaps({"Landlock": "this host does not allow it (Operation not permitted)"})] == [True]


MEASURES = "from reconciler.image.builder import process; print(dict(process.confinement()))"


def measures_under(*how: str) -> dict[str, str]:
    done = subprocess.run([*how, sys.executable, "-c", MEASURES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = ast.literal_eval(done.stdout)
    return found


@pytest.mark.skipif(subprocess.run(["unshare", "-Ur", "true"], check=False).returncode != 0, reason="no user namespaces")
@pytest.mark.parametrize("how", ["--map-root-user", "--map-current-user"])
def test_root_of_a_user_namespace_with_one_id_is_confined_as_a_user(how: str) -> None:
    """As in rootless containers."""
    measures = measures_under("unshare", "--user", how)

    assert measures["empty root directory"] == measures["namespaces"] == measures["no new processes"] == ""
    assert not gaps({name: why for name, why in measures.items() if name not in ("Landlock", "seccomp")})


@pytest.mark.root
def test_a_builder_needs_no_writable_directory() -> None:
    script = 'mount --make-rprivate / && for d in / /tmp /var/tmp /dev/shm; do mount -o bind,ro $d $d; done; cd / && exec "$@"'
    measures = measures_under("unshare", "-m", "sh", "-c", script, "sh")

    assert measures["empty root directory"] == measures["own uid"] == ""


MANIFEST = """\
apiVersion: reconciler/v1alpha1
kind: Pool
metadata: {name: files}
spec: {file: {}}
---
apiVersion: reconciler/v1alpha1
kind: Image
metadata: {name: web}
spec: {pool: files, size: 16MiB, layers: [{source: layer.tar}]}
"""


@pytest.mark.skipif(subprocess.run(["unshare", "-Ur", "true"], check=False).returncode != 0, reason="no user namespaces")
@pytest.mark.parametrize("verb", ["build", "inspect", "--once"])
def test_a_missing_measure_is_a_note_of_each_verb_that_reads_a_layer(tmp_path: Path, verb: str) -> None:
    """A namespace that may have no further namespaces, as containers forbid them."""
    layer = tmp_path / "layer.tar"
    samples.pack(layer, [samples.file("etc/hostname", "here\n")])
    manifest = tmp_path / "image.yaml"
    manifest.write_text(MANIFEST)
    words = {
        "build": [str(layer), "--output", str(tmp_path / "image"), "--size", "16MiB"],
        "inspect": [str(layer)],
        "--once": ["-f", str(tmp_path), "--state", str(tmp_path / ".state")],
    }[verb]
    script = 'echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"'
    command = ["unshare", "-Ur", "sh", "-c", script, "sh", sys.executable, "-m", "reconciler.cli.main", verb, *words]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if "confine" in line and "namespaces: " in line]
    assert len(notes) == 1 and notes[0].startswith("note: the builder process ")


def test_a_builder_can_read_back_what_it_has_written(tmp_path: Path) -> None:
    """Python reads into memory with preadv2; no other call replaces it where that is refused."""
    if missing := process.confinement()["seccomp"]:
        pytest.skip(missing)
    volume = tmp_path / "volume"
    volume.write_bytes(b"written")
    with volume.open("r+b") as file:
        child = os.fork()
        if not child:
            try:
                seccomp.prepare().load()
                into = bytearray(7)
                os.pwrite(file.fileno(), b"again", 0)
                os._exit(os.preadv(file.fileno(), [into], 0) != 7 or into != b"againen")
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

"""The sample layers are real, reproducible and fit on one another; the sample S3 server ends with its user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from samples import layers
from samples.s3 import S3Server
from tests.support.origin import eventually

CONTENT = {"base.tar": layers.base, "python.tar.gz": layers.python, "tools.tar.zst": layers.tools, "slim.tar.gz": layers.slim}


USER = """
import time
from samples.s3 import S3Server
with S3Server() as server:
    print(server._process.pid, flush=True)
    time.sleep(60)
"""


def members(layer: str) -> list[tarfile.TarInfo]:
    return [member for member, _ in CONTENT[layer]()]


@pytest.mark.parametrize("layer", CONTENT)
def test_a_layer_names_each_directory_before_what_is_in_it(layer: str) -> None:
    seen = {"."}
    for member in members(layer):
        assert str(Path(member.name).parent) in seen
        seen.add(member.name)


def test_whiteouts_remove_members_of_lower_layers() -> None:
    below = {member.name for layer in layers.IMAGES["tools"] for member in members(layer)}
    hidden = [Path(member.name) for member in members("slim.tar.gz") if "/.wh." in member.name]

    assert len(hidden) == 3
    for path in hidden:
        name = path.name.removeprefix(".wh.")
        assert str(path.parent if name == ".wh..opq" else path.with_name(name)) in below


def test_the_interpreters_library_has_no_caches_and_tests() -> None:
    names = {member.name for member in members("python.tar.gz")}

    assert f"{layers.LIBRARY}/json/decoder.py" in names
    assert not [name for name in names if "__pycache__" in name or "/test/" in name]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("1.tar.gz", "2.tar.gz", "1.tar.zst", "2.tar.zst"):
        layers.pack(tmp_path / name, layers.base())

    for suffix in ("gz", "zst"):
        assert (tmp_path / f"1.tar.{suffix}").read_bytes() == (tmp_path / f"2.tar.{suffix}").read_bytes()


def test_an_endpoint_reports_that_its_port_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    with S3Server() as server, pytest.raises(RuntimeError, match=r"is port \d+ taken"):
        S3Server(int(server.endpoint.rpartition(":")[2])).__enter__()

    assert "in use" in capfd.readouterr().err


def test_an_endpoint_ends_with_its_user_however_that_ends() -> None:
    root = Path(layers.__file__).parent.parent
    user = subprocess.Popen([sys.executable, "-c", USER], cwd=root, stdout=subprocess.PIPE)
    assert user.stdout is not None
    server = int(user.stdout.readline())
    user.send_signal(signal.SIGKILL)
    user.communicate()

    eventually(lambda: not alive(server))


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False

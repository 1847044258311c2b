"""``make run`` and README's commands after it, as a new user runs them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from samples import quickstart

ROOT = Path(__file__).resolve().parents[2]
FIRST = "export PATH="


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.defpath, "HOME": "/nonexistent"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)


def readme_block() -> str:
    """The commands of README that follow ``make run``."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(FIRST)]
    return found


def test_readme_has_the_commands_that_make_run_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv" / "bin" / "python"))

    printed = quickstart.commands("manifests/quickstart", ROOT / ".quickstart")

    assert readme_block() in printed


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        done = run(sys.executable, "-m", "samples.endpoint", "--layers", "/nonexistent", "--port", port)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"port {port} on 127.0.0.1: Address already in use; end the process")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_endpoint_and_its_server(end: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "samples.endpoint", "--layers", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            endpoint = running.stdout.readline().partition(",")[0]
            assert running.stdout.readline().startswith("registry ")

            running.send_signal(end)

            assert running.wait(60) == 0
        finally:
            running.kill()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(endpoint)


@pytest.mark.slow
def test_the_quickstart_converges_and_the_second_time_changes_nothing(tmp_path: Path) -> None:
    """Plan, progress, recap, list; then the same again with no action; then README's commands, without the endpoint."""
    command = [sys.executable, "-m", "samples.quickstart", "--work", str(tmp_path)]

    first, second = (run(*command) for _ in range(2))

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "changed=13 pruned=0 failed=0" in first.stdout
    assert "ok=11 changed=0 pruned=0 failed=0" in second.stdout
    assert second.stdout.count("Ready") == 3
    block = (
        readme_block()
        .replace(".quickstart", str(tmp_path))
        .replace(".venv/bin", os.path.relpath(Path(sys.executable).parent, ROOT))
    )

    done = run("bash", "-euc", block)

    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ("image/python  Ready", "Plan: 1 to change", "changed=1 pruned=0 failed=0", "python-a     python  intact"):
        assert expected in done.stdout

"""``make run``, as a newcomer sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_quickstart_converges_and_the_second_time_changes_nothing(tmp_path: Path) -> None:
    """Plan, progress, recap, list; then the same again with nothing left to do."""
    command = [sys.executable, "-m", "samples.quickstart", "--work", str(tmp_path)]

    first, second = (subprocess.run(command, capture_output=True, text=True, timeout=100, check=False) for _ in range(2))

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "changed=15 pruned=0 failed=0" in first.stdout
    assert "ok=11 changed=0 pruned=0 failed=0" in second.stdout
    assert second.stdout.count("Ready") == 3

"""The manifests of the checkout: the default directory, and the samples that have a directory each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.manifests.loader import load_paths

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples" / "manifests"


def test_validate_succeeds_in_a_fresh_checkout() -> None:
    """Without an option it reads ``manifests/``."""
    policy = os.environ["RECONCILER_HOST_FILE"]  # the quickstart brings one of its own: its endpoint is on loopback
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RECONCILER_")}
    environ["RECONCILER_HOST_FILE"] = policy
    command = [sys.executable, "-m", "reconciler.cli.main", "validate"]

    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "valid: 6 images, 1 pools\n", "")


@pytest.mark.parametrize("sample", sorted(path.name for path in SAMPLES.iterdir()))
def test_each_sample_is_valid(sample: str) -> None:
    combined = load_paths([SAMPLES / sample])

    assert combined.desired.images or combined.desired.pools

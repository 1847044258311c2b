"""Has the tests of this directory run in a guest; what is marked ``reboots`` drives guests of its own, on the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tier import Tier


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Tier(Path(__file__).parent, config), "kernel-tier")

"""Has the tests of this directory run in a guest; what is marked ``reboots`` drives guests of its own, on the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tier import Tier

TOO_MANY = ("test_stories.py", "[all]")
"""The stories try every moment on the file pool; on a thin pool ``test_killed`` does, change by change, which is much faster."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if item.path.name == TOO_MANY[0] and item.name.endswith(TOO_MANY[1])]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Tier(Path(__file__).parent, config), "kernel-tier")

"""Has the tests of this directory run in a guest; what is marked ``reboots`` drives guests of its own, on the host."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.tier import Tier

STORIES = "test_stories.py"
LEFT_OUT = re.compile(r"\[(all|truncated.*|climbing.*|missing.*|team!=data|!tier|tier)\]$")
"""Variants that the file pool tries, and that a thin pool makes no difference to. Every moment at which a process can be
killed is tried in ``test_killed``, change by change, which is much faster."""
SLOW = "test_killed_at_any_moment"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    stories = [item for item in items if item.path.name == STORIES]
    left_out = [item for item in stories if LEFT_OUT.search(item.name)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in stories:
        if item.name.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(900))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Tier(Path(__file__).parent, config), "kernel-tier")

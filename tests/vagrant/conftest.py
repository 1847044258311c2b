"""One machine for all tests of this directory, which run in the order of the file: ``make vagrant-test``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .machine import Machine, lacking

HERE = Path(__file__).parent
SHORT_OF_TIME = 1500  # seconds for one test on a machine without KVM and with other work


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if not ours:
        return
    wanted, missing = config.getoption("--vagrant"), lacking()
    if wanted and missing:
        raise pytest.UsageError(f"--vagrant was given, but {missing}")
    for item in ours:
        item.add_marker(pytest.mark.timeout(SHORT_OF_TIME))
        if not wanted:
            item.add_marker(pytest.mark.skip(reason="starts a virtual machine, which takes minutes: `make vagrant-test`"))


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine with its second disk; nothing is installed yet."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    machine.vagrant("destroy", "--force")  # of an earlier run that was killed
    try:
        machine.vagrant("up", "--no-provision")
        yield machine
    finally:
        machine.vagrant("destroy", "--force")

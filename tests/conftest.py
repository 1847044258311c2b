"""What all tests share: the opt-in for root, and a state directory of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.policy import force
from reconciler.policy.rules import Policy
from tests.support import policy
from tests.support.tier import HELP, MODES

os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
"""Debian keeps e2fsprogs and device-mapper's tools where an ordinary user's PATH has no directory."""
os.umask(0o022)  # modes that tests compare come from it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--root", action="store_true", help="run the tests that need root (loop devices, mounts); not being root then fails"
    )
    parser.addoption(
        "--vagrant", action="store_true", help="run the tests that start a virtual machine; lacking what that needs then fails"
    )
    parser.addoption("--kernel", choices=MODES, default="auto", help=HELP)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--root"):
        if os.geteuid() != 0:
            raise pytest.UsageError("--root was given, but this is not root: the tests that need it could not run")
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root, loop devices and mounts: give --root"))


@pytest.fixture(scope="session", autouse=True)
def permissive_host_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host file whose policy permits what the tests' manifests ask for; in the environment of every command."""
    path = policy.write(tmp_path_factory.mktemp("host") / "host.yaml")
    os.environ["RECONCILER_HOST_FILE"] = str(path)
    return path


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch, permissive_host_file: Path) -> None:
    """No test depends on, or touches, what the user running it has set up. ``--prune`` has no grace period by default."""
    for name in [n for n in os.environ if n.startswith(("RECONCILER_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RECONCILER_PRUNE_GRACE", "0s")
    monkeypatch.setenv("RECONCILER_HOST_FILE", str(permissive_host_file))
    monkeypatch.setattr(force, "_in_force", Policy())
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")

"""The Vagrantfile is valid for each of its providers, installed here or not."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from .machine import EMULATED, OUTSIDE, Machine

TOP = Path(__file__).parent.parent.parent
VBOXMANAGE = '#!/bin/sh\ncase "$*" in *version*) echo 7.0.8r156879 ;; esac\n'
"""Everything that Vagrant runs VirtualBox for while it validates."""


def validate(where: Path, directory: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    tools = directory / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "VBoxManage").write_text(VBOXMANAGE)
    (tools / "VBoxManage").chmod(0o755)
    settings |= {
        "PATH": f"{tools}:{OUTSIDE['PATH']}",
        "VAGRANT_HOME": str(directory / "home"),
        "VAGRANT_DOTFILE_PATH": str(directory / "dot"),
    }
    settings |= {
        "RECONCILER_VM_DRIVER": "kvm",
        "HOME": str(directory),
        "XDG_RUNTIME_DIR": str(directory),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }
    command = ["vagrant", "validate"]
    return subprocess.run(command, cwd=where, env=OUTSIDE | settings, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"VAGRANT_DEFAULT_PROVIDER": "virtualbox"},
        {"VAGRANT_DEFAULT_PROVIDER": "virtualbox", "VAGRANT_EXPERIMENTAL": "disks"},
        {"VAGRANT_DEFAULT_PROVIDER": "libvirt"},
    ],
    ids=lambda settings: "-".join(settings.values()),
)
def test_it_is_valid(settings: Mapping[str, str], tmp_path: Path) -> None:
    done = validate(TOP, tmp_path, **settings)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated successfully" in done.stdout


@pytest.mark.skipif(not EMULATED, reason="RECONCILER_VM_DRIVER chooses another machine")
def test_it_is_valid_for_a_machine_without_kvm(tmp_path: Path) -> None:
    """Validation needs a session of libvirt, which the wrapper starts."""
    assert "validated successfully" in Machine(tmp_path).vagrant("validate")


def test_a_fault_in_a_vagrantfile_is_found(tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    whole = (TOP / "Vagrantfile").read_text()
    (spoilt / "Vagrantfile").write_text(whole.replace("config.vm.box_check_update", "config.vm.no_such_setting"))

    done = validate(spoilt, tmp_path, VAGRANT_DEFAULT_PROVIDER="libvirt")

    assert done.returncode != 0
    assert "no_such_setting" in done.stdout + done.stderr

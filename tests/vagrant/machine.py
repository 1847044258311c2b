"""The virtual machine of the tests: vagrant's commands, a shell in the guest, and the installed command.

Vagrant is ``tests/vagrant/emulated``, which works everywhere, or plain ``vagrant`` with another ``RECONCILER_VM_DRIVER`` (kvm).
State: the machine, which vagrant keeps.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OWN = {
    "RECONCILER_VM_STATE": f"/var/tmp/reconciler-test-{os.getuid()}",
    "VAGRANT_DOTFILE_PATH": str(HERE.parent.parent / ".vagrant" / "test"),
}
OUTSIDE = OWN | dict(os.environ)
"""The settings that select the machine; the tests' own environment has none. It is not the machine of a user who tries things."""

EMULATED = OUTSIDE.get("RECONCILER_VM_DRIVER", "qemu") == "qemu"
VAGRANT = str(HERE / "emulated") if EMULATED else "vagrant"
TOOLS = ("vagrant", "ssh", "rsync", *(("virsh", "qemu-system-x86_64", "qemu-img", "mmdebstrap", "setpriv") if EMULATED else ()))
DISK = "2"
"""GiB of the pool's disk: small, so that a test can fill it."""

ENVIRONMENT = {"RECONCILER_MANIFESTS": "/srv/manifests"}


def lacking() -> str:
    """What this host lacks for a machine; empty if it has everything."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=f"{OUTSIDE['PATH']}:/usr/sbin:/sbin") is None]
    return f"there is no {', '.join(missing)} here: tests/vagrant/requirements.sh installs it" if missing else ""


class Machine:
    """``directory`` holds ssh's configuration and the socket of the one connection for all commands."""

    def __init__(self, directory: Path) -> None:
        self._config = directory / "ssh"
        self._socket = directory / "control"

    def vagrant(self, *words: str, timeout: float = 1200) -> str:
        """Runs vagrant. Returns its output; a failure fails the test."""
        self._disconnect()
        command = [
            VAGRANT,
            words[0],
            *(["--no-tty", "--no-color"] if words[0] in ("up", "reload", "provision") else []),
            *words[1:],
        ]
        done = subprocess.run(
            command,
            cwd=HERE.parent.parent,
            env=OUTSIDE | {"RECONCILER_VM_DISK": DISK, "VAGRANT_DEFAULT_PROVIDER": "libvirt"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        output = "\n".join(line for line in done.stdout.splitlines() if "Progress" not in line)
        assert done.returncode == 0, f"vagrant {' '.join(words)} ended with {done.returncode}\n{output[-8000:]}"
        return output

    def ssh(self, command: str, *, stdin: str = "", timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Runs a line of shell as root in the guest."""
        if not self._config.exists():
            self._config.write_text(self.vagrant("ssh-config"))
        one = ["-o", "ControlMaster=auto", "-o", f"ControlPath={self._socket}", "-o", "ControlPersist=60"]
        inside = f"sudo bash -c {shlex.quote(command)}"
        words = ["ssh", "-F", str(self._config), *one, "default", inside]
        return subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)

    def run(self, command: str, *, stdin: str = "") -> str:
        """As ``ssh``. Returns standard output; a failure fails the test and shows all output."""
        done = self.ssh(command, stdin=stdin)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n--- stderr\n{done.stderr}\n--- exit {done.returncode}"
        return done.stdout

    def reconcile(self, *words: str, expect: int = 0) -> Any:
        """Runs the installed command. Returns its JSON; ``expect`` is the exit code."""
        settings = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
        command = f"{settings} reconcile {shlex.join(words)} -o json"
        done = self.ssh(command)
        assert done.returncode == expect, f"$ {command}\n{done.stdout}\n--- stderr\n{done.stderr}\n--- exit {done.returncode}"
        return json.loads(done.stdout)

    def push(self, message: str, change: str) -> None:
        """Clones as the user ``vagrant``, changes with a line of shell, commits and pushes to the repository of manifests."""
        steps = (
            "rm -rf /tmp/work && git clone -q /srv/git/manifests.git /tmp/work && cd /tmp/work",
            "git config user.name vagrant && git config user.email vagrant@localhost",
            change,
            f"git add -A && git commit -qm {shlex.quote(message)} && git push -q",
        )
        self.run(f"sudo -u vagrant bash -ec {shlex.quote(chr(10).join(steps))}")

    def eventually(self, holds: Callable[[], bool], what: str, *, within: float = 300) -> float:
        """Waits until something holds. Returns the seconds that it took."""
        started = time.monotonic()
        while not holds():
            waited = time.monotonic() - started
            assert waited < within, f"not within {within:.0f} s: {what}\n{self.journal()}"
            time.sleep(0.2)
        return time.monotonic() - started

    def journal(self) -> str:
        return self.ssh("journalctl --no-pager --lines 60 --unit reconcile.service --unit manifests-pull.service").stdout

    def mappings(self) -> dict[str, dict[str, str]]:
        """The rows of ``dmsetup info`` by name. It is run again where a mapping goes while it lists them: it then fails."""
        columns = ("name", "uuid", "suspended", "open")
        command = f"dmsetup info --columns --noheadings --separator '|' --options {','.join(columns)}"
        listed = self.run(f"for n in 1 2 3 4; do {command} 2>/dev/null && exit; sleep 1; done; {command}")
        rows = (dict(zip(columns, line.split("|"), strict=True)) for line in listed.splitlines() if "|" in line)
        return {row["name"]: row for row in rows}

    def pull_the_plug(self, once: str) -> None:
        """Cuts the power as soon as a condition of shell holds: nothing is stopped, nothing synced.

        Not ``vagrant halt --force``: to libvirt that is a shutdown.
        """
        self.ssh(f"until {once}; do sleep 0.05; done; echo o >/proc/sysrq-trigger; sleep 60", timeout=300)
        self.eventually(lambda: ",state,running" not in self.vagrant("status", "--machine-readable"), "the machine is off")

    def _disconnect(self) -> None:
        """Closes the connection; it is of no use once the machine is gone."""
        if self._config.exists():
            words = ["ssh", "-F", str(self._config), "-o", f"ControlPath={self._socket}", "-O", "exit", "default"]
            subprocess.run(words, capture_output=True, check=False)

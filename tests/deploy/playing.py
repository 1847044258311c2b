"""Plays of the collection against this host: the collection as it is distributed, and real ansible-core."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ROOT / "deploy" / "ansible"
BIN = Path(sys.executable).parent


def environment(home: Path, collections: Path) -> dict[str, str]:
    """An environment of Ansible that reads and writes nothing of the user who runs the tests."""
    ours = {
        "HOME": str(home),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_HOME": str(home / ".ansible"),
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "records",
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "False",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "1",
    }
    kept = {name: os.environ[name] for name in ("TMPDIR", "RECONCILER_HOST_FILE") if name in os.environ}
    return {**kept, **ours}


def run(words: Sequence[str | Path], env: Mapping[str, str], cwd: Path) -> str:
    done = subprocess.run(words, env=dict(env), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def install(directory: Path) -> Path:
    """Build the collection as for a galaxy server and install it: the path for ANSIBLE_COLLECTIONS_PATH."""
    env = environment(directory, directory / "collections")
    run([BIN / "ansible-galaxy", "collection", "build", COLLECTION, "--output-path", directory], env, directory)
    (archive,) = directory.glob("*.tar.gz")
    run([BIN / "ansible-galaxy", "collection", "install", archive, "-p", directory / "collections", "--offline"], env, directory)
    return directory / "collections"


@dataclass(frozen=True)
class Played:
    """What a play has done."""

    code: int
    records: list[dict[str, Any]]
    text: str

    def ok(self) -> Played:
        assert self.code == 0, self.text
        return self

    @property
    def changed(self) -> list[str]:
        """The tasks that have reported a change."""
        return [one["task"].rpartition(" : ")[2] for one in self.records if one["result"].get("changed")]

    def result(self, task: str) -> dict[str, Any]:
        """The result of a task, and in ``failed`` whether it has failed."""
        found = [
            {"failed": one["status"] == "failed", **one["result"]}
            for one in self.records
            if one["task"].rpartition(" : ")[2] == task
        ]
        assert len(found) == 1, f"{len(found)} tasks are {task!r}\n{self.text}"
        return found[0]


@dataclass(frozen=True)
class Player:
    """Plays against localhost, without a connection and without facts."""

    root: Path
    collections: Path

    def play(self, tasks: Sequence[Mapping[str, Any]], *words: str) -> Played:
        playbook, records = self.root / "playbook.yml", self.root / "records.jsonl"
        head = {"hosts": "localhost", "connection": "local", "gather_facts": False}
        head["vars"] = {"ansible_python_interpreter": sys.executable}
        playbook.write_text(yaml.safe_dump([{**head, "tasks": list(tasks)}]))
        records.write_text("")
        env = {**environment(self.root, self.collections), "RECORDS": str(records)}
        command = [BIN / "ansible-playbook", playbook, *words]
        done = subprocess.run(command, env=env, cwd=self.root, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in records.read_text().splitlines()]
        return Played(done.returncode, lines, done.stdout + done.stderr)


def wheel(directory: Path, version: str) -> Path:
    """A wheel of this checkout, as quickly as a zip file is written. Its dependencies are those of the tests, by a link."""
    name = f"reconcile_images-{version}"
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in sorted((ROOT / "reconciler").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files[f"{name}.dist-info/METADATA"] = f"Metadata-Version: 2.1\nName: reconcile-images\nVersion: {version}\n".encode()
    files[f"{name}.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{name}.dist-info/entry_points.txt"] = b"[console_scripts]\nreconcile = reconciler.cli.start:main\n"
    files["dependencies.pth"] = f"{sysconfig.get_path('purelib')}\n".encode()
    rows = [f"{path},sha256={digest(data)},{len(data)}" for path, data in files.items()]
    files[f"{name}.dist-info/RECORD"] = "\n".join([*rows, f"{name}.dist-info/RECORD,,", ""]).encode()
    path = directory / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
    return path


def digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

"""What a story works with: a directory of manifests, a state directory, layers, an S3 endpoint, and the installed command."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.zygote import STACKS, Zygote

from .gate import Gate
from .layers import Layer

RECONCILE = Path(sys.executable).with_name("reconcile")
BUCKET = "layers"
SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"


@dataclass(frozen=True)
class Completed:
    """A command that has ended."""

    command: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        try:
            return json.loads(self.stdout)
        except ValueError as error:
            raise AssertionError(f"{error}\n{self}") from error

    def __str__(self) -> str:
        return f"$ reconcile {' '.join(self.command)}\n{self.stdout}\n--- stderr\n{self.stderr}\n--- exit {self.code}"

    def expect(self, code: int) -> Completed:
        assert self.code == code, f"expected exit {code}\n{self}"
        return self

    def object(self, kind: str, name: str | None = None) -> dict[str, Any]:
        """The only object of a kind in the answer of ``--once``, or the one with this name."""
        found = [o for o in self.json["objects"] if o["kind"] == kind and name in (None, o["name"])]
        assert len(found) == 1, f"{len(found)} objects are {kind} {name or ''}\n{self}"
        return dict(found[0])

    def words(self, *wanted: str) -> Completed:
        """All of these are in what was said to people, case aside."""
        said = (self.stdout + self.stderr).lower()
        for word in wanted:
            assert word.lower() in said, f"{word!r} is not said\n{self}"
        return self


class Process(Protocol):
    """A process that was started for a story."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int) -> None: ...


class Running:
    """A command that runs in a process group of its own; what it says goes to two files."""

    def __init__(self, command: tuple[str, ...], process: Process, out: IO[str], err: IO[str]) -> None:
        self.command = command
        self.process = process
        self._out = out
        self._err = err

    def until(self, condition: Callable[[], object], what: str, seconds: float = 20.0) -> Running:
        """Wait for something to be so while the command runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"it ended before {what}\n{self.wait()}"
            assert time.monotonic() < deadline, f"{what} never came"
            time.sleep(0.002)
        return self

    def said(self) -> str:
        """What it has said so far."""
        return b"".join(os.pread(stream.fileno(), 1 << 24, 0) for stream in (self._out, self._err)).decode()

    def signal(self, number: int) -> Running:
        self.process.send_signal(number)
        return self

    def kill(self) -> Completed:
        """SIGKILL for the whole process group: nothing of it gets to say a last word."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.wait()

    def wait(self, seconds: float = 60.0) -> Completed:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.signal(STACKS)
            time.sleep(0.5)
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"it did not end\n{self._completed(self.process.wait())}") from None
        return self._completed(code)

    def _completed(self, code: int) -> Completed:
        said = []
        for stream in (self._out, self._err):
            stream.seek(0)
            said.append(stream.read())
            stream.close()
        return Completed(self.command, code, *said)


@dataclass
class Workshop:
    """``gate`` is the S3 endpoint of the manifests, None in stories whose layers are files."""

    root: Path
    zygote: Zygote
    gate: Gate | None = None
    upstream: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for directory in (self.manifests, self.layers):
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def layers(self) -> Path:
        return self.root / "layers"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def spool(self) -> Path:
        return self.state / "spool"

    @property
    def volumes(self) -> list[Path]:
        return sorted((self.state / "pools/default/volumes").glob("*.ext4"))

    def snapshot(self, name: str) -> Path:
        return self.state / "pools/default/snapshots" / f"{name}.ext4"

    def holdings(self) -> dict[str, str]:
        """Digests of all that the pool holds, by file name: volumes and snapshots, and whatever else stands there."""
        return contents(path for path in (self.state / "pools").rglob("*") if path.is_file())

    def snapshot_names(self) -> set[str]:
        return {path.name.removesuffix(".ext4") for path in self.snapshot("any").parent.iterdir()}

    # ------------------------------------------------------------------------------------------------ manifests

    def declare(self, name: str, *documents: Mapping[str, Any]) -> Path:
        path = self.manifests / f"{name}.yaml"
        path.write_text(yaml.safe_dump_all(list(documents), sort_keys=False))
        return path

    def withdraw(self, name: str) -> None:
        (self.manifests / f"{name}.yaml").unlink()

    def pool(self, reserve: int = 0) -> None:
        """The pool of all stories keeps no reserve, so that they don't depend on how full this machine is."""
        body = {"file": {}, "reserve": {"dataPercent": reserve}}
        self.declare("pool", {"apiVersion": "reconciler/v1alpha1", "kind": "Pool", "metadata": {"name": "default"}, "spec": body})

    def image(
        self,
        name: str,
        layers: Sequence[Layer],
        *,
        snapshots: Sequence[Mapping[str, Any] | str] | None = None,
        pinned: bool = True,
        s3: bool = False,
        labels: Mapping[str, str] | None = None,
        size: str = "16MiB",
        **spec: Any,
    ) -> None:
        """Declare an image, and put its layers where its manifest says: beside the manifests, or into the bucket."""
        sources = [self.put(layer) if s3 else self.keep(layer) for layer in layers]
        pins = [{"sha256": layer.sha256} if pinned else {} for layer in layers]
        names = [f"{name}-a"] if snapshots is None else snapshots
        body: dict[str, Any] = {
            "size": size,
            "layers": [{"source": source} | pin for source, pin in zip(sources, pins, strict=True)],
            "snapshots": [s if isinstance(s, Mapping) else {"name": s} for s in names],
        }
        if s3:
            body["s3"] = self.s3_options
        if not (self.manifests / "pool.yaml").exists():
            self.pool()
        metadata = {"name": name} | ({"labels": dict(labels)} if labels else {})
        self.declare(name, {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": metadata, "spec": body | spec})

    @property
    def s3_options(self) -> dict[str, Any]:
        assert self.gate is not None, "this story has no S3 endpoint: ask for the fixture `bucket`"
        return {"endpointUrl": self.gate.endpoint, "region": "us-east-1", "anonymous": True}

    def keep(self, layer: Layer) -> str:
        """Write a layer beside the manifests; its source, relative to them."""
        (self.layers / f"{layer.name}.tar").write_bytes(layer.data)
        return f"../layers/{layer.name}.tar"

    def put(self, layer: Layer, key: str | None = None) -> str:
        """Upload a layer; its source."""
        key = key or f"{layer.name}.tar"
        self.upload(f"/{BUCKET}/{key}", layer.data)
        return f"s3://{BUCKET}/{key}"

    def upload(self, path: str, data: bytes = b"", method: str = "PUT") -> None:
        """Straight to the server, past the gate: uploads are nothing that a story counts."""
        connection = http.client.HTTPConnection(urlsplit(self.upstream).netloc)
        try:
            connection.request(method, path, body=data, headers={"x-amz-acl": "public-read"})
            assert connection.getresponse().status in (200, 204)
        finally:
            connection.close()

    # ------------------------------------------------------------------------------------------------- commands

    def start(self, *words: str | Path, env: Mapping[str, str] | None = None, die_at: int = 0) -> Running:
        """Begin a command; ``die_at`` see ``zygote``."""
        command = tuple(map(str, words))
        out, err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by Running
        said = {"env": self.environment | dict(env or {}), "cwd": self.root}
        process = self.zygote.start(command, **said, out=out.fileno(), err=err.fileno(), die_at=die_at)
        return Running(command, process, out, err)

    def run(self, *words: str | Path, env: Mapping[str, str] | None = None) -> Completed:
        return self.start(*words, env=env).wait()

    def run_installed(self, *words: str) -> Completed:
        """The command as pip has installed it, from its first instruction on."""
        done = subprocess.run(
            [RECONCILE, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.root,
            check=False,
        )
        return Completed(words, done.returncode, done.stdout, done.stderr)

    def once(self, *words: str) -> Completed:
        return self.run("--once", *words)

    def converge(self, *words: str) -> Completed:
        """Run once, in JSON; all goes well."""
        return self.once("-o", "json", *words).expect(0)

    def plan(self, *words: str) -> Any:
        return self.run("plan", "-o", "json", *words).json

    def settled(self) -> None:
        """Another run finds nothing to do, and nothing is left of the earlier ones."""
        done = self.once("-o", "json", "--detailed-exitcode").expect(0).json
        assert (done["changed"], done["failed"]) == (0, 0), done
        self.tidy()

    def tidy(self) -> None:
        """No half-built file, no spooled layer, no process."""
        partial = [path for path in self.state.rglob("*") if path.name.endswith((".partial", ".part", ".new", ".json"))]
        assert not partial, partial
        assert not self.spool.exists() or not list(self.spool.iterdir()), list(self.spool.iterdir())
        assert not workers(self.state)

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of whoever runs the tests, but what measures coverage."""
        kept = {k: v for k, v in os.environ.items() if k.startswith(("COV", "LANG", "LC_"))}
        own = {
            "PATH": SBIN,
            "HOME": str(self.root),
            "RECONCILER_MANIFESTS": str(self.manifests),
            "RECONCILER_STATE": str(self.state),
            "RECONCILER_PRUNE_GRACE": "0s",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if host_file := os.environ.get("RECONCILER_HOST_FILE"):  # of tests/conftest.py
            own["RECONCILER_HOST_FILE"] = host_file
        return kept | own | self.env

    def copy(self, root: Path) -> Workshop:
        """This workshop elsewhere, as a backup tool would bring it back."""
        subprocess.run(["cp", "-a", "--sparse=always", self.root, root], check=True)
        return replace(self, root=root)


WorkshopAt = Callable[[Path], Workshop]
"""Makes an empty workshop in a directory."""


# --------------------------------------------------------------------------------------------------------- looking


def inventory(directory: Path) -> dict[str, tuple[int, ...] | str]:
    """All that stands in a directory: who, when, and what is in it. Two are equal where nothing was touched."""
    return {str(path): (*_status(path), _content(path)) for path in (directory, *sorted(directory.rglob("*")))}


def _status(path: Path) -> tuple[int, ...]:
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _content(path: Path) -> str:
    return digest(path) if stat.S_ISREG(path.lstat().st_mode) else ""


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(paths: Iterable[Path]) -> dict[str, str]:
    """Digests by file name."""
    return {path.name: digest(path) for path in paths}


def workers(state: Path, patience: float = 5.0) -> list[str]:
    """Processes that still hold a file of the state directory; a builder whose parent was killed gets a moment to notice."""
    deadline = time.monotonic() + patience
    while (found := list(_holders(str(state)))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _holders(prefix: str) -> Iterable[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "reconcile" in command and any(os.readlink(fd).startswith(prefix) for fd in (process / "fd").iterdir()):
                yield command
        except OSError:
            continue


def tool(name: str) -> str:
    found = shutil.which(name, path=SBIN)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def fsck(image: Path) -> None:
    """e2fsck reports nothing of an image."""
    done = subprocess.run([tool("e2fsck"), "-fn", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def cat(image: Path, path: str) -> bytes:
    """A file's content, read by e2fsprogs."""
    done = subprocess.run([tool("debugfs"), "-R", f"cat {path}", image], capture_output=True, check=True)
    assert b"not found" not in done.stderr, done.stderr
    return done.stdout


def names(image: Path, directory: str) -> set[str]:
    """What stands in a directory."""
    done = subprocess.run([tool("debugfs"), "-R", f"ls -p {directory}", image], capture_output=True, text=True, check=True)
    return {line.split("/")[5] for line in done.stdout.splitlines() if line.startswith("/")} - {".", ".."}


def write(image: Path, path: str, data: bytes, scratch: Path) -> None:
    """What a microVM does to its root: write a file into the file system."""
    scratch.write_bytes(data)
    done = subprocess.run([tool("debugfs"), "-w", "-R", f'write "{scratch}" {path}', image], capture_output=True, check=True)
    assert b"Allocated inode" in done.stdout + done.stderr, done.stderr

"""``make run``: a local S3 endpoint and a registry with real root filesystems, and ``reconcile`` that makes images of them.

Uses loopback and the directory ``.quickstart/`` only: layers, state directory, images. A second run changes nothing. The
manifests are those of ``manifests/quickstart``. At the end it prints the commands with which to continue; README.md has the same.
"""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from samples import layers
from samples.registry import SampleRegistry
from samples.s3 import S3Server, upload

ROOT = Path(__file__).resolve().parent.parent
PORT, BUCKET = 9460, "quickstart"
REGISTRY_PORT = 9461
"""As in manifests/quickstart and samples/manifests/debian."""

HOST_FILE = f"""\
# Written by `make run`: what the quickstart's manifests may ask of this host, as root too.
policy:
  endpoints: {{allow: ["127.0.0.1:{PORT}"]}}
  registries: {{allow: ["127.0.0.1:{REGISTRY_PORT}"], plainHttp: ["127.0.0.1:{REGISTRY_PORT}"]}}
  confinement: best-effort
"""

CONTINUE = """
The endpoint and the registry have stopped; images and snapshots stay. Continue with:

export PATH="$PWD/{bin}:$PATH" RECONCILER_MANIFESTS={manifests} RECONCILER_STATE={state}
export RECONCILER_HOST_FILE={host_file}
reconcile describe image/python
rm {state}/pools/default/snapshots/python-a.ext4
reconcile plan
reconcile --once
reconcile list snapshots

To serve the layers again, for example to edit {manifests} and converge:

python -m samples.endpoint --layers {layers} &
"""
"""README.md has the same commands; a test compares."""


def reconcile(manifests: str, work: Path, *words: str) -> int:
    """Prints the command and runs it. Returns its exit code."""
    shared = ["-f", manifests, "--state", relative(work / "state"), "--host-file", relative(work / "host.yaml")]
    print(f"\n$ reconcile {' '.join((*words, *shared))}", flush=True)
    return subprocess.run([Path(sys.executable).with_name("reconcile"), *words, *shared], cwd=ROOT, check=False).returncode


def oci_images(made: Mapping[str, Path]) -> dict[str, list[Path]]:
    """The images of the sample registry."""
    return {"slim": [made[layer] for layer in layers.IMAGES["slim"]]}


def require_free(*ports: int) -> None:
    """Ends the process with one line where another one listens on a port of loopback. 0 is any free port."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers: connections that have ended don't count
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                command = f"ss -ltnp 'sport = :{port}'"
                sys.exit(f"port {port} on 127.0.0.1: {error.strerror}; end the process that uses it (`{command}` lists it)")


def commands(manifests: str, work: Path) -> str:
    """What to do next, from the top of the checkout."""
    places = {"bin": Path(sys.executable).parent, "state": work / "state", "layers": work / "layers"}
    places["host_file"] = work / "host.yaml"
    return CONTINUE.format(manifests=manifests, **{name: shlex.quote(relative(path)) for name, path in places.items()})


def relative(path: Path) -> str:
    return os.path.relpath(path, ROOT)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="use a whole Debian, made with mmdebstrap (as root; takes minutes)")
    parser.add_argument("--work", type=Path, default=ROOT / ".quickstart", help="directory of all files")
    chosen = parser.parse_args(argv)
    require_free(PORT, REGISTRY_PORT)
    chosen.work.mkdir(parents=True, exist_ok=True)
    host_file = chosen.work / "host.yaml"
    host_file.write_text(HOST_FILE)
    host_file.chmod(0o600)
    print("Making the sample layers (once) …", flush=True)
    made = layers.make(chosen.work / "layers", full=chosen.full)
    manifests = "samples/manifests/debian" if chosen.full else "manifests/quickstart"
    with S3Server(PORT) as server, SampleRegistry(oci_images(made), REGISTRY_PORT) as registry:
        upload(server.endpoint, made, BUCKET)
        print(f"S3 endpoint {server.endpoint}, bucket {BUCKET}: {', '.join(sorted(made))}")
        print(f"registry {registry.host}: quickstart/slim:1")
        steps = [("plan",), ("--once",), ("list",)]
        code = next((code for words in steps if (code := reconcile(manifests, chosen.work, *words))), 0)
    if code == 0 and not chosen.full:
        print(commands(manifests, chosen.work))
    return code


if __name__ == "__main__":
    sys.exit(main())

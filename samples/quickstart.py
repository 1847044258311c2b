"""``make run``: a local S3 endpoint with real layered root filesystems in it, and ``reconcile`` at work on them.

Everything happens on loopback and under ``.quickstart/``: the layers, the state directory, the images. Run again, it changes
nothing. The manifests are those of ``manifests/quickstart``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from samples import layers
from samples.s3 import S3Server, upload

ROOT = Path(__file__).resolve().parent.parent
PORT, BUCKET = 9460, "quickstart"
"""As manifests/quickstart and samples/manifests/debian say."""


def reconcile(manifests: str, work: Path, *words: str) -> int:
    """Run the installed command as a user would, and show it."""
    shared = ["-f", manifests, "--state", os.path.relpath(work / "state", ROOT)]
    print(f"\n$ reconcile {' '.join((*words, *shared))}", flush=True)
    return subprocess.run([Path(sys.executable).with_name("reconcile"), *words, *shared], cwd=ROOT, check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--full", action="store_true", help="a whole Debian instead, made with mmdebstrap (as root; takes minutes)"
    )
    parser.add_argument("--work", type=Path, default=ROOT / ".quickstart", help="where everything is kept")
    chosen = parser.parse_args(argv)
    chosen.work.mkdir(parents=True, exist_ok=True)
    print("Making the sample layers (once) …", flush=True)
    made = layers.make(chosen.work / "layers", full=chosen.full)
    manifests = "samples/manifests/debian" if chosen.full else "manifests/quickstart"
    with S3Server(PORT) as server:
        upload(server.endpoint, made, BUCKET)
        print(f"S3 endpoint {server.endpoint}, bucket {BUCKET}: {', '.join(sorted(made))}")
        steps = [("plan",), ("--once",), ("list",)]
        return next((code for words in steps if (code := reconcile(manifests, chosen.work, *words))), 0)


if __name__ == "__main__":
    sys.exit(main())

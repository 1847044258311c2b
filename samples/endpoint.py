"""The quickstart's S3 endpoint by itself, until SIGINT or SIGTERM: ``python -m samples.endpoint --layers DIR``.

Makes the sample layers if they are missing, uploads them, and notifies systemd (``Type=notify``). The server keeps them in
memory, so that every start uploads them again.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from reconciler.telemetry.systemd import notify
from samples import layers
from samples.quickstart import BUCKET, PORT
from samples.s3 import S3Server, upload

ENDS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m samples.endpoint", description="the sample layers on a local S3 endpoint")
    parser.add_argument("--layers", type=Path, required=True, help="directory of the layers")
    parser.add_argument("--port", type=int, default=PORT, help="0: a free one")
    chosen = parser.parse_args(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    made = layers.make(chosen.layers)
    with S3Server(chosen.port) as server:
        upload(server.endpoint, made, BUCKET)
        print(f"{server.endpoint}, bucket {BUCKET}: {', '.join(sorted(made))}", flush=True)
        notify({"READY": "1"})
        signal.sigwait(ENDS)


if __name__ == "__main__":
    main()

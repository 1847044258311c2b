"""The quickstart's S3 endpoint by itself, for as long as it is left running: ``python -m samples.endpoint --layers DIR``.

Makes the sample layers where they are missing, serves them, and tells systemd when they are there (``Type=notify``). What was
uploaded is in the server's memory, so that every start begins with the upload.
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
    parser.add_argument("--layers", type=Path, required=True, help="where the layers are, or are made")
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one")
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

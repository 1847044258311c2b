"""The quickstart's S3 endpoint and registry by themselves, until SIGINT or SIGTERM: ``python -m samples.endpoint --layers DIR``.

Makes the sample layers if they are missing, uploads them, and notifies systemd (``Type=notify``). The server keeps them in
memory, so that every start uploads them again.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from reconciler.telemetry.systemd import notify
from samples import layers
from samples.quickstart import BUCKET, PORT, REGISTRY_PORT, oci_images, require_free
from samples.registry import SampleRegistry
from samples.s3 import S3Server, upload

ENDS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m samples.endpoint", description="the sample layers on a local S3 endpoint")
    parser.add_argument("--layers", type=Path, required=True, help="directory of the layers")
    parser.add_argument("--port", type=int, default=PORT, help="0: a free one")
    chosen = parser.parse_args(argv)
    registry_port = REGISTRY_PORT if chosen.port == PORT else 0
    require_free(chosen.port, registry_port)
    stop = threading.Event()
    for number in ENDS:  # a handler, not a mask: the server's process would inherit a mask, and ignore its end
        signal.signal(number, lambda *_: stop.set())
    made = layers.make(chosen.layers)
    with S3Server(chosen.port) as server, SampleRegistry(oci_images(made), registry_port) as registry:
        upload(server.endpoint, made, BUCKET)
        print(f"{server.endpoint}, bucket {BUCKET}: {', '.join(sorted(made))}", flush=True)
        print(f"registry {registry.host}: quickstart/slim:1", flush=True)
        notify({"READY": "1"})
        stop.wait()


if __name__ == "__main__":
    main()

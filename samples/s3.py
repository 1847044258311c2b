"""A local S3 endpoint: moto's server in a process of its own, on loopback, that records its requests.

    with S3Server() as server:
        upload(server.endpoint, {"base.tar": path}, "images")
        ...
        assert len(server.gets("images/base.tar")) == 1

Or by hand: ``python -m samples.s3 --port 9460``. Used by the quickstart, tests and benchmarks. State: in the server's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
LOG = "/_requests"
"""The path of the recorded requests; no bucket can have this name."""

ACCESS_KEY = SECRET_KEY = "sample"
"""moto checks none."""

CHUNK = 1 << 20

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Request:
    """One request; ``path`` is /bucket/key, ``range`` the header, empty if there was none, ``at`` seconds since the epoch."""

    method: str
    path: str
    range: str
    status: int
    at: float = field(default=0.0, compare=False)


class S3Server:
    """The server as a context manager. ``port`` 0 takes a free one; ``endpoint`` is its URL, set on entry."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = ""

    def __enter__(self) -> S3Server:
        command = [sys.executable, "-m", "samples.s3", "--port", str(self._port), "--while-stdin"]
        root = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        # The server prints its address once it listens.
        self.endpoint = self._process.stdout.readline().decode().strip()
        if not self.endpoint:
            self.__exit__()
            raise RuntimeError(f"the sample S3 server did not start; is port {self._port} taken?")
        return self

    def __exit__(self, *exc: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.communicate()

    def requests(self) -> list[Request]:
        """All requests so far, in order of completion."""
        with urllib.request.urlopen(self.endpoint + LOG) as answer:
            return [Request(**fields) for fields in json.load(answer)]

    def gets(self, path: str) -> list[Request]:
        """The GETs of one ``bucket/key``."""
        return [request for request in self.requests() if request.method == "GET" and request.path == f"/{path}"]

    def forget(self) -> None:
        """Clears the record of requests."""
        request = urllib.request.Request(self.endpoint + LOG, method="DELETE")
        urllib.request.urlopen(request).close()


def connect(endpoint: str) -> Any:
    """A boto3 client with all rights."""
    import boto3.session
    from botocore.config import Config

    config = Config(s3={"addressing_style": "path"})
    session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
    return session.client("s3", endpoint_url=endpoint, config=config)


def upload(endpoint: str, files: Mapping[str, Path], bucket: str, *, public: bool = True) -> None:
    """Uploads files under their keys into a bucket, which it creates; ``public`` allows anonymous readers."""
    client = connect(endpoint)
    client.create_bucket(Bucket=bucket)
    for key, path in files.items():
        client.upload_file(str(path), bucket, key, ExtraArgs={"ACL": "public-read" if public else "private"})
    client.close()


# ------------------------------------------------------------------------------------------------ in the server


class Recorder:
    """WSGI: passes requests on and records them."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._seen: list[Request] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == LOG:
            return self._answer(environ["REQUEST_METHOD"], start_response)

        def noting(status: str, *rest: Any) -> Any:
            asked = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE", "")
            self._seen.append(Request(*asked, int(status.split()[0]), time.time()))
            return start_response(status, *rest)

        return self._app(environ, noting)

    def _answer(self, method: str, start_response: Callable[..., Any]) -> list[bytes]:
        body = json.dumps([asdict(request) for request in self._seen]).encode()
        if method == "DELETE":
            self._seen.clear()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


class Ranges:
    """WSGI: a ranged GET becomes a HEAD for moto; the bytes are streamed, as moto copies the object for each range."""

    def __init__(self, app: App, buffer: Callable[[str, str], Any]) -> None:
        self._app = app
        self._buffer = buffer

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or "HTTP_RANGE" not in environ:
            return self._app(environ, start_response)
        answer: list[Any] = []
        list(self._app({**environ, "REQUEST_METHOD": "HEAD"}, lambda *parts: answer.extend(parts)))
        headers = {name.lower(): value for name, value in answer[1]}
        if not answer[0].startswith("206"):
            return self._app(environ, start_response)
        span = headers["content-range"].removeprefix("bytes ").partition("/")[0]
        first, _, last = span.partition("-")
        start_response(*answer)
        bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
        return _slice(self._buffer(bucket, key), int(first), int(last) + 1)


_rolling_over = threading.Lock()
"""``SpooledTemporaryFile.fileno`` moves the bytes to disk, which two threads must not do at once."""


def _slice(buffer: Any, start: int, stop: int) -> Iterator[bytes]:
    with _rolling_over:
        descriptor = buffer.fileno()
    while start < stop and (piece := os.pread(descriptor, min(CHUNK, stop - start), start)):
        yield piece
        start += len(piece)


def serve(port: int) -> Any:
    """moto's S3 as a werkzeug server that already listens."""
    from moto.core import DEFAULT_ACCOUNT_ID  # type: ignore[attr-defined]
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *args: Any) -> None:
            """Requests are recorded, not printed."""

    def buffer(bucket: str, key: str) -> Any:
        found = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].get_object(bucket, key)
        assert found is not None, "the HEAD before found it"
        return found._value_buffer

    moto = DomainDispatcherApplication(create_backend_app)
    return make_server(HOST, port, Recorder(Ranges(moto, buffer)), threaded=True, request_handler=Quiet)


def end_with_stdin() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m samples.s3", description="a local S3 endpoint for trials and tests")
    parser.add_argument("--port", type=int, default=9460, help="0: a free one")
    parser.add_argument(
        "--while-stdin", action="store_true", help="end at the end of standard input, for example when the parent is killed"
    )
    chosen = parser.parse_args(argv)
    server = serve(chosen.port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if chosen.while_stdin:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    print(f"http://{HOST}:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A read-only OCI registry on loopback, for ``make run`` alone: images of the sample layers, without TLS or credentials.

    with SampleRegistry({"slim": [Path("base.tar"), Path("slim.tar.gz")]}, port=9461) as registry:
        ...  # oci://127.0.0.1:9461/quickstart/slim:1

It serves what a pull needs: manifests by tag and digest, blobs by range. Tests use docker-registry. State: none.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import platform
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import zstandard

HOST = "127.0.0.1"
REPOSITORY, TAG = "quickstart", "1"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
COMPRESSION = {".gz": "+gzip", ".zst": "+zstd"}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
CHUNK = 1 << 20


class SampleRegistry:
    """A context manager. ``images`` has the layers of each, from the bottom; ``port`` 0 takes a free one."""

    def __init__(self, images: Mapping[str, Sequence[Path]], port: int = 0) -> None:
        self._content = dict(_content(images))
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry._answer(self)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None:
                """Nothing is printed between the lines of ``make run``."""

        self._server = ThreadingHTTPServer((HOST, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.host = f"{HOST}:{self._server.server_port}"

    def __enter__(self) -> SampleRegistry:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        found = self._content.get(handler.path)
        if found is None:
            _send(handler, 404, {}, b'{"errors": [{"code": "NAME_UNKNOWN", "message": "not here"}]}')
            return
        media_type, content, digest = found
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest}
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        start, stop = (int(span[1]), min(int(span[2]) + 1, size)) if span else (0, size)
        if span and start >= stop:
            _send(handler, 416, {"Content-Range": f"bytes */{size}"}, b"")
            return
        if span:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        _send(handler, 206 if span else 200, headers, content, start, stop)


def _send(
    handler: BaseHTTPRequestHandler,
    status: int,
    headers: Mapping[str, str],
    content: bytes | Path,
    start: int = 0,
    stop: int | None = None,
) -> None:
    length = (len(content) if isinstance(content, bytes) else content.stat().st_size) if stop is None else stop - start
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(length)}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return
    try:
        if isinstance(content, bytes):
            handler.wfile.write(content[start : start + length])
            return
        with content.open("rb") as file:
            file.seek(start)
            while length and (piece := file.read(min(CHUNK, length))):
                handler.wfile.write(piece)
                length -= len(piece)
    except ConnectionError:
        handler.close_connection = True


# --------------------------------------------------------------------------------------------------------- content


def _content(images: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, tuple[str, bytes | Path, str]]]:
    """What each path of the registry has: media type, content, digest."""
    described: dict[Path, tuple[dict[str, Any], str]] = {}
    for name, layers in images.items():
        base = f"/v2/{REPOSITORY}/{name}"
        for layer in layers:
            described[layer] = described.get(layer) or _described(layer)
            descriptor, _ = described[layer]
            yield f"{base}/blobs/{descriptor['digest']}", ("application/octet-stream", layer, descriptor["digest"])
        config = _json(
            {
                "os": "linux",
                "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
                "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"]},
                "rootfs": {"type": "layers", "diff_ids": [described[layer][1] for layer in layers]},
            }
        )
        about = {"mediaType": CONFIG, "digest": _digest(config), "size": len(config)}
        manifest = _json(
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": about, "layers": [described[layer][0] for layer in layers]}
        )
        yield f"{base}/blobs/{_digest(config)}", ("application/octet-stream", config, _digest(config))
        for tag in (TAG, _digest(manifest)):
            yield f"{base}/manifests/{tag}", (MANIFEST, manifest, _digest(manifest))


def _described(layer: Path) -> tuple[dict[str, Any], str]:
    """The descriptor of a layer, and the sum of its decompressed tar."""
    with layer.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    with layer.open("rb") as file:
        plain: Any = file
        if layer.suffix == ".gz":
            plain = gzip.GzipFile(fileobj=file)
        elif layer.suffix == ".zst":
            plain = zstandard.ZstdDecompressor().stream_reader(file)
        found = hashlib.sha256()
        while piece := plain.read(CHUNK):
            found.update(piece)
    media_type = LAYER + COMPRESSION.get(layer.suffix, "")
    return {"mediaType": media_type, "digest": digest, "size": layer.stat().st_size}, f"sha256:{found.hexdigest()}"


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

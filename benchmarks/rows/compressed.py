"""``reconcile build`` of compressed layers, beside GNU tar and bsdtar, and beside decompressing alone.

As a layer without anything else, and as that of an OCI image, whose configuration has the digest of the decompressed bytes too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import inputs
from benchmarks.contest import OURS, Contest, Place, Row, Target, Work
from benchmarks.contestants import PYTHON, UNPACKERS, available, ours, to_file, to_nothing, unpacked

OCI = "application/vnd.oci.image"
AS_OCI, ALONE = "reconcile, OCI image", "decompressing alone"


def image_of(layer: Path, plain: Path, layout: Path) -> str:
    """An OCI image of one gzip layer; its reference."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: Mapping[str, Any]) -> dict[str, Any]:
        text = json.dumps(data).encode()
        digest = hashlib.sha256(text).hexdigest()
        (blobs / digest).write_bytes(text)
        return {"digest": f"sha256:{digest}", "size": len(text)}

    digest = sha256(layer)
    shutil.copyfile(layer, blobs / digest)  # a link would lead out of the layout
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{sha256(plain)}"]}
    config = {
        "mediaType": f"{OCI}.config.v1+json",
        **blob({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs}),
    }
    described = {"mediaType": f"{OCI}.layer.v1.tar+gzip", "digest": f"sha256:{digest}", "size": layer.stat().st_size}
    manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config, "layers": [described]}
    entry = {"mediaType": f"{OCI}.manifest.v1+json", **blob(manifest)}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return f"oci-layout:{layout}"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def layer_of(compression: str, quick: bool) -> Path:
    return inputs.get("quick" if quick else "debian", compression)


@contextmanager
def contest(compression: str, place: Place) -> Iterator[Contest]:
    plain, layer = layer_of("plain", place.quick), layer_of(compression, place.quick)
    works: dict[str, Callable[[], Work]] = {OURS: lambda: to_file(ours(layer), place.directory)}
    if compression == "gzip":
        works[AS_OCI] = lambda: to_file(ours(image_of(layer, plain, place.directory / "layout")), place.directory)
    works |= {name: partial(unpacked, command, layer, place.directory) for name, command in UNPACKERS.items()}
    works[ALONE] = lambda: to_nothing(PYTHON, "-m", "benchmarks.inflate", layer)
    able, missing = available(works, root=[*UNPACKERS])
    yield Contest(able, [layer], {"bytes": layer.stat().st_size, "entries": inputs.entries(plain)}, missing)


ROWS = (
    Row(
        "gzip",
        "`build` of the Debian, gzip, to a file",
        partial(contest, "gzip"),
        partial(layer_of, "gzip"),
        (
            Target(0.3, ("GNU tar",), was=0.35),
            Target(1.3, (ALONE,), was=2.16),
            Target(0.3, ("GNU tar",), ours=AS_OCI),
        ),
        warm_up=False,
    ),
    Row(
        "zstd",
        "`build` of the Debian, zstd, to a file",
        partial(contest, "zstd"),
        partial(layer_of, "zstd"),
        (Target(1.3, (ALONE,), was=2.7),),
        warm_up=False,
    ),
)

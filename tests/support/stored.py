"""Images as other tools store them: umoci makes a layout of layers, skopeo archives of that, umoci unpacks it for comparison.

The newer shape of ``docker save`` and an archive whose members come in any order are made of a layout by hand.
"""

from __future__ import annotations

import io
import json
import posixpath
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.support import compare
from tests.support.oci import needs


def run(*command: str | Path) -> str:
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def umoci_layout(directory: Path, name: str, layers: Sequence[bytes]) -> Path:
    """A layout with one image of these tars. An existing layout gets a further image."""
    needs("umoci")
    if not directory.exists():
        run("umoci", "init", "--layout", directory)
    run("umoci", "new", "--image", f"{directory}:{name}")
    for number, layer in enumerate(layers):
        path = directory.parent / f"{name}.{number}.tar"
        path.write_bytes(layer)
        run("umoci", "raw", "add-layer", "--image", f"{directory}:{name}", path)
    run("umoci", "config", "--image", f"{directory}:{name}", "--config.env", "A=b", "--config.entrypoint", "/init")
    return directory


def umoci_tree(layout: Path, name: str, bundle: Path) -> compare.Tree:
    """What ``umoci unpack`` makes of an image."""
    run("umoci", "unpack", "--image", f"{layout}:{name}", bundle)
    return compare.of_directory(bundle / "rootfs")


def skopeo(source: str, target: str, *more: str) -> None:
    needs("skopeo")
    run("skopeo", "copy", "--quiet", "--insecure-policy", *more, source, target)


def pack(directory: Path, archive: Path, order: Callable[[Iterable[str]], Iterable[str]] = sorted, **more: bytes) -> Path:
    """A tar of a directory's files in some order, and of ``more`` with ``__`` for a dot."""
    files = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    files |= {name.replace("__", "."): data for name, data in more.items()}
    with tarfile.open(archive, "w") as out:
        for name in order(files):
            info = tarfile.TarInfo(name)
            info.size = len(files[name])
            out.addfile(info, io.BytesIO(files[name]))
    return archive


def docker_layout(layout: Path, archive: Path, name: str, tag: str) -> Path:
    """What ``docker save`` writes since version 25: a layout with ``manifest.json`` beside it."""
    index = json.loads((layout / "index.json").read_text())
    entry = next(one for one in index["manifests"] if one["annotations"]["org.opencontainers.image.ref.name"] == name)
    entry["annotations"] |= {
        "io.containerd.image.name": f"docker.io/library/{tag}",
        "org.opencontainers.image.ref.name": tag.partition(":")[2],
    }
    manifest = json.loads(blob(layout, entry["digest"]))
    listed = [{"Config": path(manifest["config"]), "RepoTags": [tag], "Layers": [path(one) for one in manifest["layers"]]}]
    copy = archive.parent / f"{archive.name}.layout"
    shutil.copytree(layout, copy)
    (copy / "index.json").write_text(json.dumps(index | {"manifests": [entry]}))
    return pack(copy, archive, manifest__json=json.dumps(listed).encode())


def old_docker(layers: Sequence[bytes], config: bytes, archive: Path, tag: str, links: dict[int, int] | None = None) -> Path:
    """What ``docker save`` wrote before: ``ID/layer.tar`` for each layer, some of them symlinks to others."""
    listed = [{"Config": "c.json", "RepoTags": [tag], "Layers": [f"{n:064x}/layer.tar" for n in range(len(layers))]}]
    with tarfile.open(archive, "w") as out:
        for number, layer in enumerate(layers):
            info = tarfile.TarInfo(f"{number:064x}/layer.tar")
            if links and number in links:
                info.type, info.linkname = tarfile.SYMTYPE, posixpath.join("..", f"{links[number]:064x}", "layer.tar")
                out.addfile(info)
            else:
                info.size = len(layer)
                out.addfile(info, io.BytesIO(layer))
        for name, data in (("c.json", config), ("manifest.json", json.dumps(listed).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return archive


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()


def path(descriptor: dict[str, Any]) -> str:
    return f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"

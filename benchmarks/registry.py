"""From a registry to a ready snapshot, beside ``skopeo copy``, ``umoci unpack`` and ``mke2fs -d``, and beside S3.

    python -m benchmarks.registry [ROOT.tar] [--rounds N] [--directory DIR]

ROOT.tar, by default a Debian with tools that mmdebstrap makes (without it, /usr of this system), is cut into five layers of
equal size, stored as gzip, and pushed to docker-registry on loopback. Each round builds from nothing, ours and theirs by turns;
the ratio is the median over the rounds. The same layers as files show what memory a pull takes. Needs docker-registry, skopeo,
umoci and root.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import measure
from samples.s3 import S3Server, upload

LAYERS, SIZE = 5, "4GiB"
RECONCILE = Path(sys.executable).with_name("reconcile")
OCI = "application/vnd.oci.image"
TOOLS = "build-essential,python3,git,curl,vim-tiny,openssh-server,golang-go,nodejs"


def debian(directory: Path) -> Path:
    """A root file system of about 1 GB, as a tar."""
    path = directory / "root.tar"
    if shutil.which("mmdebstrap"):
        run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={TOOLS}", "bookworm", path)
    else:
        run("tar", "--create", "--one-file-system", "--file", path, "--directory", "/", "usr")
    return path


def cut(root: Path, directory: Path) -> list[Path]:
    """The tar in five layers, each with a fifth of the bytes, stored as gzip."""
    paths = [directory / f"{number}.tar" for number in range(LAYERS)]
    limit = root.stat().st_size / LAYERS
    layers = [tarfile.open(path, "w", format=tarfile.PAX_FORMAT) for path in paths]  # noqa: SIM115 - closed below
    with tarfile.open(root) as whole:
        for member in whole:
            if not member.name.removeprefix("./").startswith("dev/"):
                at = min(int(whole.offset / limit), LAYERS - 1)
                layers[0 if member.islnk() or member.isdir() else at].addfile(
                    member, whole.extractfile(member) if member.isreg() else None
                )
    for layer in layers:
        layer.close()
    return paths


def stored(paths: Sequence[Path], layout: Path) -> tuple[list[Path], list[dict[str, Any]]]:
    """The layers as gzip in an OCI layout; their paths and descriptors."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    found: list[Path] = []
    descriptors, diff_ids = [], []

    def blob(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    for path in paths:
        data = path.read_bytes()
        diff_ids.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
        descriptors.append({"mediaType": f"{OCI}.layer.v1.tar+gzip", **blob(gzip.compress(data, 6, mtime=0))})
        found.append(blobs / descriptors[-1]["digest"].removeprefix("sha256:"))
        path.unlink()
    about = {"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config = {"mediaType": f"{OCI}.config.v1+json", **blob(json.dumps(about).encode())}
    manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config, "layers": descriptors}
    named = {"annotations": {"org.opencontainers.image.ref.name": "root"}}
    entry = {"mediaType": f"{OCI}.manifest.v1+json", **blob(json.dumps(manifest).encode()), **named}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return found, descriptors


@contextmanager
def registry(directory: Path) -> Iterator[str]:
    """Debian's docker-registry; its host and port."""
    config, log = directory / "registry.json", directory / "registry.log"
    storage = {"filesystem": {"rootdirectory": str(directory / "registry")}}
    config.write_text(json.dumps({"version": "0.1", "storage": storage, "http": {"addr": "127.0.0.1:0", "secret": "x"}}))
    with log.open("wb") as out:
        running = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=out, stderr=out)
    try:
        while not (found := re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())):
            time.sleep(0.05)
        yield found[1]
    finally:
        running.kill()
        running.wait()


class Contest:
    """What is measured, each in a directory that is empty at its start. ``peaks``: bytes of memory by source and process."""

    def __init__(self, directory: Path, host: str, s3: str, layers: Sequence[dict[str, Any]]) -> None:
        self._directory, self._host = directory, host
        self._place = directory / "round"
        file = directory / "host.yaml"
        file.write_text(
            f'policy:\n  fileSources: ["{directory}"]\n  endpoints: {{allow: ["127.0.0.1"]}}\n'
            f'  registries: {{allow: ["{host}"], plainHttp: ["{host}"]}}\n  confinement: best-effort\n'
        )
        file.chmod(0o600)
        listed = [{"source": f"s3://layers/{n}.tar.gz", "sha256": one["digest"][7:]} for n, one in enumerate(layers)]
        self._declare("registry", {"source": f"oci://{host}/debian:1@{self.digest}"})
        files = [
            {"source": str(directory / "layout/blobs/sha256" / one["digest"][7:]), "sha256": one["digest"][7:]} for one in layers
        ]
        self._declare("files", {"layers": files})
        self.peaks: dict[str, dict[str, int]] = {}
        self._declare("s3", {"layers": listed, "s3": {"endpointUrl": s3, "region": "us-east-1", "anonymous": True}})

    @property
    def digest(self) -> str:
        entry = json.loads((self._directory / "layout/index.json").read_text())["manifests"][0]
        return str(entry["digest"])

    def _declare(self, name: str, spec: dict[str, Any]) -> None:
        manifests = self._directory / f"manifests-{name}"
        manifests.mkdir()
        body = {"size": SIZE, "snapshots": [{"name": "a"}], **spec}
        document = {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": {"name": "root"}, "spec": body}
        (manifests / "image.yaml").write_text(json.dumps(document))

    def ours(self, source: str) -> None:
        command: list[str | Path] = [RECONCILE, "--once", "-o", "json", "-f", self._directory / f"manifests-{source}"]
        command += ["--state", self._place / "state", "--host-file", self._directory / "host.yaml"]
        peaks, seen = measure.run([str(word) for word in command]).peaks, self.peaks.setdefault(source, {})
        seen |= {name: max(bytes_, seen.get(name, 0)) for name, bytes_ in peaks.items()}

    def theirs(self) -> None:
        layout, bundle, image = (self._place / name for name in ("layout", "bundle", "root.ext4"))
        copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", "--insecure-policy"]
        run(*copy, f"docker://{self._host}/debian:1", f"oci:{layout}:x")
        run("umoci", "unpack", "--image", f"{layout}:x", bundle)
        run("mke2fs", "-q", "-t", "ext4", "-d", bundle / "rootfs", image, SIZE.removesuffix("iB"))

    def seconds(self, work: Callable[[], None]) -> float:
        """Of a piece of work, and of writing its results to the disk."""
        self._place.mkdir()
        began = time.perf_counter()
        work()
        subprocess.run(["sync", "-f", self._place], check=True)
        took = time.perf_counter() - began
        shutil.rmtree(self._place)
        return took


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="ROOT.tar", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where everything is made; a temporary directory by default")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.directory) as name:
        directory = Path(name)
        layers, descriptors = stored(cut(chosen.root or debian(directory), directory), directory / "layout")
        with registry(directory) as host, S3Server() as s3:
            push = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--insecure-policy"]
            run(*push, f"oci:{directory / 'layout'}:root", f"docker://{host}/debian:1")
            upload(s3.endpoint, {f"{number}.tar.gz": path for number, path in enumerate(layers)}, "layers")
            contest = Contest(directory, host, s3.endpoint, descriptors)
            works = {source: partial(contest.ours, source) for source in ("registry", "s3", "files")} | {"peers": contest.theirs}
            rounds = [{name: contest.seconds(work) for name, work in works.items()} for _ in range(chosen.rounds)]
    show(rounds)
    for source, peaks in contest.peaks.items():
        print(f"memory, {source}: " + ", ".join(f"{name} {peak / measure.MIB:.0f} MiB" for name, peak in sorted(peaks.items())))


def show(rounds: Sequence[dict[str, float]]) -> None:
    for name in rounds[0]:
        print(f"{name:10}{statistics.median(one[name] for one in rounds):6.1f} s  {[round(one[name], 1) for one in rounds]}")
    for other in ("peers", "s3"):
        ratios = [one["registry"] / one[other] for one in rounds]
        print(f"registry by {other}: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()

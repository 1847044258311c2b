"""A service's API over a real host: a file pool with an image of three snapshots, a registry, and a socket."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reconciler.api import server
from reconciler.controller import assess, once
from reconciler.controller.assess import Assessment, Wish
from reconciler.host import context
from reconciler.host.context import Host
from reconciler.output import console
from reconciler.settings import Settings
from tests.support import oci

MANIFEST = """
apiVersion: reconciler/v1alpha1
kind: Pool
metadata: {name: default}
spec: {file: {}, reserve: {dataPercent: 0}}
---
apiVersion: reconciler/v1alpha1
kind: Image
metadata: {name: web}
spec:
  size: 16MiB
  layers: [{source: layer.tar}]
  snapshots: [{name: job, count: 3, max: 8, ttl: 2h}]
"""


@dataclass
class Service:
    """What the API needs of a service: the host, and its last assessment."""

    host: Host
    last: Assessment | None
    settings: Settings
    counted: list[tuple[str, str]] = field(default_factory=list)
    """Image and result of each answer to a request for a claim."""

    @property
    def socket(self) -> Path:
        return self.settings.api

    def claimed(self, image: str, result: str, seconds: float) -> None:
        assert seconds >= 0
        self.counted.append((image, result))

    def converge(self) -> None:
        once.converge(self.host, Wish(), console.progress("none"), stop=threading.Event())
        self.last = assess.assess(self.host, Wish())


def write_layer(path: Path) -> None:
    with tarfile.open(path, "w") as layer:
        member = tarfile.TarInfo("etc/hostname")
        member.size = 5
        layer.addfile(member, io.BytesIO(b"base\n"))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path, MANIFEST) as service:
        yield service


@contextmanager
def serving(tmp_path: Path, manifest: str) -> Iterator[Service]:
    """A service whose manifest may name a file ``layer.tar`` and a layout ``layout`` with an image ``x``."""
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    write_layer(manifests / "layer.tar")
    config = {"Cmd": ["/init"], "Env": ["A=1"]}
    oci.layout(manifests / "layout", "x", oci.image([(manifests / "layer.tar").read_bytes()], run=config))
    (manifests / "web.yaml").write_text(manifest)
    settings = Settings(manifests, tmp_path / "state", host_file=tmp_path / "none.yaml")
    with ExitStack() as stack:
        host = stack.enter_context(context.writing(settings, stop=threading.Event()))
        service = Service(host, None, settings)
        service.converge()
        stack.enter_context(server.serving(settings, service))
        yield service

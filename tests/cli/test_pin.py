"""``reconcile pin`` through the command."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.cli.main import main
from reconciler.errors import Exit
from tests.support.origin import Origin

Pin = Callable[..., tuple[int, str]]

IMAGE = """apiVersion: reconciler/v1alpha1
kind: Image
metadata: {{name: {name}}}
spec:
  s3: {{endpointUrl: "{endpoint}", anonymous: true, region: us-east-1}}
  layers:
    - source: {source}   # tracked
"""


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    (tmp_path / "manifests").mkdir()
    return tmp_path / "manifests"


@pytest.fixture
def pin(manifests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Pin:
    """Run the command; its exit code and standard output."""

    def call(*words: str) -> tuple[int, str]:
        code = main(["pin", *words, "-f", str(manifests), "--state", str(tmp_path / "state")])
        return code, capsys.readouterr().out

    return call


def write(manifests: Path, name: str, source: str, endpoint: str = "http://127.0.0.1:9") -> Path:
    path = manifests / f"{name}.yaml"
    path.write_text(IMAGE.format(name=name, source=source, endpoint=endpoint))
    return path


def test_layers_of_s3_and_files_are_pinned(manifests: Path, pin: Pin) -> None:
    data = b"layer" * 700_000
    digest = hashlib.sha256(data).hexdigest()
    (manifests / "one.tar").write_bytes(data)
    with Origin() as origin:
        origin.put(data, "images/one.tar")
        files = [write(manifests, "a", "s3://images/one.tar", origin.endpoint), write(manifests, "b", "one.tar")]
        before = [path.read_text() for path in files]

        assert pin("--check")[0] == Exit.OK
        assert pin("--check", "--detailed-exitcode")[0] == Exit.CHANGED
        assert [path.read_text() for path in files] == before
        code, out = pin()

    assert code == Exit.OK
    assert out.count(f"sha256:{digest}") == 2
    for path, text in zip(files, before, strict=True):
        assert path.read_text() == f"{text}      sha256: {digest}\n"
    assert pin("--detailed-exitcode")[0] == Exit.OK


def test_a_source_that_fails_leaves_the_others_to_be_pinned(manifests: Path, pin: Pin) -> None:
    (manifests / "one.tar").write_bytes(b"x")
    good, bad = write(manifests, "a", "one.tar"), write(manifests, "b", "absent.tar")
    before = bad.read_text()

    code, out = pin()

    assert code == Exit.FAILED
    assert "not pinned: SourceNotFound" in out
    assert "sha256:" in good.read_text() and bad.read_text() == before


def test_invalid_manifests_are_not_touched(manifests: Path, pin: Pin) -> None:
    (manifests / "one.tar").write_bytes(b"x")
    good = write(manifests, "a", "one.tar")
    before = good.read_text()
    (manifests / "bad.yaml").write_text("kind: Image\n")

    assert pin()[0] == Exit.INVALID
    assert good.read_text() == before

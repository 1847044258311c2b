"""Digests spliced into manifests: nothing else changes, in whatever style a file is written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from reconciler.errors import HostCannot, UsageError
from reconciler.manifests import pin
from reconciler.manifests.files import ManifestFile, read_paths

A, B = "a" * 64, "b" * 64
HEAD = "apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {name: web}\n"
REFERENCE = "oci://registry.example/team/web:1.4"


def read(path: Path) -> ManifestFile:
    [file] = read_paths([path])
    assert isinstance(file, ManifestFile), file
    return file


def spliced(path: Path, text: str, *digests: str) -> str:
    path.write_bytes(text.encode())
    file = read(path)
    found = list(pin.unpinned(file))
    assert len(found) == len(digests)
    return pin.pinned(file, [pin.Pin(one, digest) for one, digest in zip(found, digests, strict=True)])


STYLES = {
    "block": ("spec:\n  source: {}\n  size: 8GiB\n", REFERENCE),
    "flow": ("spec: {{source: {}, size: 8GiB}}\n", f'"{REFERENCE}"'),
    "flow, last": ("spec: {{size: 8GiB, source: {}}}\n", f"'{REFERENCE}'"),
    "single quotes and a comment": ("spec:\n  source: {}   # the tag\n", f"'{REFERENCE}'"),
    "double quotes": ("spec:\n  source: {}\n", f'"{REFERENCE}"'),
    "no line end": ("spec:\n  source: {}", REFERENCE),
    "value on the next line": ("spec:\n  source:\n    {}\n  size: 8GiB\n", REFERENCE),
    "letters before it": ("spec: {{platform: linux/amd64, source: {}}} # ü€\n", REFERENCE),
}


@pytest.mark.parametrize("style", STYLES)
def test_a_reference_gets_its_digest(style: str, tmp_path: Path) -> None:
    body, source = STYLES[style]
    text = f"# Bücher, {{und}} mehr: 'x'\n{HEAD}{body.format(source)}"
    wanted = text.replace(REFERENCE, f"{REFERENCE}@sha256:{A}")

    assert spliced(tmp_path / "web.yaml", text, A) == wanted


LAYERS = {
    "block": (
        "spec:\n  layers:\n    - source: a.tar  # first\n    - source: s3://bucket/k\n",
        f"spec:\n  layers:\n    - source: a.tar  # first\n      sha256: {A}\n    - source: s3://bucket/k\n      sha256: {B}\n",
    ),
    "block, wide": (
        "spec:\n  layers:\n  -   source: a.tar\n  -\n    source: s3://bucket/k",
        f"spec:\n  layers:\n  -   source: a.tar\n      sha256: {A}\n  -\n    source: s3://bucket/k\n    sha256: {B}",
    ),
    "flow": (
        'spec:\n  layers:\n    - {source: a.tar}\n    - { "source": "s3://bucket/k" , }\n',
        f'spec:\n  layers:\n    - {{source: a.tar, sha256: {A}}}\n    - {{ "source": "s3://bucket/k", sha256: {B} , }}\n',
    ),
    "flow in one line": (
        "spec: {layers: [{source: a.tar}, {source: 's3://bucket/k'}]}\n",
        f"spec: {{layers: [{{source: a.tar, sha256: {A}}}, {{source: 's3://bucket/k', sha256: {B}}}]}}\n",
    ),
}


@pytest.mark.parametrize("style", LAYERS)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_layers_get_their_digests(style: str, ending: str, tmp_path: Path) -> None:
    before, after = LAYERS[style]
    before, after = ((HEAD + text).replace("\n", ending) for text in (before, after))

    assert spliced(tmp_path / "web.yaml", before, A, B) == after


def test_what_is_pinned_stays_and_so_do_other_documents(tmp_path: Path) -> None:
    other = "apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: default}\nspec: {file: {}}\n"
    foreign = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {source: a}\n"
    pinned = f"spec:\n  layers:\n    - {{source: a.tar, sha256: {A}}}\n    - {{source: b.tar}}\n"
    tail = f"spec: {{source: '{REFERENCE}@sha256:{A}'}}\n"
    text = f"---\n{other}---\n{foreign}---\n{HEAD}{pinned}---\n{HEAD.replace('web', 'two')}{tail}"

    assert spliced(tmp_path / "web.yaml", text, B) == text.replace("{source: b.tar}", f"{{source: b.tar, sha256: {B}}}")


@pytest.mark.parametrize(
    "body",
    [
        'spec:\n  source: "oci://registry.example/\\\n    team/web:1.4"\n',
        f"spec:\n  source: >-\n    {REFERENCE}\n",
        "spec:\n  layers:\n    - source: |-\n        a.tar\n",
    ],
)
def test_a_value_of_several_lines_is_refused_or_right(body: str, tmp_path: Path) -> None:
    """And never anything in between: the result is parsed again."""
    path = tmp_path / "web.yaml"
    try:
        text = spliced(path, HEAD + body, A)
    except UsageError as refused:
        assert "web.yaml:" in refused.message and A in refused.hint
        return
    path.write_text(text)
    assert not list(pin.unpinned(read(path)))


def test_a_file_keeps_its_mode_its_byte_order_mark_and_its_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path, link = tmp_path / "real/web.yaml", tmp_path / "link.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (HEAD + f"spec: {{source: '{REFERENCE}'}}\n").encode())
    path.chmod(0o640)
    link.symlink_to("real/web.yaml")
    file = read(link)

    pin.write(file, pin.pinned(file, [pin.Pin(one, A) for one in pin.unpinned(file)]))

    assert link.is_symlink()
    assert path.read_bytes() == b"\xef\xbb\xbf" + (HEAD + f"spec: {{source: '{REFERENCE}@sha256:{A}'}}\n").encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path / "real") == ["web.yaml"]


def test_a_file_that_has_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(HEAD + f"spec: {{source: '{REFERENCE}'}}\n")
    file = read(path)
    path.write_text("# mine\n")

    with pytest.raises(HostCannot, match="has changed"):
        pin.write(file, "other")
    assert path.read_text() == "# mine\n"

"""Contents of files that snapshots get: what is read, what is refused, and what the digest covers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import PolicyRefused, Retryable, SourceForbidden, SourceNotFound
from reconciler.host.customizing import Customizing, content, examine
from reconciler.image.builder.editor import Editor
from reconciler.image.custom import UNKNOWN, CustomSpec, FileSpec, Names, digest_of, has_seed, sum_of
from reconciler.model import Desired, ImageSpec
from reconciler.policy import force
from reconciler.policy.rules import Policy
from reconciler.pool import driver

NAMES = Names("web-3", 3, "web", "host-a")
SPEC = CustomSpec(1 << 30, True, (FileSpec("/etc/hostname", "{snapshot}\n"), FileSpec("/key", source="/k", mode=0o600)), 3)


def test_placeholders_become_names_and_other_braces_stay() -> None:
    assert NAMES.fill("{snapshot} {index} {image} {host} {} {other} {{snapshot}}") == "web-3 3 web host-a {} {other} {web-3}"


def test_the_digest_covers_everything_that_a_snapshot_gets() -> None:
    sums = {"/k": digest_of(b"key")}
    same = SPEC.digest(NAMES, sums)
    others = [
        replace(SPEC, size=2 << 30).digest(NAMES, sums),
        replace(SPEC, unique_ids=False).digest(NAMES, sums),
        replace(SPEC, files=SPEC.files[:1]).digest(NAMES, sums),
        replace(SPEC, files=(SPEC.files[0], replace(SPEC.files[1], uid=1))).digest(NAMES, sums),
        SPEC.digest(replace(NAMES, snapshot="web-4"), sums),
        SPEC.digest(NAMES, {"/k": digest_of(b"other")}),
    ]
    assert len({same, *others}) == 7
    assert SPEC.digest(replace(NAMES, host="host-b"), sums) == same, "no content names the host"
    assert SPEC.digest(NAMES, {}) == UNKNOWN


@pytest.mark.parametrize("kind", ["missing", "symlink", "directory", "fifo"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key"
    if kind == "symlink":
        (tmp_path / "real").write_bytes(b"x")
        path.symlink_to("real")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(SourceNotFound, match="key"):
        content(str(path))
    assert examine(str(path))[0] == "" and "key" in examine(str(path))[1]


def test_a_file_has_at_most_one_mib(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"x" * (1 << 20))
    assert len(content(str(path))) == 1 << 20
    path.write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(SourceForbidden, match="more than 1048576 bytes"):
        content(str(path))


def test_the_policy_of_the_host_limits_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(b"x")
    monkeypatch.setattr(force, "_in_force", Policy(limits_files=True, file_sources=("/elsewhere",)))
    with pytest.raises(PolicyRefused):
        content(str(tmp_path / "key"))


def test_a_file_that_has_changed_since_the_plan_is_not_written(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"planned")
    spec = CustomSpec(files=(FileSpec("/key", source=str(key)),))
    image = ImageSpec("web", "default", 1 << 30, (), ("web",), custom={"web": spec})
    wish = {
        "image": "web",
        "name": "web",
        "size": 0,
        "custom": spec.digest(Names("web", 0, "web", "h"), {str(key): examine(str(key))[0]}),
    }
    customizing = Customizing(Desired({}, {"web": image}, host="h"))
    assert customizing._declared(wish)[2] == {str(key): b"planned"}

    key.write_bytes(b"changed")
    custom = customizing.custom(wish, Editor(lambda: None))
    assert custom is not None
    with pytest.raises(Retryable, match="have changed since they were planned"):
        custom.write(-1)
    customizing.declare(Desired({}, {"web": replace(image, custom={})}, host="h"))
    with pytest.raises(Retryable, match="declare no files or size of it any more"):
        custom.write(-1)


def test_what_is_declared_read_only_is_read_only_for_drivers() -> None:
    """Packages of images and pools do not import each other: both have the mark."""
    digest = CustomSpec(read_only=True).digest(Names("a", 0, "web", "host"), {})

    assert driver.is_read_only(driver.content("c" * 64, digest))
    assert not driver.is_read_only(driver.content("c" * 64, CustomSpec(size=1).digest(Names("a", 0, "web", "host"), {})))


def test_the_digest_of_a_seed_covers_the_names_that_its_files_have_and_no_others() -> None:
    spec = CustomSpec(seed=(("meta-data", "/m"), ("user-data", "/u")))
    sums = {"/m": sum_of(b"instance-id: {snapshot}\n"), "/u": sum_of(b"# {index} {other}\n")}
    same = spec.digest(NAMES, sums)

    assert has_seed(same) and not has_seed(SPEC.digest(NAMES, {"/k": digest_of(b"key")}))
    assert spec.digest(replace(NAMES, host="host-b", image="api"), sums) == same
    assert spec.digest(replace(NAMES, snapshot="web-4"), sums) != same != spec.digest(replace(NAMES, index=4), sums)
    assert spec.digest(NAMES, sums | {"/u": sum_of(b"# {index}\n")}) != same
    assert spec.digest(NAMES, {"/u": sums["/u"]}) == UNKNOWN
    assert replace(spec, read_only=True).digest(NAMES, sums) == f"{same}-ro"

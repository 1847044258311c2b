"""Names in access control lists mean the image's own users and groups, as far as its layers have brought them."""

from __future__ import annotations

import io
import os
import pwd
import struct
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from reconciler.errors import LayerRefused
from reconciler.image.spec import Limits
from reconciler.image.tree import index
from reconciler.image.tree.accounts import MOST_BYTES, parsed
from tests.hostile.here import Bench
from tests.support import images, oci

NO_ID = 2**32 - 1
PASSWD = b"root:x:0:0::/:\nann:x:1000:1000::/:\nann:x:7:7::/:\nlp:x:8:8::/:\n"
GROUP = b"root:x:0:\nadm:x:4:ann\nstaff:x:2000:\n"
LIST = b"user::rw-\nuser:ann:r--\ngroup::r--\ngroup:adm:r-x\nmask::r-x\nother::---\n"


def tar(*members: tuple[str, bytes | str, Mapping[str, str]]) -> bytes:
    """Files (bytes), directories (``""``), symlinks (``->TARGET``), hard links (``=>TARGET``), with pax records."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, records in members:
            info = tarfile.TarInfo(name)
            info.pax_headers = dict(records)
            if isinstance(content, bytes):
                info.size = len(content)
            elif content:
                info.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                info.linkname = content[2:]
            else:
                info.type = tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def file(name: str, content: bytes) -> tuple[str, bytes, Mapping[str, str]]:
    return name, content, {}


def listed(name: str = "srv/f", text: bytes = LIST) -> tuple[str, bytes, Mapping[str, str]]:
    return name, b"x", {"SCHILY.acl.access": text.decode()}


ACCOUNTS = (file("etc/passwd", PASSWD), file("./etc/group", GROUP))


def named(bench: Bench, path: bytes = b"srv/f") -> list[tuple[int, int]]:
    """The named entries of a file's list, as (tag, id)."""
    value = dict(bench.finish()[path].xattrs)[b"system.posix_acl_access"]
    return [(tag, number) for tag, _, number in struct.iter_unpack("<HHI", value[4:]) if number != NO_ID]


def applied(*layers: bytes) -> Bench:
    bench = Bench(Limits())
    for layer in layers:
        bench.apply(layer)
    return bench


def test_names_are_those_of_the_images_own_files() -> None:
    assert named(applied(tar(*ACCOUNTS, listed()))) == [(2, 1000), (8, 4)]


def test_names_may_come_from_a_lower_layer() -> None:
    assert named(applied(tar(*ACCOUNTS), tar(listed()))) == [(2, 1000), (8, 4)]


def test_an_upper_layers_file_replaces_the_lower_ones() -> None:
    other = file("etc/passwd", b"ann:x:5:5::/:\n")
    assert named(applied(tar(*ACCOUNTS), tar(other, listed()))) == [(2, 5), (8, 4)]
    assert named(applied(tar(*ACCOUNTS), tar(listed(), other))) == [(2, 1000), (8, 4)], "the order of members counts"


def test_a_removed_file_has_no_names() -> None:
    assert named(applied(tar(*ACCOUNTS), tar(file("etc/.wh.group", b""), listed()))) == [(2, 1000)]
    assert named(applied(tar(*ACCOUNTS), tar(file("etc/.wh..wh..opq", b"")), tar(listed()))) == []


def test_names_of_a_member_that_waits_for_a_link_of_a_lower_layer_count_in_the_next_layer() -> None:
    lower = tar(("usr/lib/", "", {}), ("lib", "->usr/lib", {}))
    deferred = tar(file("lib/x", b""), *ACCOUNTS)
    assert named(applied(lower, deferred, tar(listed()))) == [(2, 1000), (8, 4)]


def test_numbers_stay_as_they_are_and_entries_without_an_id_are_dropped_and_counted() -> None:
    text = LIST + b"user:lp:r--:77\nuser:1234:r--\nuser:mallory:rwx\n"
    bench = Bench(Limits())
    totals = bench.apply(tar(*ACCOUNTS, listed(text=text), listed("srv/g", text)))

    assert named(bench) == [(2, 77), (2, 1000), (2, 1234), (8, 4)]
    assert totals["unknownAclNames"] == {"count": 2, "names": ["user:mallory"]}


def test_names_before_the_files_are_dropped_whatever_the_host_has() -> None:
    own = pwd.getpwuid(os.getuid()).pw_name
    text = LIST.replace(b"ann", b"daemon" if own == "root" else own.encode())
    assert named(applied(tar(listed(text=text), *ACCOUNTS))) == []


@pytest.mark.parametrize(
    "members",
    [
        [file("etc/passwd", PASSWD + b"#" * MOST_BYTES)],
        [file("real", PASSWD), ("etc/passwd", "->../real", {})],
        [file("real", PASSWD), ("etc/passwd", "=>real", {})],
        [("etc/passwd/", "", {})],
        [file("real/passwd", PASSWD), ("etc", "->real", {})],
        [file("real/keep", b""), ("etc", "->real", {}), file("etc/passwd", PASSWD)],
        [file("etc/passwd", b"\0\xff:::" * 1000)],
        [file("etc/passwd", b"ann:x:99999999999:0::\nann\nann:x::\nann:x:-1:0::\nann:x:4294967295:0::\n")],
        [file("srv/etc/passwd", PASSWD)],
    ],
    ids=["huge", "symlink", "hard link", "directory", "linked etc", "through a link", "binary", "numbers", "elsewhere"],
)
def test_what_is_no_small_regular_file_gives_no_names(members: list[tuple[str, bytes | str, Mapping[str, str]]]) -> None:
    assert named(applied(tar(*members, listed()))) == []


def test_names_can_be_required() -> None:
    bench = Bench(Limits(foreign_attributes="refuse"))
    with pytest.raises(LayerRefused) as refused:
        bench.apply(tar(*ACCOUNTS, listed(text=LIST.replace(b"ann", b"mallory"))))
    assert refused.value.rule == "acl-name"


def test_the_first_line_of_a_name_counts() -> None:
    assert parsed(b"passwd", PASSWD)[b"ann"] == 1000


def test_an_index_keeps_the_names() -> None:
    bench = applied(tar(*ACCOUNTS))
    tree, _ = index.load(_dumped(bench))
    assert tree.accounts.id_of(b"passwd", b"ann") == 1000
    assert tree.accounts.dump() == bench.tree.accounts.dump()


def _dumped(bench: Bench) -> bytes:
    bench.finish()
    return index.dump(bench.tree, 1 << 20)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to set owners")
@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_archives_of_gnu_tar_and_bsdtar(program: str, tmp_path: Path) -> None:
    """GNU tar writes names alone, as the host has them; bsdtar writes the host's numbers beside them, which count."""
    oci.needs(program, "setfacl")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_bytes(b"daemon:x:555:1::/:\n")
    (tmp_path / "journal").write_bytes(b"x")
    try:
        subprocess.run(["setfacl", "-m", "u:daemon:r", "journal"], cwd=tmp_path, check=True, capture_output=True)
    except subprocess.CalledProcessError:
        pytest.skip("this file system has no access control lists")
    options = {"tar": ["--acls", "--format=pax"], "bsdtar": ["--format=pax", "--acls"]}[program]
    layer = subprocess.run([program, *options, "-cf", "-", "etc", "journal"], cwd=tmp_path, check=True, capture_output=True)

    numbers = {"tar": 555, "bsdtar": pwd.getpwnam("daemon").pw_uid}
    assert named(applied(layer.stdout), b"journal") == [(2, numbers[program])]


def test_a_built_image_has_the_ids(tmp_path: Path) -> None:
    """Through the builder, with the second layer over the index of the first one."""
    layers = [tmp_path / "1.tar", tmp_path / "2.tar"]
    for path, data in zip(layers, (tar(*ACCOUNTS), tar(listed())), strict=True):
        path.write_bytes(data)
    images.build(layers, tmp_path / "image.ext4")

    shown = images.run("debugfs", "-R", "ea_get -x /srv/f system.posix_acl_access", tmp_path / "image.ext4")
    assert "e8 03 00 00" in shown, "ann is 1000"

"""`inspect`: what an operator is told of a layer, and how little of it is fetched for that."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler import errors
from reconciler.cli import inspect_layer
from reconciler.image.archive.member import Member
from reconciler.image.builder import process
from reconciler.image.builder.protocol import PACKET
from reconciler.image.source import exchange
from reconciler.image.source.local import Descriptor, LocalFile
from reconciler.image.source.ranges import FIRST_RANGE, Ranges
from reconciler.image.source.reading import PIECE, Reading
from reconciler.image.spec import GIB, MIB, Layer, Limits, Source
from reconciler.image.tree.judge import Judge
from reconciler.image.tree.survey import Dangling, Survey
from reconciler.image.tree.totals import LISTED
from reconciler.image.tree.tree import Tree
from tests.image.builder.test_build import builders
from tests.support import images, lying
from tests.support.layers import compress, pack
from tests.support.origin import Answer, Asked, Origin, failure
from tests.support.trees import (
    ACL,
    ACL_MODE,
    Entry,
    capability,
    directory,
    file,
    hardlink,
    opaque,
    sparse,
    symlink,
    whiteout,
)

SECOND = 10**9
EVIL = pack([file(b"../evil", b"x")])
AT_ONCE = pytest.mark.timeout(60)
"""Ends a test that hangs; not a measure of speed."""

Inspect = Callable[..., Any]


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    stop = threading.Event()
    yield stop
    stop.set()


@pytest.fixture
def inspect(tmp_path: Path, stop: threading.Event) -> Inspect:
    """Inspect a source, or a tar that is given as bytes."""

    def inspect(layer: Source | bytes, **limits: Any) -> Any:
        if isinstance(layer, bytes):
            path = tmp_path / "layer.tar"
            path.write_bytes(layer)
            layer = Source(str(path))
        return inspect_layer.inspect(layer, Limits(**limits), stop=stop)

    return inspect


@pytest.fixture(scope="module")
def address() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def origin(address: Origin, monkeypatch: pytest.MonkeyPatch) -> Origin:
    monkeypatch.setattr(exchange, "REQUEST_ATTEMPTS", 1)
    address.reset()
    return address


RICH = [
    directory(b"bin", uid=70_000, mtime=5 * SECOND),
    file(b"bin/su", b"x" * 3000, mode=0o4755, mtime=86_400 * SECOND),
    file(b"bin/wall", b"x", mode=0o2755),
    file(b"bin/ping", b"xx", xattrs={b"security.capability": capability(), b"user.note": b"1"}),
    file(b"etc/open", b"x", mode=0o666, xattrs={b"user.note": b"2", b"security.selinux": b"label"}),
    file(b"etc/listed", b"x", mode=ACL_MODE, xattrs={b"system.posix_acl_access": ACL}),
    directory(b"tmp", 0o1777),
    directory(b"pub", 0o777),
    sparse(b"var/lib/a/holes", 100_000, [(0, b"y" * 4096)]),
    Entry(b"dev/null", stat.S_IFCHR, device=(1, 3)),
    symlink(b"bin/sh", b"/bin/su"),
    symlink(b"bin/none", b"nowhere"),
    hardlink(b"bin/su2", b"bin/su"),
    file(b"bin/wall", b"again", gid=4_000_000_000),
    whiteout(b"etc/gone"),
    opaque(b"etc"),
]


def test_an_operator_is_told_what_a_layer_holds(inspect: Inspect, tmp_path: Path) -> None:
    """Every count of the summary, on a layer that has something of each."""
    layer = compress(pack(RICH), "gzip")

    told = inspect(layer)

    assert (told["verdict"], told["sha256"]) == ("accept", hashlib.sha256(layer).hexdigest())
    assert (told["storedBytes"], told["unpackedBytes"]) == (len(layer), len(pack(RICH)))
    assert told["ratio"] == round(len(pack(RICH)) / len(layer), 2)
    assert (told["compression"], set(told["formats"])) == ("gzip", {"pax", "ustar"})
    assert told["entries"] == len(RICH) == sum(told["types"].values())
    assert told["types"]["hardlink"] == 1
    assert (told["fileBytes"], told["largest"][0]) == (103_010, {"name": "var/lib/a/holes", "bytes": 100_000})
    listed = {name: told[name] for name in ("setuidFiles", "setgidFiles", "capabilities", "devices", "worldWritableFiles")}
    assert {name: found["names"] for name, found in listed.items()} == {
        "setuidFiles": ["bin/su"],
        "setgidFiles": ["bin/wall"],
        "capabilities": ["bin/ping"],
        "devices": ["dev/null"],
        "worldWritableFiles": ["etc/open"],
    }
    assert told["worldWritableDirectories"] == {"count": 1, "names": ["pub/"]}
    assert (told["absoluteLinks"], told["climbingLinks"]["count"]) == (1, 0)
    assert told["danglingLinks"] == {"count": 1, "names": ["bin/none -> nowhere"], "unfollowed": 0}
    assert (told["whiteoutFiles"]["names"], told["opaqueDirectories"]["names"]) == (["etc/.wh.gone"], ["etc/.wh..wh..opq"])
    assert told["sparse"] == {"count": 1, "holeBytes": 100_000 - 4096}
    assert told["keptXattrs"]["names"] == {"user.note": 2, "security.capability": 1, "system.posix_acl_access": 1}
    assert told["droppedXattrs"] == {"security.selinux": 1}
    assert told["owners"] == {"uids": 2, "gids": 2, "above65535": 2, "highest": 4_000_000_000}
    assert told["mtimes"] == {"first": "1970-01-01T00:00:00Z", "last": "1970-01-02T00:00:00Z"}
    assert told["impliedDirectories"] == 5
    assert told["inodes"] == images.build_here([pack(RICH)], tmp_path / "image").used_inodes
    assert told["duplicates"] == {"count": 1, "names": ["bin/wall"]}
    assert told["deepest"] == {"components": 4, "name": "var/lib/a/holes"}


@pytest.mark.parametrize("packed", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("dialect", ["pax", "gnu", "ustar"])
def test_format_and_compression_are_told(inspect: Inspect, packed: str, dialect: str) -> None:
    told = inspect(compress(pack([file(b"a", b"x"), file(b"b" * 90 + b"/" + b"c" * 90)], dialect), packed))

    assert told["compression"] == packed.replace("plain", "none")
    assert dialect in told["formats"]


def test_a_tar_whose_first_name_begins_like_a_compression_is_told_as_none(inspect: Inspect) -> None:
    assert inspect(pack([file(b"\x1f\x8b\x08", b"x")]))["compression"] == "none"


def test_of_a_refused_layer_is_told_what_was_seen_up_to_there(inspect: Inspect) -> None:
    """The member that is refused is not counted, and nothing behind it is."""
    told = inspect(pack([file(b"fine", b"12", mode=0o4755), file(b"../evil", b"345"), file(b"after")]))

    assert (told["verdict"], told["reason"], told["rule"]) == ("reject", "UnsafeArchive", "name-climbs")
    assert (told["member"], told["offset"]) == (b"../evil", 1024)
    assert (told["entries"], told["types"], told["fileBytes"]) == (1, {"file": 1}, 2)
    assert told["setuidFiles"]["names"] == ["fine"]
    assert told["danglingLinks"] is None
    assert "sha256" not in told and "inodes" not in told


@pytest.mark.parametrize(
    ("layer", "rule", "entries"),
    [
        (b"", "corrupt", 0),
        (b"these are notes\n" * 100, "corrupt", 0),
        (b"\x04\x22\x4d\x18" + bytes(100), "compression", 0),
        (pack([file(b"a", bytes(5000))])[:3000], "corrupt", 1),
        (compress(pack([file(b"a", bytes(5000)), file(b"b")]), "gzip")[:-4], "corrupt", 2),
    ],
)
def test_what_is_no_whole_tar_is_refused_with_what_there_was(inspect: Inspect, layer: bytes, rule: str, entries: int) -> None:
    told = inspect(layer)

    assert (told["verdict"], told["rule"], told["entries"]) == ("reject", rule, entries)
    assert told["message"] and not told["message"].startswith("layer ")
    assert inspect_layer.lines(told)


def test_climbing_links_are_listed_where_they_are_accepted(inspect: Inspect) -> None:
    layer = pack([symlink(b"etc/out", b"../../shadow"), file(b"a"), hardlink(b"b", b"../a"), symlink(b"etc/in", b"../a")])

    refused, told = inspect(layer), inspect(layer, climbing_links="resolve")

    assert (refused["rule"], refused["member"]) == ("link-climbs", b"etc/out")
    assert told["climbingLinks"] == {"count": 2, "names": ["etc/out -> ../../shadow", "b -> ../a"]}


def test_privileges_are_listed_although_they_are_stripped(inspect: Inspect) -> None:
    told = inspect(pack([file(b"su", mode=0o6755, xattrs={b"security.capability": capability()})]), setuid="strip")

    assert [told[name]["count"] for name in ("setuidFiles", "setgidFiles", "capabilities")] == [1, 1, 1]
    assert (told["stripped"], told["keptXattrs"]["names"]) == (1, {})


# -------------------------------------------------------------------------------------------------------- links


def tree(*entries: Entry, **limits: Any) -> Tree:
    found = Tree(Limits(**limits))
    for entry in entries:
        found.add(Member(entry.name, entry.kind, linkname=entry.target))
    return found


@pytest.mark.parametrize(
    ("target", "leads"),
    [
        (b"file", True),
        (b"/a/file", True),
        (b"../a/file", True),
        (b"../../../a/file", True),
        (b".", True),
        (b"/", True),
        (b"file/x", False),
        (b"file/..", False),
        (b"missing", False),
        (b"missing/../file", False),
        (b"chain", True),
        (b"up/a/file", True),
        (b"up/up/a", False),
        (b"loop", False),
        (b"self", False),
    ],
)
def test_a_link_dangles_where_a_process_with_that_root_finds_nothing(target: bytes, leads: bool) -> None:
    links = [symlink(b"a/chain", b"/a/one"), symlink(b"a/one", b"file"), symlink(b"a/up", b"..")]
    links += [symlink(b"a/loop", b"pool"), symlink(b"a/pool", b"loop")]

    found = Dangling(tree(file(b"a/file"), *links, symlink(b"a/self", target)).root, Limits()).document()

    names = found["names"]
    assert isinstance(names, list)
    assert any(name.startswith("a/self -> ") for name in names) is not leads


@AT_ONCE
def test_links_that_multiply_are_given_up_in_bounded_time() -> None:
    """Thirty links, each leading twice through the one before: a thousand million steps."""
    links = [symlink(b"l0", b".")] + [symlink(b"l%d" % n, b"l%d/l%d" % (n - 1, n - 1)) for n in range(1, 30)]

    found = Dangling(tree(*links).root, Limits(max_entries=10)).document()

    assert isinstance(found["count"], int) and isinstance(found["unfollowed"], int)
    assert found["count"] + found["unfollowed"] > 0


# ---------------------------------------------------------------------------------------------------- hostile words


def awkward(number: int) -> bytes:
    """A name that grows most where it is escaped, and is unlike the others at its end and its start."""
    return b"%03d" % number + b"\xff" * 200 + b"%03d" % number


class Given:
    """A ``Reader``'s face over members that are there already."""

    block = bytes(512)
    end = 0

    def __init__(self, members: list[Member]) -> None:
        self._members = members

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)


def test_the_longest_summary_fits_a_packet() -> None:
    """Every list full of the names that are longest when escaped: the builder could not tell its verdict otherwise."""
    judge, survey, names = Judge(Limits()), Survey(Limits(climbing_links="resolve")), Tree(Limits())
    members = []
    for n in range(2 * LISTED):
        xattrs = {b"user." + awkward(n): b"", b"security.capability": capability()}
        members.append(Member(awkward(n), stat.S_IFREG, mode=0o6777, xattrs=xattrs, size=n))
        members.append(Member(awkward(n), stat.S_IFBLK))
        members.append(Member(awkward(100 + n), stat.S_IFDIR, mode=0o777))
        members.append(Member(b"\xff" * 200 + b"/.wh." + awkward(n), stat.S_IFREG))
        members.append(Member(awkward(n) + b"/.wh..wh..opq", stat.S_IFREG))
        members.append(Member(awkward(200 + n), stat.S_IFLNK, linkname=b"../" + awkward(n)))
    reader: Any = Given(members)
    for member in survey.follow(reader):
        if member.type != stat.S_IFLNK:
            judge.check(member)
        if b"/" not in member.name:
            names.add(member)

    packets = [judge.totals(), survey.document("none", names, whole=True)]

    assert packets[1]["danglingLinks"] and packets[1]["climbingLinks"]
    assert all(len(json.dumps(["seen", {"totals": packet}])) < PACKET for packet in packets)


def test_no_name_makes_a_line_of_its_own_or_moves_the_cursor(inspect: Inspect) -> None:
    """What a layer says can't look like what the inspector says."""
    name = b"x\n  sha256      0000\x1b[2J"
    good = inspect(pack([file(name, b"1", mode=0o4777), symlink(b"l", name + b"y")]))
    bad = inspect(pack([file(b"../" + name, b"1")]))

    said = [*inspect_layer.lines(good), *inspect_layer.lines(bad)]

    assert all("\n" not in line and "\x1b" not in line for line in said)
    assert not any(line.startswith("  sha256") and "0000" in line[:24] for line in said)


@AT_ONCE
@pytest.mark.parametrize("flaw", ["sees nonsense", "sees nothing", "counts wildly", "dies", "hangs up", "shouts"])
def test_a_builder_that_lies_costs_an_error_and_no_more(inspect: Inspect, monkeypatch: pytest.MonkeyPatch, flaw: str) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, lying.__file__, flaw))

    with pytest.raises(errors.BuilderDied):
        inspect(pack([file(b"a", b"1")]))

    assert not builders()


# --------------------------------------------------------------------------------------------------- no more than needed


def endless(beginning: bytes) -> Callable[[Asked], Answer]:
    """An object of 10 GiB: this, and then zeros."""

    def answer(asked: Asked) -> Answer:
        start, stop = asked.start or 0, min(asked.stop or 10 * GIB, 10 * GIB)
        body = beginning[start:stop].ljust(stop - start, b"\0")
        return Answer(206, {"ETag": '"big"', "Content-Range": f"bytes {start}-{stop - 1}/{10 * GIB}"}, body)

    return answer


def test_a_layer_that_is_refused_at_its_start_costs_one_small_request(inspect: Inspect, origin: Origin) -> None:
    """A bad member at byte 10,240 of 10 GiB."""
    origin.script = endless(pack([file(b"fine", bytes(9000))])[:9728] + EVIL)

    told = inspect(origin.source())

    assert (told["verdict"], told["rule"], told["entries"]) == ("reject", "name-climbs", 1)
    assert origin.ranges() == [(0, FIRST_RANGE)]
    assert origin.sent <= FIRST_RANGE
    assert not builders()


def test_a_layer_that_is_refused_later_costs_little_more_than_was_read(inspect: Inspect, origin: Origin) -> None:
    """At 20 MiB of 10 GiB: what is on the way then is a few MiB of buffers, and the rest is never sent."""
    long = pack([file(b"long", bytes(20 * MIB))])[: 20 * MIB + 512]
    origin.script = endless(long + EVIL)

    told = inspect(origin.source())

    assert (told["verdict"], told["member"]) == ("reject", b"../evil")
    assert len(long) < origin.sent < len(long) + 16 * MIB
    assert [asked.headers.get("If-Match") for asked in origin.gets()] == [None, *['"big"'] * (len(origin.gets()) - 1)]


def test_an_object_is_described_as_the_file_is(inspect: Inspect, origin: Origin) -> None:
    layer = pack([file(b"noise", os.urandom(5 * MIB)), *RICH])

    there, here = inspect(origin.put(layer)), inspect(layer)

    assert {**there, "source": ""} == {**here, "source": ""}
    assert origin.ranges() == [(0, MIB), (MIB, 3 * MIB), (3 * MIB, len(layer))]
    assert origin.sent == len(layer)


def reading(source: Source, stop: threading.Event) -> Reading:
    return Reading(source.url, inspect_layer.origin(source), stop)


def rest(reader: Reading) -> bytes:
    read, buffer = bytearray(), memoryview(bytearray(PIECE))
    while got := reader.readinto(buffer):
        read += buffer[:got]
    return bytes(read)


def test_nothing_is_asked_for_while_nobody_reads(origin: Origin, stop: threading.Event) -> None:
    data, beginning = os.urandom(6 * MIB), memoryview(bytearray(FIRST_RANGE))
    with reading(origin.put(data), stop) as reader:
        assert origin.ranges() == []
        held = reader.readinto(beginning)
        while held < FIRST_RANGE:
            held += reader.readinto(beginning[held:])
        asked = origin.ranges()
        whole = bytes(beginning) + rest(reader)

        assert asked == [(0, FIRST_RANGE)]
        assert whole == data
        assert reader.result().digest == hashlib.sha256(data).hexdigest()
        assert reader.progress == (len(data), len(data))


def test_an_answer_that_breaks_off_is_taken_up_where_it_stopped(origin: Origin, stop: threading.Event) -> None:
    data = os.urandom(3 * MIB)
    source = origin.put(data)

    def cut(asked: Asked) -> Answer | None:
        honest = origin.serve(asked)
        return Answer(honest.status, honest.headers, honest.body, cut=600_000) if asked.number in (1, 3) else None

    origin.script = cut
    with reading(source, stop) as reader:
        assert rest(reader) == data

    starts = [asked.start for asked in origin.gets()]
    assert starts == [0, 600_000, MIB, MIB + 600_000], "every byte that arrived is kept"
    assert all("If-Match" in asked.headers for asked in origin.gets()[1:])


def test_an_answer_that_always_breaks_off_is_given_up(inspect: Inspect, origin: Origin) -> None:
    source = origin.put(bytes(3 * MIB))
    origin.script = lambda asked: Answer(206, {"Content-Range": f"bytes 0-{MIB - 1}/{3 * MIB}"}, bytes(MIB), cut=100)

    with pytest.raises(errors.SourceUnavailable):
        inspect(source)


def test_an_object_that_is_replaced_meanwhile_is_no_mix_of_two(inspect: Inspect, origin: Origin) -> None:
    source = origin.put(pack([file(b"a", bytes(3 * MIB))]), etag="one")

    def replace(asked: Asked) -> None:
        if asked.number == 2:
            origin.put(pack([file(b"b", bytes(3 * MIB))]), etag="two")

    origin.script = replace
    with pytest.raises(errors.SourceChanged):
        inspect(source)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (failure(404, "NoSuchKey"), errors.SourceNotFound),
        (failure(403, "AccessDenied"), errors.SourceForbidden),
        (failure(500, "InternalError"), errors.SourceUnavailable),
    ],
)
def test_what_can_not_be_had_is_an_error_and_no_verdict(
    inspect: Inspect, origin: Origin, answer: Answer, error: type[errors.ReconcilerError]
) -> None:
    origin.script = lambda asked: answer

    with pytest.raises(error):
        inspect(origin.source())

    assert not builders()


def test_a_file_that_is_missing_or_a_directory_is_an_error_and_no_verdict(inspect: Inspect, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(errors.SourceNotFound):
            inspect(Source(str(path)))


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, stop: threading.Event) -> None:
    path = tmp_path / "layer"
    path.write_bytes(bytes(MIB))
    with reading(Source(str(path)), stop) as reader:
        reader.readinto(memoryview(bytearray(1000)))
        with path.open("ab") as grown:
            grown.write(b"more")
        with pytest.raises(errors.SourceChanged):
            rest(reader)


def test_what_comes_through_a_pipe_is_read_as_it_comes(stop: threading.Event) -> None:
    theirs, ours = os.pipe()
    buffer = memoryview(bytearray(PIECE))
    with Reading("-", Descriptor(theirs), stop) as reader:
        os.write(ours, b"first")
        assert buffer[: reader.readinto(buffer)] == b"first"
        os.write(ours, b" second")
        os.close(ours)

        assert rest(reader) == b" second"
        assert reader.result().size == 12
    os.close(theirs)


@AT_ONCE
@pytest.mark.parametrize("how", ["stopped", "closed"])
@pytest.mark.parametrize("where", ["S3", "pipe"])
def test_one_that_is_stopped_while_it_waits_for_bytes_ends_at_once(
    origin: Origin, stop: threading.Event, where: str, how: str
) -> None:
    """Also where the server has said nothing yet, and would not for a long time."""
    waiting, never = threading.Event(), threading.Event()

    def hold(asked: Asked) -> Answer:
        waiting.set()
        return Answer(206, {"ETag": '"x"', "Content-Range": f"bytes 0-{MIB - 1}/{MIB}"}, bytes(MIB), cut=0, hold=never)

    def end() -> None:
        if where == "S3":
            assert waiting.wait(20)
        if how == "stopped":
            stop.set()
        else:
            reader.close()

    origin.script = hold
    theirs, ours = os.pipe()
    reader = Reading("-", Descriptor(theirs) if where == "pipe" else Ranges(origin.source()), stop)
    ending = threading.Timer(0.2, end)
    ending.start()

    with pytest.raises(errors.Stopped):
        reader.result()
    ending.join()
    reader.close()
    never.set()
    os.close(ours)
    os.close(theirs)


def test_a_file_that_is_cut_short_while_it_is_read_is_an_error(tmp_path: Path, stop: threading.Event) -> None:
    path = tmp_path / "layer"
    path.write_bytes(bytes(MIB))
    with Reading("layer", LocalFile(Layer(Source(str(path)))), stop) as reader:
        reader.readinto(memoryview(bytearray(1000)))
        os.truncate(path, 2000)
        with pytest.raises(errors.SourceChanged, match="2000"):
            rest(reader)

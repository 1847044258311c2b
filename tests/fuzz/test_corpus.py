"""The seeds of the coverage-guided run and every finding of the past, through the whole oracle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.image.archive import header
from reconciler.image.tree.judge import Judge
from reconciler.image.tree.tree import Tree
from tests.fuzz import oracle, readers, seeds, tarball
from tests.fuzz.tarball import device, extended, item, sparse

HERE = Path(__file__).resolve().parent
CORPUS = sorted((HERE / "corpus").iterdir())
FINDINGS = sorted((HERE / "findings").iterdir())

OPEN: dict[str, str] = {}
"""Findings that are not put right yet; the test of one that is put right fails until it is taken from here."""

AMBIGUOUS = ("member-hidden", "name-with")
"""What only a comparison of other readers shows."""

needs_readers = pytest.mark.skipif(not readers.installed(), reason="needs GNU tar and bsdtar")

pytestmark = pytest.mark.skipif(shutil.which("e2fsck", path="/usr/sbin:/usr/bin:/sbin:/bin") is None, reason="needs e2fsprogs")


@pytest.fixture(scope="module")
def bench() -> Iterator[oracle.Bench]:
    with oracle.Bench() as bench:
        yield bench


def test_the_corpus_is_what_its_source_says() -> None:
    """Changed seeds are written by ``python -m tests.fuzz.seeds``; no seed is large."""
    written = {path.name: path.read_bytes() for path in CORPUS}

    assert written == seeds.everything()
    assert max(map(len, written.values())) < 20 << 10 and sum(map(len, written.values())) < 1 << 20


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_a_seed_breaks_no_promise(bench: oracle.Bench, path: Path) -> None:
    verdict = bench.run(path.read_bytes())

    if not path.name.startswith(("attack-", "frame-", "policy-")):
        assert not verdict.error, f"a feature that images have is refused: {verdict}"


def _findings() -> Iterator[object]:
    for path in FINDINGS:
        reason = OPEN.get(path.name)
        marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
        if path.name.startswith(AMBIGUOUS):
            marks.append(needs_readers)
        yield pytest.param(path, id=path.name, marks=marks)


@pytest.mark.parametrize("path", list(_findings()))
def test_a_finding_stays_put_right(bench: oracle.Bench, path: Path) -> None:
    bench.run(path.read_bytes())


# ---------------------------------------------------------------------------------------------------- the oracle itself


ARCHIVE = tarball.Archive(
    [
        item(b"d/", b"5", mode=0o2755),
        item(b"d/f\xff\n x", data=b"hello" * 200, uid=5),
        item(b"l", b"2", link=b"d/f -> x"),
        item(b"h", b"1", link=b"l"),
        device(b"n", b"3", 1, 3),
        *sparse(b"s", 5000, [(512, 512), (4096, 10), (5000, 0)], b"x" * 522, "1.0"),
        item(b"p", b"6"),
        extended([(b"path", b"p\xc3\xa9")]),
        item(b"su", mode=0o6711),
    ]
).join()


@needs_readers
def test_other_readers_are_understood(bench: oracle.Bench) -> None:
    """Every type, odd names, holes and bits: what GNU tar and bsdtar list is read back without a difference."""
    without_arrow = ARCHIVE.replace(b"d/f -> x", b"d/f -- x")
    fixed = tarball.parse(without_arrow)
    for one in fixed.items:
        one.seal()

    assert bench.run(fixed.join()).peers == "agree"


@needs_readers
def test_names_that_a_listing_can_not_tell_apart_are_not_compared(bench: oracle.Bench) -> None:
    assert bench.run(ARCHIVE).peers.startswith("one refuses: bsdtar lists a name that can't be told")


@needs_readers
@pytest.mark.parametrize("field", ["name", "size", "link", "mode", "content"])
def test_a_reader_that_misreads_a_member_would_be_found(tmp_path: Path, field: str) -> None:
    tar = tmp_path / "tar"
    tar.write_bytes(tarball.Archive([item(b"f", data=b"abc"), item(b"l", b"2", link=b"f")]).join())
    file, link = readers.of_gnu(tar)
    wrong = {"name": b"g", "size": 4, "link": b"g", "mode": 0o600, "content": b"abd"}
    right = [*_with(file, content=b"abc"), link]
    told = [*_with(right[0], **{field: wrong[field]}), link] if field != "link" else [right[0], *_with(link, link=b"g")]

    assert readers.compare(tar, right) == "agree"
    assert readers.compare(tar, told).startswith("ours differs")


def _with(member: readers.Listed, **fields: object) -> list[readers.Listed]:
    from dataclasses import asdict

    return [readers.Listed(**{**asdict(member), **fields})]


def test_an_error_that_is_no_verdict_is_a_finding(bench: oracle.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconciler.errors import BuilderDied
    from reconciler.image.tree.judge import Judge

    def fail(*_: object) -> None:
        raise BuilderDied("it died")

    monkeypatch.setattr(Judge, "check", fail)

    with pytest.raises(oracle.Broken, match="BuilderDied is no verdict"):
        bench.run(ARCHIVE)


def test_memory_and_time_beyond_the_bounds_are_findings() -> None:
    with oracle.Bench(memory=-(1 << 40)) as bench, pytest.raises(oracle.Broken, match="memory"):
        bench.run(ARCHIVE)
    with oracle.Bench(seconds=-1) as bench, pytest.raises(oracle.Broken, match="time"):
        bench.run(ARCHIVE)


def test_other_bytes_on_the_volume_than_in_the_layer_are_a_finding(bench: oracle.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from reconciler.image.ext4.writer import Writer

    append = Writer.append

    def wrong(self: Writer, inode: object, size: int, segments: object, chunks: object) -> None:
        append(self, inode, size, segments, [b"".join(chunks).replace(b"hello", b"hallo")])  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "append", wrong)

    with pytest.raises(oracle.Broken, match="other data than its layer"):
        bench.run(ARCHIVE)


@pytest.mark.parametrize("flaw", ["a checksum", "a count", "a place"])
def test_a_shorter_way_that_differs_is_a_finding(bench: oracle.Bench, monkeypatch: pytest.MonkeyPatch, flaw: str) -> None:
    """What a shorter way must not pass over: a damaged header, a file that is to be counted, a place in a directory."""
    files = [item(b"a", data=b"a"), item(b"b", data=b"b"), item(b"c", data=b"c")]
    match flaw:
        case "a checksum":
            monkeypatch.setattr(header, "plain_type", lambda block: header.TYPES.get(block[156]) if any(block) else None)
            damaged = bytearray(tarball.Archive(files).join())
            damaged[1024] ^= 1
            case = bytes(damaged)
        case "a count":
            monkeypatch.setattr(Judge, "_passes", lambda _, member: member.name == b"b")
            case = tarball.Archive(files).join()
        case "a place":
            monkeypatch.setattr(Tree, "_placed", lambda self, path, inode: path == b"b" and bool(self.root.children))
            case = tarball.Archive(files).join()

    with pytest.raises(oracle.Broken, match="strict"):
        bench.run(case, replace(oracle.NONE, strict=True))

"""Whatever archive is generated, what ``oracle`` promises holds.

``RECONCILER_FUZZ_EXAMPLES=N`` asks for a longer look, at other examples each time; without it they are always the same ones.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import archives, mutate, oracle, readers, tarball

ASKED = os.environ.get("RECONCILER_FUZZ_EXAMPLES")
"""How long a look somebody has asked for; the tests' fixtures hide the variable, so it is read here."""

needs_e2fsprogs = pytest.mark.skipif(
    shutil.which("e2fsck", path="/usr/sbin:/usr/bin:/sbin:/bin") is None, reason="needs e2fsprogs"
)


@pytest.fixture(scope="module")
def bench() -> Iterator[oracle.Bench]:
    with oracle.Bench() as bench:
        yield bench


def looked_at(examples: int, *, anew: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same examples every time, or others each time."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=not anew,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


@needs_e2fsprogs
@looked_at(25)
@given(case=archives.legal())
def test_legal_layers_are_accepted_and_kept_as_they_are(bench: oracle.Bench, case: bytes) -> None:
    verdict = bench.run(case)

    assert not verdict.error, verdict


@needs_e2fsprogs
@looked_at(80)
@given(case=archives.hostile())
def test_layers_of_any_parts_break_no_promise(bench: oracle.Bench, case: bytes) -> None:
    bench.run(case)


@needs_e2fsprogs
@looked_at(80)
@given(case=archives.mutated())
def test_layers_changed_in_any_way_break_no_promise(bench: oracle.Bench, case: bytes) -> None:
    bench.run(case)


@looked_at(100)
@given(case=archives.anything())
def test_bytes_that_are_no_layer_break_no_promise(bench: oracle.Bench, case: bytes) -> None:
    bench.run(case)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
@needs_e2fsprogs
@pytest.mark.parametrize("kind", archives.KINDS)
def test_a_longer_look_finds_no_broken_promise(bench: oracle.Bench, kind: str) -> None:
    @looked_at(int(ASKED or 1000), anew=ASKED is not None)
    @given(case=archives.KINDS[kind])
    def check(case: bytes) -> None:
        bench.run(case)

    check()


# ----------------------------------------------------------------------------------------------- the tools themselves


@given(st.one_of(st.binary(max_size=3000), st.sampled_from(sorted(archives.SEEDS.values()))))
def test_taking_an_archive_apart_loses_nothing(data: bytes) -> None:
    assert tarball.parse(data).join() == data


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=4), st.integers(0, 31))
def test_a_case_keeps_its_layers_and_policies(layers: list[bytes], policy: int) -> None:
    packed = tarball.case(layers, policy)

    assert (tarball.layers_of(packed), tarball.policy_of(packed)) == (layers, policy)


@settings(deadline=None)
@given(st.sampled_from(sorted(archives.SEEDS)), st.integers(0, 2**32))
def test_the_same_seed_makes_the_same_change_and_no_more_than_asked(name: str, seed: int) -> None:
    data = archives.SEEDS[name]
    changed = mutate.mutate(data, seed, 8192)

    assert changed == mutate.mutate(data, seed, 8192)
    assert len(changed) <= 8192


def test_most_changes_leave_the_headers_whole() -> None:
    """Otherwise nothing behind the first header would be reached."""
    data, random = archives.SEEDS["types"], Random(1)
    changed = [mutate.mutate(data, random.getrandbits(32)) for _ in range(300)]

    assert sum(len(tarball.parse(mutate.unpacked(tarball.layers_of(each)[0])).items) > 2 for each in changed) > 200
    assert len(set(changed)) > 250


def test_findings_are_made_small() -> None:
    """Only what the finding needs is left."""
    data = tarball.Archive([tarball.item(b"%d" % n, data=b"x" * 600, mtime=n) for n in range(9)]).join()

    small = mutate.minimise(data, lambda case: any(item.get("name")[:2] == b"5\0" for item in tarball.parse(case).items))

    assert small == tarball.Archive([tarball.item(b"5", mode=0)]).join()


@pytest.mark.skipif(not readers.installed(), reason="needs GNU tar and bsdtar")
def test_a_file_that_is_named_like_the_mark_of_a_link_is_no_link(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "layer.tar", "w") as tar:
        for name in (" -> ", "a link to b", "a -> b"):
            tar.addfile(tarfile.TarInfo(name))

    assert [member.name for member in readers.of_bsd(tmp_path / "layer.tar", [])] == [b" -> ", b"a link to b", b"a -> b"]


@pytest.mark.skipif(not readers.installed(), reason="needs GNU tar and bsdtar")
@pytest.mark.parametrize("odd", [{"size": 4097}, {"mode": stat.S_IFIFO | 1}])
def test_a_hard_link_that_bsdtar_lists_as_another_type_is_a_hard_link(tmp_path: Path, odd: dict[str, int]) -> None:
    link = tarball.item(b"h", b"1", link=b"s", **odd)
    named_like_it = tarball.item(b"h link to s")
    layer = tmp_path / "layer.tar"
    layer.write_bytes(tarball.Archive([tarball.item(b"s"), link, named_like_it, tarball.item(b"end")]).join())

    theirs = readers.of_bsd(layer, readers.of_gnu(layer))

    assert [(member.name, member.link) for member in theirs] == [(b"s", b""), (b"h", b"s"), (b"h link to s", b""), (b"end", b"")]

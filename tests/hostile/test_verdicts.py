"""Each archive of the catalogue gets its verdict, for the reason that it is there for, and what is accepted stays in its root."""

from __future__ import annotations

import pytest

from reconciler.errors import LayerCorrupt, LayerRefused
from tests.hostile.case import Accepted, Case, Corrupt, Refused
from tests.hostile.catalogue import CASES
from tests.hostile.here import Bench
from tests.hostile.marks import marked

WITHOUT_PLACE = (
    *("limit-unpacked", "limit-ratio", "limit-members", "limit-seconds", "zstd-window", "compression"),
    *("trailing-data", "dangling-header", "lone-zero-block"),
)
"""Broken by the stream as a whole, or at its end."""


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_an_archive_gets_its_verdict(case: Case) -> None:
    *lower, last = case.bytes_of_layers()
    bench = Bench(case.limits)
    for layer in lower:
        bench.apply(layer)
    match case.verdict:
        case Accepted() as accepted:
            bench.apply(last)
            faults = list(accepted.faults(bench.finish()))
            assert not faults, "\n".join(faults)
        case Corrupt(said):
            with pytest.raises(LayerCorrupt, match=said or None) as corrupt:
                bench.apply(last)
            assert str(corrupt.value).isprintable()
        case Refused() as wanted:
            with pytest.raises(LayerRefused) as caught:
                bench.apply(last)
            check_refusal(wanted, caught.value)
            if caught.value.rule not in WITHOUT_PLACE and last[257:262] == b"ustar":
                assert sums_up(last[caught.value.offset :][:512]), "no header begins at the place that is given"


def check_refusal(wanted: Refused, refusal: LayerRefused) -> None:
    """It names the rule, the member and its place, in words that a terminal can show."""
    assert refusal.rule == wanted.rule, refusal
    assert str(refusal).isprintable() and len(str(refusal)) < 1000, refusal
    assert refusal.offset is None or refusal.offset % 512 == 0
    if wanted.member is not None:
        assert refusal.member == wanted.member


def sums_up(block: bytes) -> bool:
    """Whether it has a header's checksum, the way POSIX words it."""
    return int(block[148:154], 8) == sum(block[:148]) + 8 * ord(" ") + sum(block[156:])

"""Each archive of the catalogue gets its verdict, for the reason that it is there for, and what is accepted stays in its root."""

from __future__ import annotations

import pytest

from reconciler.errors import LayerCorrupt, LayerRefused
from tests.hostile.case import Accepted, Case, Corrupt, Refused
from tests.hostile.catalogue import CASES
from tests.hostile.here import Bench
from tests.hostile.marks import marked


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


def check_refusal(wanted: Refused, refusal: LayerRefused) -> None:
    """It names the rule, the member and its place, in words that a terminal can show."""
    assert refusal.rule == wanted.rule, refusal
    assert str(refusal).isprintable() and len(str(refusal)) < 1000, refusal
    assert refusal.offset is None or refusal.offset % 512 == 0
    if wanted.member is not None:
        assert refusal.member == wanted.member

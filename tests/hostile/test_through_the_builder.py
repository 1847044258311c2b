"""Each archive of the catalogue through the real thing: a builder process, its memory, its end, and what it leaves behind.

A builder of its own for each takes minutes in all: the quick tests run one case of each class and verdict and all that reproduce
flaws of other readers, the others are ``slow``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.image.spec import MIB, Limits
from tests.hostile.case import Accepted, Case, Corrupt, Refused
from tests.hostile.catalogue import BY_NAME, CASES, REPRESENTATIVES
from tests.hostile.marks import SECONDS, marked
from tests.hostile.workshop import OUTPUT, Outcome, Workshop
from tests.support import ext4

SIZE = 64 * MIB


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop() as workshop:
        yield workshop


@pytest.mark.parametrize("case", [marked(case, slow=case.name not in REPRESENTATIVES) for case in CASES])
def test_a_builder_gives_the_verdict_and_leaves_nothing_else(tmp_path: Path, workshop: Workshop, case: Case) -> None:
    layers = case.bytes_of_layers()
    for number, layer in enumerate(layers):
        (tmp_path / f"{number}.tar").write_bytes(layer)

    outcome = workshop.build(tmp_path, len(layers), case.volume or SIZE, case.limits)

    left = {path.name for path in tmp_path.iterdir()} - {f"{number}.tar" for number in range(len(layers))}
    assert outcome.left == []
    assert outcome.peak < case.memory, f"{outcome.peak >> 20} MiB"
    assert outcome.cpu < SECONDS, f"{outcome.cpu} s of CPU"
    match case.verdict:
        case Accepted() as accepted:
            assert (outcome.error, left) == ("", {OUTPUT}), outcome
            check_volume(tmp_path / OUTPUT, accepted)
        case Corrupt(said):
            assert (outcome.error, left) == ("LayerCorrupt", set()), outcome
            assert said in outcome.message
        case Refused() as refused:
            assert (outcome.error, left) == ("LayerRefused", set()), outcome
            check_refusal(refused, outcome)
    assert outcome.message.isprintable()


def test_the_words_of_a_refusal_give_the_rule_the_member_and_its_place(tmp_path: Path, workshop: Workshop) -> None:
    """What a person sees who builds: the message is all that there is."""
    [layer] = BY_NAME["cve-2025-4435"].bytes_of_layers()
    (tmp_path / "0.tar").write_bytes(layer)

    message = workshop.build(tmp_path, 1, SIZE, Limits()).message

    assert "../evil" in message
    assert "name-climbs" in message
    assert "byte 1024" in message


def check_refusal(wanted: Refused, outcome: Outcome) -> None:
    """It names the layer, the rule, the member and where its header stands."""
    assert outcome.rule == wanted.rule, outcome
    assert ".tar: " in outcome.message
    if wanted.member is not None:
        assert outcome.member == wanted.member, outcome
    if outcome.offset is None:
        assert not outcome.member, "only a refusal of the stream as a whole has no place"
    else:
        assert outcome.offset % 512 == 0, outcome


def check_volume(path: Path, accepted: Accepted) -> None:
    """``build`` has run e2fsck on it; here another reader reads it."""
    with ext4.opened(path) as image:
        found = image.describe(largest=16 * MIB)
    faults = list(accepted.faults(found))
    assert not faults, "\n".join(faults)
    os.unlink(path)

"""What ours and others make of the same archive: every disagreement is a row of ``docs/differences.md``, and still true.

What peers say is compared where they have the version that the row was seen with. What depends on being root is for ``--root``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import peers

from . import table
from .fixtures import FIXTURES, Fixture
from .observing import OURS, ours, theirs

PAGE = Path(__file__).parents[2] / "docs" / "differences.md"
BY_TITLE = {fixture.title: fixture for fixture in FIXTURES}

each_fixture = pytest.mark.parametrize("fixture", [pytest.param(f, id=f.title) for f in FIXTURES])
for_peers = [pytest.param(f, id=f.title, marks=[pytest.mark.root] if f.root or f.patience < 20 else []) for f in FIXTURES]


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == table.page(), "python -m tests.fidelity > docs/differences.md"


def test_every_archive_has_its_row_and_no_row_is_of_an_archive_that_is_gone() -> None:
    assert len(BY_TITLE) == len(FIXTURES), "two archives of one title"
    assert set(table.rows()) == set(BY_TITLE)


@each_fixture
def test_a_disagreement_has_its_reason(fixture: Fixture) -> None:
    row = table.rows()[fixture.title]

    assert fixture.why or not table.differs(row), row


@each_fixture
def test_ours_says_what_the_table_says(fixture: Fixture) -> None:
    assert ours(fixture) == table.rows()[fixture.title][OURS]


@pytest.mark.parametrize("fixture", for_peers)
def test_each_peer_says_what_the_table_says(fixture: Fixture) -> None:
    row = table.rows()[fixture.title]
    known = [peer for peer in peers.PEERS if peer in row and peers.version(peer) == table.versions()[peer]]
    if not known:
        pytest.skip("no peer of a version that the table was made with")

    assert {peer: theirs(peer, fixture) for peer in known} == {peer: row[peer] for peer in known}


def test_nothing_that_a_peer_does_outside_of_its_directory_is_done_by_a_safe_one() -> None:
    """The harness itself: an escape of ``trusted`` is seen, and the others have none."""
    escapes = {peer for row in table.rows().values() for peer, said in row.items() if "OUTSIDE" in said}

    assert escapes == {"trusted"}


def test_a_peer_that_hangs_is_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fixture = BY_TITLE["a file over a fifo"]

    found = peers.unpack("trusted", fixture.archive, seconds=0.5)

    assert found.hung and found.complained

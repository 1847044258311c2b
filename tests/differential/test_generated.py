"""No reader of tar makes another tree of what ours accepts, as far as the generator gets in a minute.

``python -m tests.differential --seconds N`` goes on for longer.
"""

from __future__ import annotations

import os
import re
import shutil

import pytest

from reconciler.image.archive import header
from tests.differential import grammar, readers
from tests.differential.explained import OVER_LINK, explanation

ARCHIVES = int(os.environ.get("RECONCILER_DIFFERENTIAL_ARCHIVES", "150"))
COMES_BACK_TO_A_LINK = 100_065_387
"""A seed whose archive has a directory of the name of a symlink to a directory."""
HIDES_A_MEMBER = range(1280, 1300)
"""Seeds among which an archive has a size behind a NUL."""

pytestmark = pytest.mark.skipif(not readers.available(), reason="needs another reader of tar")


def unexplained(seeds: range) -> list[str]:
    found = []
    for seed in seeds:
        archive = grammar.archive(seed)
        for reader, line in readers.disagreements(archive, readers.available()):
            if not explanation(archive, reader, line):
                found.append(f"seed {seed}: {reader}: {line}")
    return found


def test_a_seed_gives_the_same_archive_each_time() -> None:
    assert grammar.archive(5) == grammar.archive(5) != grammar.archive(6)


def test_every_reader_makes_the_same_tree_of_what_ours_accepts() -> None:
    assert not unexplained(range(ARCHIVES))


@pytest.mark.skipif("GNU tar" not in readers.available(), reason="needs GNU tar")
def test_a_directory_over_a_link_to_a_directory_is_told_as_that() -> None:
    archive = grammar.archive(COMES_BACK_TO_A_LINK)
    found = {explanation(archive, reader, line) for reader, line in readers.disagreements(archive, readers.available())}
    assert found == {OVER_LINK}


@pytest.mark.skipif(shutil.which("bsdtar") is None, reason="needs bsdtar")
def test_a_planted_flaw_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers behind NULs, as ours once read them."""
    monkeypatch.setattr(header, "_octal", re.compile(rb"[ \0]*([0-7]+)[ \0]*").fullmatch)
    caches = (header.number, header._mode_and_owner, header._mtime)
    try:
        for cache in caches:
            cache.cache_clear()
        assert unexplained(HIDES_A_MEMBER)
    finally:
        for cache in caches:
            cache.cache_clear()

"""Each archive of the test suites of CPython, Go, libarchive and Commons Compress gets its verdict; accepted ones are clean."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.support.images import assert_e2fsck_is_content, build_here

from .archives import VARIABLE, Public, archives, directory
from .verdicts import WHY, expected, verdict

ARCHIVES = directory()
COUNTS = {"cpython": 3, "go": 43, "libarchive": 346, "compress": 88}
ACCEPTED = 130

if ARCHIVES is None and os.environ.get("CI") == "true":
    pytest.fail(f"{VARIABLE} names no directory that tests/public/fetch.sh has filled", pytrace=False)

fetched = pytest.mark.skipif(ARCHIVES is None, reason=f"{VARIABLE} names no directory that tests/public/fetch.sh has filled")


def archive(title: str) -> Public:
    assert ARCHIVES is not None
    return next(one for one in archives(ARCHIVES) if one.title == title)


def test_the_table_has_as_many_archives_as_the_suites() -> None:
    assert Counter(title.partition("/")[0] for title in expected()) == COUNTS
    assert sum(judged.startswith("accepted") for _, judged in expected().values()) == ACCEPTED


def test_each_rule_that_refuses_a_public_archive_has_a_reason() -> None:
    rules = {judged.removeprefix("refused ") for _, judged in expected().values() if judged.startswith("refused ")}
    assert rules == set(WHY)


@fetched
def test_the_table_lists_the_archives_of_the_suites() -> None:
    assert ARCHIVES is not None
    assert {one.title: one.digest for one in archives(ARCHIVES)} == {title: digest for title, (digest, _) in expected().items()}


@fetched
@pytest.mark.parametrize("title", expected())
def test_a_public_archive_gets_its_verdict(tmp_path: Path, title: str) -> None:
    content = archive(title).content
    judged = expected()[title][1]
    assert verdict(content) == judged
    if judged.startswith("accepted"):
        build_here([content], tmp_path / "image", 1 << 30)
        assert_e2fsck_is_content(tmp_path / "image")

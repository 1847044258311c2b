"""docs/hostile-images.md says what the catalogue holds, and the catalogue holds every flaw that it promises to."""

from __future__ import annotations

from collections import Counter

from tests.hostile.__main__ import PAGE
from tests.hostile.advisories import ADVISORIES
from tests.hostile.case import CLASSES
from tests.hostile.catalogue import CASES
from tests.hostile.tables import page


def test_the_page_is_what_the_catalogue_gives() -> None:
    text = PAGE.read_text()

    assert page(text) == text, "run: python -m tests.hostile --write"


def test_every_class_of_attack_has_its_cases() -> None:
    assert {case.attack for case in CASES} == set(CLASSES)


def test_every_flaw_of_others_has_exactly_one_case_of_its_own() -> None:
    assert Counter(case.reproduces for case in CASES if case.reproduces) == Counter(ADVISORIES.keys())

"""Claims while the service is killed again and again: what clients were answered is compared with what is there from outside."""

from __future__ import annotations

from .storm import Storm
from .workshop import Workshop


def test_no_claim_is_lost_doubled_or_leaked(workshop: Workshop) -> None:
    """The large one: ``python -m tests.stories.storm``."""
    report = Storm(workshop, claims=40, kills=3, seed=7).run()

    assert report["wrong"] == [], report

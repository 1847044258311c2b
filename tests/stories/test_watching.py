"""Left running, it follows its manifests: what is committed is made, what can't be read changes nothing."""

from __future__ import annotations

import signal

from .layers import change, root
from .workshop import Workshop

BASE = root("base")


def test_a_commit_is_followed_and_a_broken_one_changes_nothing(workshop: Workshop) -> None:
    workshop.image("first", [BASE])
    service = workshop.start().until(workshop.snapshot("first-a").exists, "the first image")

    workshop.declare("broken", {"kind": "Imagine"})
    workshop.image("second", [BASE, change("more", {"srv/more": b"more"})])
    workshop.withdraw("broken")
    service.until(workshop.snapshot("second-a").exists, "the second image")
    ended = service.signal(signal.SIGTERM).wait()

    assert ended.code == 143
    assert workshop.snapshot("first-a").exists()
    assert ended.stdout.count("RECAP") >= 1
    workshop.settled()

"""pytest inside a guest: runs the tests that the host names, one at a time, and returns each report (``tier.py``).

``python -m tests.support.inside DIRECTORY ARGUMENT…``: requests are files in the directory, and so are the answers. State: none.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guest import post

POLL = 0.01


class Inside:
    def __init__(self, directory: Path) -> None:
        self.directory, self.answered = directory, 0

    def pytest_configure(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        self.answer("ready", sorted(items))
        for request in self.requests():
            item, after = items.get(request["test"]), items.get(request["after"])
            if item is None:
                self.answer("unknown", request["test"])
                continue
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            self.answer("done", request["test"])
        return True

    def requests(self) -> Iterator[dict[str, Any]]:
        number = 0
        while True:
            path = self.directory / f"test-{number:06}"
            while not path.exists():
                time.sleep(POLL)
            yield json.loads(path.read_text())
            path.unlink()
            number += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.answer("report", self.config.hook.pytest_report_to_serializable(config=self.config, report=report))

    def answer(self, kind: str, content: object) -> None:
        post(self.directory, f"answer-{self.answered:06}", {"kind": kind, "content": content})
        self.answered += 1


if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[2:], plugins=[Inside(Path(sys.argv[1]))]))

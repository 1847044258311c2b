"""The intents of a file pool without a registry: a file of JSON, which survives the process, or a mapping."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path

from reconciler.pool.file.intents import Intent


class KeptIntents:
    """``path`` None keeps them in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._kept: dict[str, Intent] = {}

    def read(self) -> Mapping[str, Intent]:
        if self.path is None:
            return dict(self._kept)
        try:
            return {name: Intent(**one) for name, one in json.loads(self.path.read_text()).items()}
        except FileNotFoundError:
            return {}

    def write(self, put: Mapping[str, Intent], drop: Collection[str] = ()) -> None:
        after = {name: one for name, one in {**self.read(), **put}.items() if name not in drop}
        if self.path is None:
            self._kept = after
            return
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({name: asdict(one) for name, one in after.items()}))
        os.replace(new, self.path)

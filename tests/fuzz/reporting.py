"""What a finding is called: by the promise and the place that broke, so that a thousand inputs of one fault are one finding."""

from __future__ import annotations

import hashlib
import re
import traceback
from dataclasses import dataclass, field
from pathlib import Path

_varying = re.compile(r"[0-9]+|b?'[^']*'|b?\"[^\"]*\"")


def kind_of(error: BaseException) -> str:
    """The promise or the exception's name, and the deepest place in our code that it came through.

    Of the text only what does not vary with the input counts, as a short hash.
    """
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/reconciler/" in frame.filename]
    where = f"{Path(ours[-1].filename).stem}-{ours[-1].name}" if ours else "oracle"
    told = getattr(error, "promise", "") or type(error).__name__
    said = _varying.sub("", str(error).splitlines()[0] if str(error) else "")[:80]
    return f"{told}-{where}-{hashlib.sha256(said.encode('utf-8', 'replace')).hexdigest()[:6]}"


@dataclass
class Findings:
    """One file for each kind: the smallest input, and how it failed."""

    place: Path
    smallest: dict[str, int] = field(default_factory=dict)

    def keep(self, data: bytes, error: BaseException) -> str:
        """Remember the input unless a smaller one of its kind is known; returns the kind."""
        kind = kind_of(error)
        if len(data) < self.smallest.get(kind, 1 << 62):
            self.smallest[kind] = len(data)
            (self.place / kind).write_bytes(data)
            told = "".join(traceback.format_exception(error))
            (self.place / f"{kind}.txt").write_text(f"{len(data)} bytes\n{told}", errors="backslashreplace")
        return kind

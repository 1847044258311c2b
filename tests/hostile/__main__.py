"""``python -m tests.hostile`` prints the tables of docs/hostile-images.md; ``--write`` puts them into the page."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.hostile.tables import page, tables

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hostile-images.md"


def main(argv: list[str]) -> int:
    if argv == ["--write"]:
        PAGE.write_text(page(PAGE.read_text()))
    else:
        print(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

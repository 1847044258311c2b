"""The command as it was before layout 2 (commit 4295b10, schema 4), for the tests of upgrades.

``tests/cases/previous`` has its package. It runs with the libraries of this Python in a virtual environment of its own, because
its builder is a process that imports it, too. State: none.
"""

from __future__ import annotations

import sys
import tarfile
import venv
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "cases" / "previous" / "reconciler-4295b10.tar.xz"


def install(directory: Path) -> Path:
    """Install it below ``directory``; return the path of its ``reconcile``."""
    with tarfile.open(PACKAGE) as tar:
        tar.extractall(directory / "source", filter="data")
    venv.create(directory / "venv", symlinks=True)
    site = next((directory / "venv").glob("lib/python*/site-packages"))
    libraries = [path for path in sys.path if path.endswith("-packages")]
    (site / "previous.pth").write_text("\n".join([str(directory / "source"), *libraries]) + "\n")
    command = directory / "venv" / "bin" / "reconcile"
    command.write_text(f"#!{command.with_name('python')} -P\nimport sys\nfrom reconciler.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    return command

"""The import rules of docs/architecture.md, held by a walk over the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "reconciler"
MODULES = sorted(ROOT.rglob("*.py"))

HOME = {
    "boto3": {"image/source.py"},
    "botocore": {"image/source.py"},
    "sqlmodel": {"registry.py", "tables.py"},
    "sqlalchemy": {"registry.py", "tables.py"},
    "watchfiles": {"hints.py"},
    "yaml": {"manifests.py"},
    "pydantic": {"documents.py"},
    "click": {"cli.py", *(f"verbs/{path.name}" for path in ROOT.glob("verbs/*.py"))},
    "rich": {"report.py"},
    "isal": {"image/codec.py"},
    "zstandard": {"image/codec.py"},
    "prometheus_client": {"metrics.py"},
    "opentelemetry": {"tracing.py"},
    "ctypes": {"pool/devmapper.py", "image/libc.py", "image/seccomp.py"},
    "subprocess": {"process.py"},
}
"""The one file that may import each third-party package, and the two standard ones that reach out of Python."""


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_each_third_party_package_has_one_home(path: Path) -> None:
    for module in imports(path):
        home = HOME.get(module.partition(".")[0])
        assert home is None or name(path) in home, f"{name(path)} imports {module}, which belongs to {home}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_declared_packages_are_imported(path: Path) -> None:
    known = set(sys.stdlib_module_names) | {"reconciler"} | set(HOME)

    assert {module.partition(".")[0] for module in imports(path)} <= known


def ours(path: Path) -> set[str]:
    """Modules of ours that a file imports; the package's own name and version are everybody's."""
    return {module for module in imports(path) if module.startswith("reconciler.")} - {"reconciler.__version__"}


def starts(modules: set[str], *prefixes: str) -> set[str]:
    return {module for module in modules if module.startswith(tuple(f"reconciler.{p}" for p in prefixes))}


@pytest.mark.parametrize("path", [p for p in MODULES if name(p).startswith("image/")], ids=name)
def test_images_know_no_hosts_pools_or_registries(path: Path) -> None:
    assert ours(path) == starts(ours(path), "image", "errors", "process")


@pytest.mark.parametrize("path", [p for p in MODULES if name(p).startswith("pool/")], ids=name)
def test_pools_know_no_images_manifests_or_runs(path: Path) -> None:
    assert ours(path) == starts(ours(path), "pool", "errors", "process")


def test_the_planner_is_pure() -> None:
    """It sees values only: no registry, no driver of its own, no clock, no file."""
    rooms = [ROOT / "plan.py", *(ROOT / "planner").glob("*.py")]
    modules = {module for path in rooms for module in imports(path)}

    assert not modules & {"os", "time", "pathlib", "socket", "threading", "random", "datetime"}
    assert starts(modules, "") <= starts(modules, "model", "image.spec", "pool.driver", "planner")


def test_the_engine_knows_neither_kernel_nor_s3() -> None:
    modules = ours(ROOT / "fsm.py") | ours(ROOT / "machine.py")

    assert modules <= starts(modules, "errors", "model", "machine")


def test_helping_and_completing_import_nothing_heavy() -> None:
    """``reconcile --help`` answers at once: what costs time is imported by the verb that needs it."""
    code = "import sys, reconciler.cli; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"boto3", "botocore", "sqlmodel", "sqlalchemy", "pydantic", "rich", "watchfiles", "yaml", "zstandard"} & set(
        loaded
    )


def test_files_stay_small() -> None:
    """One file, one idea. 400 lines is the point where a file asks to be split."""
    long = {name(p): n for p in MODULES if (n := len(p.read_text().splitlines())) > 450}

    assert not long

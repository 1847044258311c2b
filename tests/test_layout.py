"""The structure that docs/architecture.md describes: which package may import which, who owns each third-party package."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "reconciler"
MODULES = sorted(ROOT.rglob("*.py"))

SHARED = {"errors", "settings", "sizes", "process", "atomic_file", "policy", "backoff", "claim", "dataclass"}
"""Modules that every package may import; they import nothing of ours but each other."""

_DOMAIN = {"image", "pool", "model", "engine", "planner", "manifests", "registry"}

ALLOWED: Mapping[str, set[str]] = {
    "image": set(),
    "pool": set(),
    "model": {"image", "pool"},
    "engine": {"image", "model"},
    "planner": {"image", "pool", "model"},
    "manifests": {"image", "model"},
    "registry": {"image", "pool", "model", "engine"},
    "output": _DOMAIN,
    "telemetry": {*_DOMAIN, "output"},
    "host": {*_DOMAIN, "output", "telemetry"},
    "controller": {*_DOMAIN, "output", "telemetry", "host"},
    "status": {*_DOMAIN, "output", "telemetry", "host", "controller"},
    "api": {*_DOMAIN, "output", "telemetry", "host", "controller", "status"},
    "fleet": {*_DOMAIN, "output", "telemetry", "host", "controller", "status"},
    "cli": {*_DOMAIN, "output", "telemetry", "host", "controller", "status", "api", "fleet"},
}
"""What each package may import besides itself and ``SHARED``."""

HOME = {
    "boto3": {"image/source/s3_client.py"},
    "botocore": {"image/source/s3_client.py"},
    "sqlmodel": {"registry/tables.py", "fleet/tables.py"},
    "sqlalchemy": {"registry/tables.py", "fleet/tables.py", "fleet/migrate.py"},
    "alembic": {"fleet/migrate.py", *(f"fleet/migrations/{path}" for path in ("env.py", "versions/v0001_tables.py"))},
    "psycopg": {"fleet/sink.py"},
    "watchfiles": {"manifests/inotify.py"},
    "yaml": {"manifests/parser.py"},
    "pydantic": {"manifests/fields.py", "manifests/image.py", "manifests/pool.py", "manifests/host_file.py"},
    "click": {f"cli/{path.name}" for path in ROOT.glob("cli/*.py")},
    "rich": {"output/console.py"},
    "isal": {"image/archive/codec.py"},
    "google_crc32c": {"image/ext4/checksum.py"},
    "zstandard": {"image/archive/codec.py"},
    "prometheus_client": {"telemetry/metrics.py"},
    "opentelemetry": {"telemetry/tracing.py"},
    "ctypes": {"pool/thin/devmapper.py", "pool/thin/libdevmapper.py", "image/builder/libc.py", "image/builder/seccomp.py"},
    "subprocess": {"process.py"},
    "dataclasses": {"dataclass.py"},
}
"""The one place that may import each third-party package, and some of the standard library's."""


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, and each name taken from it, whether at the top, in a function or for type checking."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path: Path, root: Path = ROOT) -> str:
    return path.relative_to(root).as_posix()


def module_of(path: Path, root: Path) -> str:
    dotted = ".".join((root.name, *path.relative_to(root).with_suffix("").parts))
    return dotted.removesuffix(".__init__")


def package_of(module: str) -> str:
    """The top-level package or module of ours that ``module`` lies in; empty for the root package."""
    return module.split(".")[1] if "." in module else ""


def upward_imports(root: Path) -> list[str]:
    """Imports that the table doesn't allow, as ``file imports module``."""
    found = []
    for path in sorted(root.rglob("*.py")):
        own = package_of(module_of(path, root))
        allowed = SHARED if own in SHARED else SHARED | ALLOWED.get(own, set()) | {own}
        for module in imports(path):
            other = package_of(module) if module.startswith(f"{root.name}.") else ""
            if own and other and other != "__version__" and other not in allowed:
                found.append(f"{name(path, root)} imports {module}")
    return found


def module_cycle(root: Path) -> list[str]:
    """Modules that import each other, directly or through others; empty where there are none."""
    modules = {module_of(path, root): path for path in root.rglob("*.py")}
    graph = {}
    for module, path in modules.items():
        graph[module] = {one for one in imports(path) if one in modules and one not in (module, root.name)}
        graph[module] -= {one for one in graph[module] if modules[one].name == "__init__.py"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_packages_import_only_what_the_table_allows() -> None:
    assert not upward_imports(ROOT)


def test_no_two_modules_import_each_other() -> None:
    assert not module_cycle(ROOT)


def test_every_package_is_in_the_table() -> None:
    found = {package_of(module_of(path, ROOT)) for path in MODULES} - {""}

    assert found == SHARED | set(ALLOWED)


@pytest.mark.parametrize(
    ("planted", "importing"),
    [("pool/thin/planted.py", "reconciler.registry.reader"), ("image/planted.py", "reconciler.pool.driver")],
)
def test_an_import_across_the_table_is_found(tmp_path: Path, planted: str, importing: str) -> None:
    root = tmp_path / "reconciler"
    for path in (root / planted, root / "registry/reader.py", root / "pool/driver.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / planted).write_text(f"def late() -> None:\n    import {importing}\n")

    assert upward_imports(root) == [f"{planted} imports {importing}"]


def test_modules_that_import_each_other_are_found(tmp_path: Path) -> None:
    root = tmp_path / "reconciler"
    (root / "planner").mkdir(parents=True)
    (root / "planner/inputs.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from reconciler.planner import goals\n"
    )
    (root / "planner/goals.py").write_text("from reconciler.planner.inputs import Goal\n")

    assert set(module_cycle(root)) == {"reconciler.planner.inputs", "reconciler.planner.goals"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_each_third_party_package_has_one_home(path: Path) -> None:
    for module in imports(path):
        home = HOME.get(module.partition(".")[0])
        assert home is None or name(path) in home, f"{name(path)} imports {module}, which belongs to {home}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_declared_packages_are_imported(path: Path) -> None:
    known = set(sys.stdlib_module_names) | {"reconciler"} | set(HOME)

    assert {module.partition(".")[0] for module in imports(path)} <= known


def test_the_planner_is_pure() -> None:
    """No clock, no file, no driver: values only. ``plan_file`` alone touches the file that a plan is kept in."""
    for path in (ROOT / "planner").glob("*.py"):
        if path.name != "plan_file.py":
            assert not set(imports(path)) & {"os", "time", "pathlib", "socket", "threading", "random", "datetime"}, path.name


def test_help_and_completion_import_nothing_heavy() -> None:
    """``reconcile --help`` answers at once: what costs time is imported by the verb that needs it."""
    code = "import sys, reconciler.cli.main; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    heavy = {"boto3", "botocore", "sqlmodel", "sqlalchemy", "pydantic", "rich", "watchfiles", "yaml", "zstandard"}
    assert not heavy & set(loaded)


def loaded_by(*words: str) -> set[str]:
    """The modules that a command has loaded at its end."""
    code = (
        "import sys; from reconciler.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('loaded', *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout else set()


@pytest.mark.parametrize("words", [["plan"], ["list"]], ids=" ".join)
def test_verbs_that_carry_out_nothing_import_nothing_that_does(tmp_path: Path, words: list[str]) -> None:
    """``plan`` and ``list`` answer sooner without the builder, e2fsck, archives, the ext4 writer and thin pools."""
    spec = "{size: 16MiB, layers: [{source: /a.tar}]}"
    manifest = f"apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {{name: web}}\nspec: {spec}\n"
    (tmp_path / "web.yaml").write_text(manifest)
    loaded = loaded_by(*words, "-f", str(tmp_path), "--state", str(tmp_path / "state"))

    assert "reconciler.planner.plan" in loaded
    assert not loaded & {"boto3", "botocore", "sqlmodel", "sqlalchemy", "rich", "watchfiles", "zstandard"}
    acting = {
        "host.machines",
        "image.builder.parent",
        "image.archive.tar",
        "image.ext4.writer",
        "pool.thin.pool",
        "engine.engine",
    }
    assert not loaded & {f"reconciler.{module}" for module in acting}


@pytest.mark.parametrize("verb", [["--once"], ["plan"], ["list"]], ids=" ".join)
def test_verbs_without_actions_import_nothing_of_parsers_services_and_sources(tmp_path: Path, verb: list[str]) -> None:
    """What starts from a timer every minute pays for its imports each time."""
    (tmp_path / "manifests").mkdir()
    pool = "apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: files}\nspec: {file: {}}\n"
    (tmp_path / "manifests/pool.yaml").write_text(pool)
    (tmp_path / "host.yaml").write_text("labels: {role: web}\n")
    where = "-f", str(tmp_path / "manifests"), "--state", str(tmp_path / "state"), "--host-file", str(tmp_path / "host.yaml")
    loaded_by("--once", *where)  # makes the registry, and keeps what it has parsed
    loaded = loaded_by(*verb, *where)

    assert "reconciler.planner.plan" in loaded
    assert not loaded & {"pydantic", "yaml", "http.client", "ssl", "subprocess", "ctypes", "sqlalchemy"}
    acting = {"api.server", "controller.service", "host.machines", "image.ext4.layout", "image.source.remote", "engine.engine"}
    assert not loaded & {f"reconciler.{module}" for module in acting}


def test_a_run_that_only_creates_snapshots_imports_no_builder(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    with tarfile.open(tmp_path / "manifests/1.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    digest = hashlib.sha256((tmp_path / "manifests/1.tar").read_bytes()).hexdigest()
    where = "--once", "-f", str(tmp_path / "manifests"), "--state", str(tmp_path / "state")
    for count in (1, 2):
        spec = f"{{size: 16MiB, layers: [{{source: 1.tar, sha256: {digest}}}], snapshots: [{{name: web, count: {count}}}]}}"
        text = f"apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {{name: web}}\nspec: {spec}\n"
        (tmp_path / "manifests/web.yaml").write_text(text)
        loaded = loaded_by(*where)

    assert {"reconciler.host.machines", "reconciler.pool.file.pool"} <= loaded
    assert (tmp_path / "state/pools/default/snapshots/web-1.ext4").exists()
    assert not loaded & {"http.client", "ssl", "subprocess", "sqlalchemy"}
    building = {"builder.parent", "builder.editor", "e2fsck", "ext4.layout", "archive.tar", "oci.registry", "source.remote"}
    assert not loaded & {f"reconciler.image.{module}" for module in building}


def test_the_control_loop_stays_small() -> None:
    """A page that a new maintainer can follow: ten modules. What an invocation works on belongs to ``host``."""
    assert len([path for path in ROOT.glob("controller/*.py") if path.name != "__init__.py"]) <= 10


def test_files_stay_small() -> None:
    """One file, one idea: above 400 lines a file is split."""
    long = {name(path): count for path in MODULES if (count := len(path.read_text().splitlines())) > 400}

    assert not long


def test_no_function_is_long() -> None:
    """At most 50 lines, without its decorators."""
    functions = (
        (path, node)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lines = {f"{path.relative_to(ROOT)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1 for path, node in functions}
    assert {name: count for name, count in lines.items() if count > 50} == {}

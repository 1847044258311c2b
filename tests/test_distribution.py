"""Wheel and sdist: their content, their metadata, and the command that a wheel installs."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
JUNK = (
    ".quickstart/state/registry.db",
    "tests/__pycache__/junk.pyc",
    "tests/.hypothesis/junk",
    ".venv/bin/python",
    ".coverage",
    "build/junk",
)
GENERATED = ("PKG-INFO", "setup.cfg", "reconcile_images.egg-info/")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def files() -> set[str]:
    """What the repository has."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("the list of files comes from Git, and this is not a checkout")
    return {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(files: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a wheel and an sdist, built from a copy of the checkout that also has the junk of daily work."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for name in JUNK:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("junk")
    done = subprocess.run([sys.executable, "-m", "build", "--outdir", out, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr, done.stdout + done.stderr
    return out


def only(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_the_sdist_has_what_the_repository_has(built: Path, files: set[str]) -> None:
    with tarfile.open(only(built, "*.tar.gz")) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}

    assert {name for name in names if not name.startswith(GENERATED)} == files


def test_the_wheel_has_the_package_and_nothing_else(built: Path, files: set[str]) -> None:
    with zipfile.ZipFile(only(built, "*.whl")) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert names == {name for name in files if name.startswith("reconciler/")}


def test_the_metadata_names_the_licence_by_its_spdx_identifier(built: Path) -> None:
    wheel = only(built, "*.whl")

    fields = metadata(wheel)

    assert (fields["Name"], fields["License-Expression"], fields["License-File"]) == ("reconcile-images", "Apache-2.0", "LICENSE")
    assert {"demo", "otel", "test"} <= set(fields.get_all("Provides-Extra", []))
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = [name for name in archive.namelist() if name.endswith("/LICENSE")]
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_an_installed_wheel_has_the_command(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    bin_, (site,) = tmp_path / "venv" / "bin", (tmp_path / "venv").glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", bin_ / "python", "install", "--quiet", "--no-deps", only(built, "*.whl")]
    subprocess.run(pip, check=True, cwd=tmp_path)
    dependencies = [path for path in map(Path, sys.path) if path.name in ("site-packages", "dist-packages")]
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in dependencies))
    (tmp_path / "a.yaml").write_text("apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: default}\nspec: {file: {}}\n")
    where = "import reconciler, importlib.metadata as m; print(reconciler.__path__[0], m.version('reconcile-images'))"
    environment = {"PATH": os.defpath}

    def output(*words: str | Path) -> str:
        return subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    path, version = output(bin_ / "python", "-I", "-c", where).rsplit(maxsplit=1)
    assert path == str(site / "reconciler")
    assert output(bin_ / "reconcile", "--version").strip().endswith(version)
    assert "a.yaml" not in output(bin_ / "reconcile", "validate", "a.yaml")

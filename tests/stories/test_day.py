"""A day in the life of a host whose manifests are a Git repository: one running service lives through every commit of it."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml

from .layers import change, root
from .workshop import Running, Workshop

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
    pytest.mark.timeout(300),
]

BASE = root("base")
SETTINGS = ("user.name=Ann", "user.email=ann@example.org", "init.defaultBranch=main", "commit.gpgsign=false")
IDENTITY = [word for setting in SETTINGS for word in ("-c", setting)]
MANY = 300


class Repository:
    """What people push to; a host has a clone of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self("init", "-q")

    def __call__(self, *words: str, at: Path | None = None) -> str:
        command = ["git", *IDENTITY, "-C", str(at or self.path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def commit(self, message: str) -> None:
        self("add", "-A")
        self("commit", "-q", "-m", message)


class Day:
    """``wanted`` are the images that should be there, each with its snapshot."""

    def __init__(self, workshop: Workshop, service: Running, repository: Repository, clone: Path) -> None:
        self.workshop = workshop
        self.service = service
        self.repository = repository
        self.clone = clone

    def write(self, name: str, layers: Iterable[str] = ("base",), **more: object) -> None:
        spec = {"size": "16MiB", "layers": [{"source": str(self.workshop.layers / f"{layer}.tar")} for layer in layers]}
        document = {
            "apiVersion": "reconciler/v1alpha1",
            "kind": "Image",
            "metadata": {"name": name},
            "spec": spec | {"snapshots": [{"name": f"{name}-a"}]} | more,
        }
        (self.repository.path / f"{name}.yaml").write_text(yaml.safe_dump(document))

    def push(self, message: str) -> None:
        """Commit, and have the host pull it."""
        self.repository.commit(message)
        self.repository("fetch", "-q", at=self.clone)
        self.repository("reset", "-q", "--hard", "origin/main", at=self.clone)

    def holds(self, *names: str) -> None:
        self.until(lambda: self.there() == set(names), f"{sorted(names)}")

    def there(self) -> set[str]:
        return {path.name.removesuffix("-a.ext4") for path in self.workshop.snapshot("x").parent.glob("*-a.ext4")}

    def until(self, condition: Callable[[], object], what: str) -> None:
        self.service.until(condition, what, 60)

    def calm(self) -> None:
        """The service has seen what is in the clone now, and has nothing left to do."""
        self.until(lambda: "0 to change" in self.workshop.run("plan", "-f", str(self.clone)).stdout, "an empty plan")


@pytest.fixture
def day(workshop: Workshop) -> Iterable[Day]:
    for layer in (BASE, change("more", {"srv/more": b"more"})):
        workshop.keep(layer)
    repository = Repository(workshop.root / "origin")
    (repository.path / "pool.yaml").write_text(
        "apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: default}\nspec: {file: {}, reserve: {dataPercent: 0}}\n"
    )
    repository.commit("A pool")
    clone = workshop.root / "clone"
    repository("clone", "-q", str(repository.path), str(clone), at=workshop.root)
    link = workshop.root / "current"
    link.symlink_to(clone)
    service = workshop.start("-f", link, "--prune", "--prune-max", "50%", "--interval", "3600")
    found = Day(workshop, service, repository, clone)
    yield found
    assert service.signal(signal.SIGTERM).wait().code == 143


def test_a_day_of_commits(day: Day) -> None:
    write, push, repository = day.write, day.push, day.repository

    for name in ("web", "db", "cache"):
        write(name)
    push("Three images")
    day.holds("web", "db", "cache")

    write("web", ("base", "more"))
    write("mail")
    push("One more, and another version of web")
    day.holds("web", "db", "cache", "mail")

    # A branch with hundreds of files is checked out, and back: whatever is there half-way is never taken for what is wanted.
    repository("checkout", "-q", "-b", "many")
    for number in range(MANY):
        write(f"filler-{number:03}", suspend=True)
    push("Hundreds of images that are suspended")
    repository("checkout", "-q", "main")
    repository("fetch", "-q", at=day.clone)
    repository("checkout", "-q", "-f", "origin/many", at=day.clone)
    day.calm()
    repository("checkout", "-q", "-f", "origin/main", at=day.clone)
    day.calm()
    day.holds("web", "db", "cache", "mail")

    # Somebody breaks a file, and removes another in the same commit: nothing of either goes.
    (repository.path / "db.yaml").write_text("kind: Imagine\n")
    (repository.path / "cache.yaml").unlink()
    write("search")
    push("Broken")
    day.holds("web", "db", "cache", "mail", "search")

    # Reverted, and the removal is meant.
    write("db")
    push("Mended")
    day.holds("web", "db", "mail", "search")

    # All but one go by mistake: more than the service may prune at once is refused as a whole.
    for number in range(6):
        write(f"extra-{number}")
    push("Six more")
    day.holds("web", "db", "mail", "search", *(f"extra-{number}" for number in range(6)))
    for path in repository.path.glob("*.yaml"):
        if path.name not in ("pool.yaml", "web.yaml"):
            path.unlink()
    push("Mass deletion")
    day.until(lambda: day.workshop.run("--once", "-f", str(day.clone)).code == 75, "the lock is the service's")
    assert len(day.there()) == 10
    repository("revert", "--no-edit", "HEAD")
    push_again(day)
    assert len(day.there()) == 10

    # A file is renamed: its image is the same one.
    before = day.workshop.snapshot("web-a").stat().st_ino
    (repository.path / "web.yaml").rename(repository.path / "frontend.yaml")
    push("Renamed")
    day.calm()
    assert day.workshop.snapshot("web-a").stat().st_ino == before

    # History is rewritten under the host.
    repository("reset", "-q", "--hard", "HEAD~2")
    write("forced")
    repository.commit("Another past")
    push_again(day)
    day.until(lambda: "forced" in day.there(), "the image of the other past")


def push_again(day: Day) -> None:
    """What is committed already."""
    day.repository("fetch", "-q", at=day.clone)
    day.repository("reset", "-q", "--hard", "origin/main", at=day.clone)


def test_a_directory_that_git_sync_swaps_is_followed(day: Day) -> None:
    """Each revision has a directory of its own; a link is moved from one to the next in one step."""
    day.write("web")
    day.push("One")
    day.holds("web")
    second = day.workshop.root / "second"
    shutil.copytree(day.clone, second)
    day.write("db")
    shutil.copy(day.repository.path / "db.yaml", second)
    (day.workshop.root / "next").symlink_to(second)
    (day.workshop.root / "next").rename(day.workshop.root / "current")

    day.holds("web", "db")

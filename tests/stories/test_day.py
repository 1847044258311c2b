"""A day in the life of a host whose manifests are a Git repository: one running service lives through every commit of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml

from tests.support import policy

from .layers import change, root
from .workshop import Running, Workshop

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
    pytest.mark.timeout(600),
]

SETTINGS = ("user.name=Ann", "user.email=ann@example.org", "init.defaultBranch=main", "commit.gpgsign=false", "gc.auto=0")
IDENTITY = [word for setting in SETTINGS for word in ("-c", setting)]
MANY = 300
GRACE = 3
PAUSE = 0.02
"""Seconds that Git takes for a file of a slow checkout: six for all, while the service reads once nothing has changed for 0.3."""
SLOW = ("-c", f"filter.slow.smudge=sleep {PAUSE}; cat")


def git(at: Path, *words: str) -> str:
    done = subprocess.run(["git", *IDENTITY, "-C", str(at), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


class Day:
    """``desk`` is where people work, ``origin`` what they push to, ``clone`` the host's; ``current`` leads to what it reads."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.origin, self.desk, self.clone, self.current = (
            workshop.root / name for name in ("origin.git", "desk", "clone", "current")
        )
        self.metrics = workshop.root / "metrics"
        self.host = workshop.root / "host.yaml"
        self.running: Running | None = None
        self.inodes: dict[str, int] = {}

    # ------------------------------------------------------------------------------------------------------ people

    def write(self, name: str, layers: Iterable[str] = ("base",), **more: object) -> None:
        spec = {"size": "16MiB", "layers": [{"source": str(self.workshop.layers / f"{layer}.tar")} for layer in layers]}
        document = {
            "apiVersion": "reconciler/v1alpha1",
            "kind": "Image",
            "metadata": {"name": name},
            "spec": spec | {"snapshots": [{"name": f"{name}-a"}]} | more,
        }
        (self.desk / f"{name}.yaml").write_text(yaml.safe_dump(document))

    def push(self, message: str, *words: str) -> None:
        git(self.desk, "add", "-A")
        git(self.desk, "commit", "-q", "--allow-empty", "-m", message)
        git(self.desk, "push", "-q", *words, "origin", "HEAD")

    # ------------------------------------------------------------------------------------------------------ the host

    def rests(self) -> bool:
        """Whether the service has printed nothing for a while: what it did is done and reported."""
        before = self.service.said()
        time.sleep(1.5)
        return self.service.said() == before

    def pull(self, branch: str = "main", *options: str) -> None:
        """As a timer does it that takes whatever is there, and fears no rewritten history."""
        git(self.clone, "fetch", "-q", "origin")
        git(self.clone, *options, "checkout", "-q", "-f", "--detach", f"origin/{branch}")

    def flip(self) -> None:
        """As git-sync does it: a work tree for the revision, and a link that is moved to it in one step."""
        git(self.clone, "fetch", "-q", "origin")
        tree = self.workshop.root / f"rev-{git(self.clone, 'rev-parse', 'origin/main')}"
        git(self.clone, "worktree", "add", "-q", "--detach", str(tree), "origin/main")
        self.lead_to(tree)

    def lead_to(self, tree: Path) -> None:
        (self.workshop.root / "next").symlink_to(tree)
        (self.workshop.root / "next").rename(self.current)

    def start(self) -> None:
        options = ("--prune", "--prune-max", "50%", "--prune-grace", f"{GRACE}s", "--interval", "3600")
        self.running = self.workshop.start(*options, "-f", self.current, "--metrics-file", self.metrics)

    @property
    def service(self) -> Running:
        assert self.running is not None
        return self.running

    # ------------------------------------------------------------------------------------------------------ checks

    def there(self) -> dict[str, int]:
        """The inode of each image's snapshot: another one where it was made anew."""
        directory = self.workshop.snapshot("x").parent
        if not directory.exists():
            return {}
        with os.scandir(directory) as found:
            return {one.name.removesuffix("-a.ext4"): one.inode() for one in found if one.name.endswith("-a.ext4")}

    def until(self, condition: Callable[[], object], what: str) -> None:
        try:
            self.service.until(condition, what, 120)
        except AssertionError as error:
            raise AssertionError(
                f"{error}; there are {sorted(self.there())}, and the service said\n{self.service.said()}"
            ) from None

    def follows(self) -> None:
        """The service has looked at everything as it is at the commit that is checked out."""
        head = git(self.current, "rev-parse", "HEAD")[:12]
        self.until(lambda: self.metrics.exists() and f'revision="git:{head}"' in self.metrics.read_text(), f"a pass at {head}")

    def holds(self, *names: str) -> None:
        """These images, and those that were there before have not been touched."""
        self.follows()
        self.until(lambda: self.there().keys() == set(names), f"{sorted(names)}")
        self.keeps()

    def keeps(self) -> None:
        """Nothing of what was there has gone, or has been made anew."""
        now = self.there()
        kept = {name: inode for name, inode in self.inodes.items() if name in now}
        assert {name: now[name] for name in kept} == kept
        self.inodes = now

    def still_holds(self, *names: str) -> None:
        """Also when whatever might be pruned could have been."""
        self.follows()
        time.sleep(GRACE + 2)
        assert self.there().keys() == set(names)
        self.keeps()

    def said(self, words: str, times: int = 1) -> None:
        self.until(lambda: self.service.said().count(words) >= times, f"{words!r} being said")


@pytest.fixture
def day(workshop: Workshop) -> Iterable[Day]:
    workshop.env["RECONCILER_HOST_FILE"] = str(workshop.root / "host.yaml")
    for layer in (root("base"), change("more", {"srv/more": b"more"})):
        workshop.keep(layer)
    found = Day(workshop)
    policy.write(found.host, "name: web-1\nlabels: {role: web}\n")
    git(workshop.root, "init", "-q", "--bare", str(found.origin))
    git(workshop.root, "clone", "-q", str(found.origin), str(found.desk))
    pool = "apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: default}\nspec: {file: {}, reserve: {dataPercent: 0}}\n"
    (found.desk / "pool.yaml").write_text(pool)
    (found.desk / ".gitattributes").write_text("filler-*.yaml filter=slow\n")
    found.push("A pool")
    yield found
    if found.running is not None:
        assert found.service.signal(signal.SIGTERM).wait().code == 143


def test_a_day_of_commits(day: Day) -> None:
    # The host is there before its manifests are: a directory that is missing wants nothing, and is no reason to end.
    for name in ("web", "db", "cache"):
        day.write(name)
    day.push("Three images")
    git(day.workshop.root, "clone", "-q", str(day.origin), str(day.clone))
    day.lead_to(day.clone)
    day.start()
    day.holds("web", "db", "cache")

    # A commit: one image more, and another version of one whose snapshot stays as its user has it.
    day.write("web", ("base", "more"))
    day.write("mail")
    day.push("One more, and another version of web")
    day.pull()
    day.holds("web", "db", "cache", "mail")
    created = 'reconcile_actions_total{action="create",kind="Snapshot"} 4.0'
    day.service.until(lambda: created in day.metrics.read_text(), "the metrics of it")

    # Another branch is checked out, with three hundred files more, two less and one changed, so slowly that a service which
    # believed what it sees half-way would act on it; and back.
    git(day.desk, "checkout", "-q", "-b", "many")
    for number in range(MANY):
        day.write(f"filler-{number:03}", suspend=True)
    for name in ("cache", "mail"):
        (day.desk / f"{name}.yaml").unlink()
    day.write("zebra")
    day.push("Hundreds of images that are suspended")
    git(day.desk, "checkout", "-q", "main")
    day.service.until(day.rests, "its last recap")
    passes = day.service.said().count("RECAP")
    began = time.monotonic()
    day.pull("many", *SLOW)
    assert time.monotonic() - began > MANY * PAUSE, "Git has taken its time"
    assert day.service.said().count("RECAP") == passes, "nothing was done while it did"
    assert day.there() == day.inodes
    day.follows()
    day.until(lambda: "zebra" in day.there(), "the image of the branch")
    day.pull()
    day.holds("web", "db", "cache", "mail")

    # Somebody breaks a file, and removes another in the same commit: nothing of either goes, what is new is made.
    (day.desk / "db.yaml").write_text("kind: Imagine\n")
    (day.desk / "cache.yaml").unlink()
    day.write("search")
    day.push("Broken")
    day.pull()
    day.said("2 faults in the manifests: 1 file stays")
    day.still_holds("web", "db", "cache", "mail", "search")

    # The revert brings the removed file back with the broken one, and takes what was new away again, which is meant.
    git(day.desk, "revert", "--no-edit", "HEAD")
    day.push("Reverted")
    day.pull()
    day.holds("web", "db", "cache", "mail")

    # A typo in a selector: no host is meant any more. It is seen, and mended before the grace is over.
    day.write("db", hosts={"matchLabels": {"role": "wbe"}})
    day.push("Only for web hosts")
    day.pull()
    day.follows()
    git(day.desk, "revert", "--no-edit", "HEAD")
    day.push("Not so")
    day.pull()
    day.still_holds("web", "db", "cache", "mail")

    # A typo in the host's own labels: nothing is pruned in the pass that finds it, and it is said.
    day.write("db", hosts={"matchLabels": {"role": "web"}})
    day.push("Only for web hosts, this time")
    day.pull()
    day.still_holds("web", "db", "cache", "mail")
    policy.write(day.host, "name: web-1\nlabels: {role: wbe}\n")
    day.said("the labels of this host have changed")
    policy.write(day.host, "name: web-1\nlabels: {role: web}\n")
    day.still_holds("web", "db", "cache", "mail")

    # All but one go by mistake: more than may go at once is refused as a whole, and said.
    more = [f"extra-{number}" for number in range(6)]
    for name in more:
        day.write(name)
    day.push("Six more")
    day.pull()
    day.holds("web", "db", "cache", "mail", *more)
    for path in day.desk.glob("*.yaml"):
        if path.name not in ("pool.yaml", "web.yaml"):
            path.unlink()
    day.push("Mass deletion")
    day.pull()
    day.said("nothing is pruned: --prune would remove 9 of 10 images")
    day.still_holds("web", "db", "cache", "mail", *more)

    # And every one, which is refused whatever the bound.
    (day.desk / "web.yaml").unlink()
    day.push("Everything")
    day.pull()
    day.said("declares no image")
    day.still_holds("web", "db", "cache", "mail", *more)
    git(day.desk, "revert", "--no-edit", "HEAD~1..HEAD")
    git(day.desk, "revert", "--no-edit", "HEAD~2")
    day.push("Both reverted")
    day.pull()
    day.still_holds("web", "db", "cache", "mail", *more)

    # A file is renamed, and its image is the same; another image is renamed, and its snapshot changes hands.
    (day.desk / "web.yaml").rename(day.desk / "frontend.yaml")
    text = (day.desk / "mail.yaml").read_text()
    (day.desk / "post.yaml").write_text(text.replace("name: mail\n", "name: post\n"))
    (day.desk / "mail.yaml").unlink()
    day.push("Renamed")
    day.pull()
    day.still_holds("web", "db", "cache", "mail", *more)
    assert {one["name"] for one in day.workshop.run("list", "-o", "json").json["images"]} == {"web", "db", "cache", "post", *more}

    # The host is moved from pulling to git-sync: a link is flipped to a work tree of the next revision, and to the one after.
    day.write("synced")
    day.push("For git-sync")
    day.flip()
    day.holds("web", "db", "cache", "mail", "synced", *more)
    (day.desk / "synced.yaml").unlink()
    day.push("Withdrawn")
    day.flip()
    day.holds("web", "db", "cache", "mail", *more)

    # History is rewritten: the commits since the renaming have never been.
    git(day.desk, "reset", "-q", "--hard", "HEAD~3")
    assert (day.desk / "web.yaml").exists()
    for name in more[:3]:
        (day.desk / f"{name}.yaml").unlink()
    day.write("forced")
    day.push("Another past", "--force")
    day.flip()
    day.holds("web", "db", "cache", "mail", "forced", *more[3:])
    day.until(lambda: "0 to change" in day.workshop.run("plan", "-f", day.current, "--prune").stdout, "nothing left to do")


def test_nothing_is_made_of_a_checkout_that_never_ends(day: Day) -> None:
    """Git was killed in the middle, and its lock stays: what it left is no commit, and a minute is waited before it is read."""
    for name in ("web", "db"):
        day.write(name)
    day.push("Two")
    git(day.workshop.root, "clone", "-q", str(day.origin), str(day.clone))
    day.lead_to(day.clone)
    day.start()
    day.holds("web", "db")

    (day.clone / ".git" / "index.lock").touch()
    (day.clone / "db.yaml").unlink()
    shutil.copy(day.clone / "web.yaml", day.clone / "half.yaml")
    time.sleep(GRACE + 3)
    assert day.there() == day.inodes
    assert not re.search("faults", day.service.said())

    git(day.clone, "clean", "-qfd")
    (day.clone / ".git" / "index.lock").unlink()
    git(day.clone, "checkout", "-q", "-f", "HEAD")
    day.still_holds("web", "db")

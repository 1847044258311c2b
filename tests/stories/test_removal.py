"""What is no longer declared goes only when somebody says so, and never because manifests could not be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from .layers import change, root
from .workshop import Workshop, WorkshopAt, cat, contents, inventory

BASE = root("base")


@pytest.fixture(scope="module")
def converged(tmp_path_factory: pytest.TempPathFactory, workshop_at: WorkshopAt) -> Workshop:
    """Two images of their own and a third with the same layers as the first."""
    workshop = workshop_at(tmp_path_factory.mktemp("converged") / "workshop")
    workshop.image("web", [BASE, change("web-top", {"srv/web": b"1"})])
    workshop.image("db", [BASE, change("db-top", {"srv/db": b"1"})])
    workshop.image("twin", [BASE, change("web-top", {"srv/web": b"1"})])
    workshop.converge()
    return workshop


@pytest.fixture
def host(converged: Workshop, tmp_path: Path) -> Workshop:
    return converged.copy(tmp_path / "host")


def test_a_withdrawn_image_is_kept_until_it_is_pruned(host: Workshop) -> None:
    """`plan` shows the removal as held, `--once` keeps every file, `--once --prune` removes what is no longer wanted."""
    before = host.holdings()
    host.withdraw("db")

    held = host.plan()["held"]
    kept = host.once("-o", "json").expect(0).json

    assert {(a["verb"], a["kind"], a["name"]) for a in held} >= {("remove", "Snapshot", "db-a")}
    assert any(a["kind"] == "Volume" for a in held)
    assert kept["changed"] == 0
    assert host.holdings() == before
    host.run("plan", "--detailed-exitcode").expect(0).words("held", "snapshot/db-a", "--prune")
    host.once().expect(0).words("held", "db-a")

    pruned = host.once("--prune", "--detailed-exitcode").expect(2)

    assert "pruned=0" not in pruned.stdout
    assert not host.snapshot("db-a").exists()
    assert len(host.volumes) == len(contents(host.volumes))
    assert host.plan()["held"] == []
    assert [image["name"] for image in host.run("list", "-o", "json").json["images"]] == ["twin", "web"]
    host.settled()


def test_the_last_images_are_pruned_beside_a_suspended_placeholder(host: Workshop) -> None:
    """`--prune` refuses an empty set of manifests. A suspended image is declared and never built, so docs/service.md names it."""
    for name in ("web", "db", "twin"):
        host.withdraw(name)
    host.once("--prune").expect(5).words("declares no image")
    host.image("placeholder", [BASE], snapshots=[], suspend=True)

    host.once("--prune").expect(0)

    assert contents(host.volumes) == {}
    host.withdraw("placeholder")
    assert host.plan()["held"] == []
    assert host.run("list", "-o", "json").expect(0).json["images"] == []


def test_volumes_that_others_need_survive_a_prune(host: Workshop) -> None:
    """The base that two images share goes with the last of them."""
    shared = host.volumes
    host.withdraw("twin")

    host.once("--prune").expect(0)

    assert not host.snapshot("twin-a").exists()
    assert host.volumes == shared, "web is made of the very same volume"
    assert cat(host.snapshot("web-a"), "/srv/web") == b"1"
    host.withdraw("web")
    host.once("--prune").expect(0)
    assert len(host.volumes) < len(shared)
    assert cat(host.snapshot("db-a"), "/srv/db") == b"1"
    host.settled()


def test_a_withdrawn_snapshot_goes_alone(host: Workshop) -> None:
    """Taking one snapshot out of an image prunes that one, and nothing that is left."""
    host.image("db", [BASE, change("db-top", {"srv/db": b"1"})], snapshots=[])
    volumes = host.volumes

    host.once("--prune").expect(0)

    assert not host.snapshot("db-a").exists()
    assert host.volumes == volumes
    host.settled()


def test_retain_keeps_what_is_no_longer_declared(host: Workshop) -> None:
    """With `deletionPolicy: Retain` even `--prune` leaves volume and snapshot; declared again, the image is as it was."""
    layers = [BASE, change("db-top", {"srv/db": b"1"})]
    host.image("db", layers, deletionPolicy="Retain")
    host.once().expect(0)
    before = host.holdings()
    host.withdraw("db")

    host.once("--prune").expect(0)
    host.once("--prune").expect(0)

    assert host.holdings() == before
    host.run("plan").words("db", "Retain")
    host.image("db", layers, deletionPolicy="Retain")
    host.once("--detailed-exitcode").expect(0)


def test_an_empty_set_is_never_pruned(host: Workshop) -> None:
    """No image declared at all is far more often a mistake than a wish: exit 5, and nothing is removed."""
    for name in ("web", "db", "twin"):
        host.withdraw(name)
    before = host.holdings()

    host.once("--prune").expect(5).words("declares no image", "3")
    host.run("plan", "--prune").expect(5)

    assert host.holdings() == before
    host.once().expect(0)
    assert host.holdings() == before


def test_a_missing_directory_of_manifests_is_not_an_empty_one(host: Workshop) -> None:
    """A directory that isn't there, a file that can't be read: exit 4, nothing removed."""
    before = inventory(host.state)
    elsewhere = host.root / "elsewhere"

    host.once("--prune", "-f", str(elsewhere)).expect(4).words(str(elsewhere))
    (host.manifests / "web.yaml").unlink()
    (host.manifests / "web.yaml").symlink_to("nowhere.yaml")
    host.once("--prune").expect(4).words("web.yaml")

    assert inventory(host.state) == before


def test_a_snapshot_in_use_is_not_removed(host: Workshop) -> None:
    """What a microVM still holds open stays; the run says by whom it is held and fails, and goes on with the rest."""
    host.withdraw("db")
    with host.snapshot("db-a").open("r+b"):
        done = host.run("--once", "--prune", "--timeout", "1", "-o", "json")
    assert done.code in (1, 6), done
    assert host.snapshot("db-a").exists()
    host.once("--prune").expect(0)
    assert not host.snapshot("db-a").exists()

"""Verbs that look: one object in full, what happened, the runs, what is wrong. In tables and in JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from .layers import change, noise, root
from .workshop import Workshop, WorkshopAt, inventory

Conforms = Callable[[str, Any], None]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, workshop_at: WorkshopAt) -> Workshop:
    """One image that is ready, one that has failed."""
    workshop = workshop_at(tmp_path_factory.mktemp("looking"))
    workshop.image("web", [root("base"), change("app", {"srv/app": b"v1"})], labels={"team": "web"})
    workshop.image("bad", [root("cut", {"srv/app": noise(50_000)}).truncated()])
    workshop.once().expect(1)
    return workshop


@pytest.fixture(autouse=True)
def _only_looks(host: Workshop) -> Any:
    """None of these verbs touches the state directory."""
    before = inventory(host.state)
    yield
    assert inventory(host.state) == before


def test_describe_tells_all_of_an_image(host: Workshop, conforms: Conforms) -> None:
    """What is declared and where, what is there, its runs and events."""
    told = host.run("describe", "image/web", "-o", "json").expect(0)

    conforms("describe", told.json)
    assert told.json["phase"] == "Ready"
    assert told.json["declared"]["labels"] == {"team": "web"}
    assert "web.yaml:" in told.json["declared"]["where"]
    host.run("describe", "image/web").expect(0).words("web.yaml", "Ready", "team", str(host.snapshot("web-a")))


def test_describe_tells_all_of_a_volume_and_a_snapshot(host: Workshop, conforms: Conforms) -> None:
    """Volumes answer to the beginning of their chain."""
    snapshot = host.run("describe", "snapshot/web-a", "-o", "json").expect(0)
    volume = host.run("describe", f"volume/{snapshot.json['chain'][:12]}", "-o", "json").expect(0)

    conforms("describe", snapshot.json)
    conforms("describe", volume.json)
    assert volume.json["chain"] == snapshot.json["chain"]
    assert [run["status"] for run in volume.json["runs"]] == ["done"]
    assert any(event["reason"] for event in volume.json["events"])


def test_describe_says_why_an_image_failed(host: Workshop) -> None:
    """The reason of the last failure is part of the picture."""
    host.run("describe", "image/bad").expect(0).words("Failed", "LayerCorrupt")


def test_an_unknown_object_is_a_wrong_use(host: Workshop) -> None:
    """With a hint where to look."""
    host.run("describe", "image/nobody").expect(64).words("nobody", "reconcile list")


def test_events_tell_what_happened_in_order(host: Workshop, conforms: Conforms) -> None:
    """Oldest first; of everything, or of one object; not more than asked for."""
    everything = host.run("events", "-o", "json").expect(0)
    one = host.run("events", "snapshot/web-a", "-o", "json").expect(0)
    newest = host.run("events", "--limit", "2", "-o", "json").expect(0)

    for told in (everything, one, newest):
        conforms("events", told.json)
    numbers = [event["seq"] for event in everything.json["events"]]
    assert numbers == sorted(numbers)
    assert {event["name"] for event in one.json["events"]} == {"web-a"}
    assert newest.json["events"] == everything.json["events"][-2:]
    host.run("events").expect(0).words("snapshot/web-a", "LayerCorrupt")


def test_runs_tell_each_step_of_a_state_machine(host: Workshop, conforms: Conforms) -> None:
    """All runs in a list, one of them with its transitions: the states that the design names."""
    everything = host.run("runs", "-o", "json").expect(0)
    conforms("runs", everything.json)
    done = [run for run in everything.json["runs"] if run["machine"] == "volume" and run["status"] == "done"]

    one = host.run("runs", done[0]["id"], "-o", "json").expect(0)

    conforms("runs", one.json)
    (run,) = one.json["runs"]
    reached = [step["to_state"] for step in run["transitions"] if step["result"] == "advanced"]
    assert reached == ["downloading", "validating", "provisioning", "ready"]
    assert {run["status"] for run in everything.json["runs"]} == {"done", "failed"}
    host.run("runs").expect(0).words("volume", "failed", "LayerCorrupt")
    host.run("runs", done[0]["id"]).expect(0).words("downloading -> validating")
    host.run("runs", "nonsense").expect(64)


def test_list_shows_one_kind_at_a_time(host: Workshop) -> None:
    """`list images`, `list snapshot`, `list Volume`: as people type them."""
    assert [i["name"] for i in host.run("list", "images", "-o", "json").json["images"]] == ["bad", "web"]
    assert [s["name"] for s in host.run("list", "snapshot", "-o", "json").json["snapshots"]] == ["web-a"]
    assert host.run("list", "Volume", "-o", "json").json["volumes"]
    host.run("list", "images").expect(0).words("bad", "Failed", "web", "Ready")


def test_health_names_what_is_wrong_and_what_to_do(host: Workshop, conforms: Conforms) -> None:
    """A failed image is a warning, not a sick host."""
    told = host.run("health", "-o", "json").expect(0)

    conforms("checks", told.json)
    assert told.json["healthy"]
    warnings = [check for check in told.json["checks"] if check["level"] == "warn"]
    assert any(check["reason"] == "LayerCorrupt" and "the last run failed" in check["message"] for check in warnings)
    host.run("health").expect(0).words("registry", "pool", "default")


def test_verify_checks_each_file_system_against_the_registry(host: Workshop, conforms: Conforms) -> None:
    """All is well: exit 0; of one image or of all."""
    told = host.run("verify", "-o", "json").expect(0)

    conforms("checks", told.json)
    assert told.json["healthy"]
    assert {check["name"] for check in told.json["checks"]} >= {"volume", "snapshot"}
    host.run("verify", "web").expect(0).words("web-a")
    host.run("verify", "nobody").expect(64).words("nobody")


def test_verify_finds_what_was_changed_behind_the_reconcilers_back(host: Workshop, tmp_path: Path, conforms: Conforms) -> None:
    """A damaged base and a missing snapshot: exit 1, each by name, and nothing is written."""
    spoilt = host.copy(tmp_path / "spoilt")
    path = spoilt.volumes[-1]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: 1 << 20])
    spoilt.snapshot("web-a").unlink()
    before = inventory(spoilt.state)

    told = spoilt.run("verify", "-o", "json").expect(1)

    conforms("checks", told.json)
    assert {check["name"] for check in told.json["checks"] if check["level"] == "fail"} == {"volume", "snapshot"}
    assert inventory(spoilt.state) == before


def test_graph_draws_what_stands_on_what(host: Workshop) -> None:
    """As text, as a picture that a browser can show, and as nodes for other tools; what has failed is marked."""
    drawn = host.run("graph").expect(0).stdout
    nodes = {node["key"]: node for node in host.run("graph", "-o", "json").expect(0).json["nodes"]}
    picture = ElementTree.fromstring(host.run("graph", "--svg").expect(0).stdout)

    snapshots = [node for node in nodes.values() if node["kind"] == "snapshot"]
    assert {node["pool"] for node in nodes.values() if node["kind"] in ("snapshot", "volume")} == {"default"}
    assert snapshots
    for node in snapshots:
        image = nodes[node["below"]]
        assert nodes[image["below"]]["kind"] == "volume"
        assert f"snapshot {node['name']}" in drawn
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    boxes = picture.findall(".//{http://www.w3.org/2000/svg}g")
    assert len(boxes) == len(nodes)
    assert "image bad  Failed  !" in drawn

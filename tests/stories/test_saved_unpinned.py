"""Saved plans of layers without a digest: resolved without fetching, and carried out only while the sources hold the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.origin import Origin, failure

from .layers import Layer, root
from .workshop import Workshop, cat, inventory

FIRST, SECOND = root("web", {"srv/which": b"1"}), root("web", {"srv/which": b"2"})


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def host(workshop: Workshop, origin: Origin) -> Workshop:
    """An image of one unpinned layer, which no run has fetched yet."""
    workshop.pool()
    origin.put(FIRST.data, "layers/web.tar")
    declare(workshop, origin)
    return workshop


def declare(host: Workshop, origin: Origin, name: str = "web", size: str = "16MiB", **spec: Any) -> None:
    body = {
        "size": size,
        "layers": [{"source": "s3://layers/web.tar"}],
        "s3": {"endpointUrl": origin.endpoint, "region": "us-east-1", "anonymous": True},
        "snapshots": [{"name": f"{name}-a"}],
    }
    document = {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": {"name": name}, "spec": body | spec}
    host.declare(name, document)


def plan_of(host: Workshop) -> Path:
    return host.root / "plan.json"


def replaced(origin: Origin, layer: Layer, etag: str = "") -> None:
    """Other bytes, under a new ETag unless one is given."""
    origin.put(layer.data, "layers/web.tar", etag=etag)


def test_a_layer_that_was_never_seen_is_not_saved_and_not_fetched(host: Workshop, origin: Origin) -> None:
    refused = host.run("plan", "--out", plan_of(host)).expect(5)

    refused.words("s3://layers/web.tar", "--fetch", "reconcile pin")
    assert not plan_of(host).exists() and not origin.gets()
    assert not host.state.exists()


def test_fetch_resolves_into_the_spool_and_builds_nothing(host: Workshop, origin: Origin) -> None:
    host.run("plan", "--out", plan_of(host), "--fetch").expect(0).words("build", "snapshot/web-a")
    assert (host.spool / FIRST.sha256).exists()
    assert not host.volumes
    origin.asked = []

    host.run("apply", plan_of(host)).expect(0)

    assert cat(host.snapshot("web-a"), "/srv/which") == b"1"
    assert not origin.gets(), "the spool has the layer"
    host.settled()


def test_fetch_is_for_plans_that_are_saved(host: Workshop) -> None:
    host.run("plan", "--fetch").expect(64).words("--out")


def test_a_layer_that_cannot_be_fetched_is_reported_and_no_plan_is_written(host: Workshop, origin: Origin) -> None:
    """Its server answers look-ups only."""
    origin.script = lambda asked: failure(403, "AccessDenied") if asked.method == "GET" else None

    host.run("plan", "--out", plan_of(host), "--fetch").expect(1).words("s3://layers/web.tar")

    assert not plan_of(host).exists()


def test_a_layer_that_was_seen_is_resolved_by_its_etag(host: Workshop, origin: Origin) -> None:
    """Another image of the same layer: a HEAD is all that `plan` asks for, and `apply` builds exactly that."""
    host.once().expect(0)
    declare(host, origin, "large", "32MiB")
    origin.asked = []

    host.run("plan", "--out", plan_of(host)).expect(0)

    assert {asked.method for asked in origin.asked} == {"HEAD"}
    saved = json.loads(plan_of(host).read_text())
    assert {layer["sha256"] for one in saved["actions"] for layer in one["layers"]} == {FIRST.sha256}
    host.run("apply", plan_of(host)).expect(0)
    assert cat(host.snapshot("large-a"), "/srv/which") == b"1"


def test_content_that_changes_between_plan_and_apply_makes_the_plan_stale(host: Workshop, origin: Origin) -> None:
    host.run("plan", "--out", plan_of(host), "--fetch").expect(0)
    replaced(origin, SECOND)

    refused = host.run("apply", plan_of(host)).expect(5)

    refused.words("stale", "what s3://layers/web.tar")
    assert not host.volumes
    host.run("show", plan_of(host)).expect(0).words("what s3://layers/web.tar")


def test_other_bytes_under_the_same_etag_are_never_built(host: Workshop, origin: Origin) -> None:
    """Only fetching shows it: the image fails, the rest of the plan is carried out, and nothing else is made in its place."""
    replaced(origin, FIRST, etag="same")
    host.once().expect(0)
    declare(host, origin, "large", "32MiB")
    host.image("local", [root("base")])
    host.run("plan", "--out", plan_of(host)).expect(0)
    replaced(origin, SECOND, etag="same")

    done = host.run("apply", plan_of(host), "-o", "json").expect(1)

    [failed] = [one for one in done.json["objects"] if one["kind"] == "Volume" and one["phase"] == "Failed"]
    assert "sha256" in failed["message"]
    assert done.object("Image", "large")["phase"] != "Ready"
    assert not host.snapshot("large-a").exists()
    assert host.snapshot("local-a").exists()
    assert cat(host.snapshot("web-a"), "/srv/which") == b"1"


@pytest.mark.parametrize("edit", ["cut", "edited", "older", "elsewhere"])
def test_a_file_that_is_not_the_plan_that_was_made_here_is_refused(host: Workshop, edit: str) -> None:
    host.run("plan", "--out", plan_of(host), "--fetch").expect(0)
    text = plan_of(host).read_text()
    before = inventory(host.state)
    code, word, env = 64, "damaged", {}
    if edit == "cut":
        text, word = text[: len(text) // 2], "is not a plan"
    elif edit == "edited":
        text = text.replace('"verb": "create"', '"verb": "remove"')
    elif edit == "older":
        text, word = text.replace("reconciler/plan-3", "reconciler/plan-2"), "reconciler/plan-2"
    else:
        own = host.root / "host.yaml"
        own.write_text("name: elsewhere\n")
        code, word, env = 5, "the host", {"RECONCILER_HOST_FILE": str(own)}
    plan_of(host).write_text(text)

    host.run("apply", plan_of(host), env=env).expect(code).words(word)

    assert not host.volumes
    if code == 64:
        assert inventory(host.state) == before

"""A layer without a digest is tracked by what the bucket says of it."""

from __future__ import annotations

import signal

from .layers import change, root
from .workshop import Workshop, cat, digest


def test_a_replaced_object_is_noticed(bucket: Workshop) -> None:
    """A new ETag is a new chain: a new volume is built, the old snapshot stays, and `plan` says that it is outdated."""
    bucket.image("web", [root("base"), change("app", {"srv/app": b"v1"})], s3=True, pinned=False)
    bucket.run("plan").expect(0).words("unpinned")
    bucket.converge()
    first = bucket.run("list", "-o", "json").json["images"][0]["chain"]
    old = digest(bucket.snapshot("web-a"))
    bucket.settled()

    bucket.put(change("app", {"srv/app": b"v2"}))
    bucket.run("plan", "--detailed-exitcode").expect(2).words("app.tar")
    bucket.converge()

    assert bucket.run("list", "-o", "json").json["images"][0]["chain"] != first
    assert digest(bucket.snapshot("web-a")) == old, "under its user's feet nothing moves"
    plan = bucket.plan()
    assert plan["actions"] == []
    assert {"SnapshotOutdated", "Unpinned"} <= {finding["reason"] for finding in plan["findings"]}
    bucket.image("web", [root("base"), change("app", {"srv/app": b"v2"})], s3=True, pinned=False, snapshots=["web-a", "web-b"])
    bucket.converge()
    assert cat(bucket.snapshot("web-b"), "/srv/app") == b"v2"


def test_only_what_was_replaced_is_fetched_again(bucket: Workshop) -> None:
    """Every run asks for the ETags; bytes are fetched only where these are new and the volume needs them."""
    bucket.image("web", [root("base")], s3=True, pinned=False)
    bucket.image("db", [root("other")], s3=True, pinned=False)
    bucket.converge()
    assert bucket.gate is not None
    bucket.gate.forget()

    bucket.put(root("other", {"etc/new": b"2"}))
    bucket.converge()

    assert dict(bucket.gate.downloads) == {"other.tar": 1}


def test_pinning_a_layer_to_what_was_seen_changes_nothing(bucket: Workshop) -> None:
    """`describe` tells the digest to write into the manifest; with it the same image is declared."""
    layers = [root("base")]
    bucket.image("web", layers, s3=True, pinned=False)
    bucket.converge()

    declared = bucket.run("describe", "image/web", "-o", "json").expect(0).json["declared"]

    assert [layer["applied"] for layer in declared["layers"]] == [layers[0].sha256]
    bucket.image("web", layers, s3=True, pinned=True)
    bucket.once("--detailed-exitcode").expect(0)


def test_an_image_outlives_a_bucket_that_cannot_be_asked(bucket: Workshop) -> None:
    """Without an answer an image that fits its last chain stays what it is; nothing is removed, nothing fails that is whole."""
    bucket.image("web", [root("base")], s3=True, pinned=False)
    bucket.converge()
    before = digest(bucket.snapshot("web-a"))
    assert bucket.gate is not None
    bucket.gate.shut()

    done = bucket.once("--prune").expect(0)

    done.words("last known chain")
    assert digest(bucket.snapshot("web-a")) == before


def test_what_a_changed_layer_may_destroy_is_planned_before_anything_is_fetched(bucket: Workshop) -> None:
    """The replacement is provisional until the layer is resolved: the run replaces what the plan has shown, and no more."""
    bucket.image("web", [root("base"), change("app", {"srv/app": b"v1"})], s3=True, pinned=False, replacePolicy="Recreate")
    bucket.converge()
    bucket.put(change("app", {"srv/app": b"v2"}))
    assert bucket.gate is not None
    bucket.gate.forget()

    planned = bucket.plan()
    bucket.run("plan").expect(0).words("-/+ replace  snapshot/web-a", "data written to it is then discarded", "(2 provisional)")

    assert not bucket.gate.downloads
    provisional = [(one["verb"], one["kind"], one["name"]) for one in planned["actions"] if one["provisional"]]
    assert provisional == [("build", "Volume", "web"), ("replace", "Snapshot", "web-a")]
    done = bucket.converge()
    assert {one["action"] for one in done.json["objects"] if one["kind"] == "Snapshot"} == {"replace"}
    assert cat(bucket.snapshot("web-a"), "/srv/app") == b"v2"
    bucket.settled()


def test_a_snapshot_that_a_failed_download_does_not_replace_is_ready(bucket: Workshop) -> None:
    bucket.image("web", [root("base")], s3=True, pinned=False, replacePolicy="Recreate")
    bucket.converge()
    bucket.upload("/layers/base.tar", b"no archive at all")

    done = bucket.once("-o", "json").expect(1)

    snapshot = done.object("Snapshot", "web-a")
    assert (snapshot["action"], snapshot["phase"]) == ("none", "Ready")


def test_a_service_looks_again_when_a_retry_is_requested(bucket: Workshop) -> None:
    bucket.image("web", [change("app", {"srv/app": b"v1"})], s3=True, pinned=False, replacePolicy="Recreate")
    service = bucket.start("--interval", "3600").until(bucket.snapshot("web-a").exists, "the image")
    bucket.put(change("app", {"srv/app": b"v2"}))

    bucket.run("retry", "image/web").expect(0)

    service.until(lambda: cat(bucket.snapshot("web-a"), "/srv/app") == b"v2", "the new layer")
    assert service.signal(signal.SIGTERM).wait().code == 143

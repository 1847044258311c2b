"""Servers that answer oddly, and bytes that are damaged on their way: one image waits, and the next attempt is right."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.origin import Answer, Asked, Origin, eventually

from .layers import Layer, noise, root
from .workshop import Workshop, cat, names

ALL = ["web", "db"]


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def declare(host: Workshop, origin: Origin, name: str, layer: Layer, *, pinned: bool = False, etag: str = "") -> None:
    """An image of one layer, which lies at the origin under the image's name."""
    if not (host.manifests / "pool.yaml").exists():
        host.pool()
    origin.put(layer.data, f"layers/{name}.tar", etag=etag)
    spec = {
        "size": "16MiB",
        "layers": [{"source": f"s3://layers/{name}.tar"} | ({"sha256": layer.sha256} if pinned else {})],
        "s3": {"endpointUrl": origin.endpoint, "region": "us-east-1", "anonymous": True},
        "snapshots": [{"name": f"{name}-a"}],
    }
    host.declare(name, {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": {"name": name}, "spec": spec})


def damaged(answer: Answer) -> Answer:
    """One bit of the first byte is wrong."""
    return replace(answer, body=bytes([answer.body[0] ^ 1]) + answer.body[1:])


def heads(origin: Origin) -> Counter[str]:
    return Counter(asked.path for asked in origin.asked if asked.method == "HEAD")


# ------------------------------------------------------------------------------------------------------- look-ups


def test_each_unpinned_source_is_asked_once_however_long_another_download_takes(workshop: Workshop, origin: Origin) -> None:
    images = [f"image-{n}" for n in range(8)]
    for name in images:
        declare(workshop, origin, name, root(name))
    declare(workshop, origin, "long", root("long", {"data": noise(3 << 20)}), pinned=True)
    gate = threading.Event()
    origin.script = lambda asked: (
        replace(origin.serve(asked), cut=1 << 20, hold=gate) if asked.method == "GET" and "long" in asked.path else None
    )

    running = workshop.start("--once", "-o", "json")
    running.until(lambda: all(workshop.snapshot(f"{name}-a").exists() for name in images), "the other images", 60)
    gate.set()
    running.wait(60).expect(0)

    found = heads(origin)
    assert {path: found[path] for path in found if "long" not in path} == {f"/layers/{name}.tar": 1 for name in images}


@pytest.mark.parametrize(
    "headers",
    [{"Content-Length": "1" + "0" * 30}, {"Content-Length": "many"}, {"ETag": '""'}, {"Content-Type": "text/html"}],
    ids=["endless", "no number", "no ETag", "web page"],
)
def test_an_odd_answer_to_a_look_up_costs_its_image_only(workshop: Workshop, origin: Origin, headers: dict[str, str]) -> None:
    for name in ALL:
        declare(workshop, origin, name, root(name))
    origin.script = lambda asked: (
        replace(answer := origin.serve(asked), headers={**answer.headers, **headers})
        if asked.method == "HEAD" and "web" in asked.path
        else None
    )

    done = workshop.once("-o", "json").expect(1)

    assert done.object("Image", "web")["reason"] == "SourceUnavailable"
    assert done.object("Image", "db")["phase"] == "Ready"
    workshop.run("plan").expect(1).words("s3://layers/web.tar")


def test_a_service_outlives_a_server_that_stops_sending_lengths(workshop: Workshop, origin: Origin) -> None:
    declare(workshop, origin, "web", root("web"))
    running = workshop.start("--interval", "1")
    running.until(lambda: workshop.snapshot("web-a").exists(), "the image", 30)
    origin.script = lambda asked: (
        replace(answer := origin.serve(asked), headers={**answer.headers, "Content-Length": "?"})
        if asked.method == "HEAD"
        else None
    )
    asked = len(origin.asked)

    running.until(lambda: len(origin.asked) > asked + 2, "a few look-ups more", 30)

    assert running.process.poll() is None
    running.signal(signal.SIGTERM).wait(20).expect(143)


# ------------------------------------------------------------------------------------------------------- identity


def test_two_keys_with_equal_etag_and_length_are_two_images(workshop: Workshop, origin: Origin) -> None:
    """Some servers make an ETag of a file's time and length."""
    for name in ALL:
        declare(workshop, origin, name, root("base", {"which": name.ljust(8).encode()}), etag="6553f100-2800")

    workshop.converge()

    assert [cat(workshop.snapshot(f"{name}-a"), "/which") for name in ALL] == [b"web     ", b"db      "]


def test_what_an_older_version_has_learnt_is_not_fetched_anew(workshop: Workshop, origin: Origin) -> None:
    """It recorded an ETag for the whole bucket; that holds for the images that were made of it, and for no other key."""
    declare(workshop, origin, "web", root("web"), etag="same")
    workshop.converge()
    with sqlite3.connect(workshop.state / "registry.sqlite3") as registry:
        registry.execute("UPDATE seen SET origin = ?", (f"{origin.endpoint}/layers",))
    other = Layer("db", root("db").data.ljust(len(root("web").data), b"\0"))
    declare(workshop, origin, "db", other, etag="same")
    origin.asked = []

    workshop.converge()

    assert {asked.path for asked in origin.gets()} == {"/layers/db.tar"}
    assert cat(workshop.snapshot("db-a"), "/etc/hostname") == b"db\n"


# --------------------------------------------------------------------------------------------------------- damage


def test_a_layer_that_was_damaged_on_its_way_is_fetched_again_in_the_same_run(workshop: Workshop, origin: Origin) -> None:
    """Its ETag is the MD5 of its bytes."""
    declare(workshop, origin, "web", root("web"))
    origin.script = lambda asked: damaged(origin.serve(asked)) if asked.number == 1 and asked.method == "GET" else None

    workshop.converge()

    assert names(workshop.snapshot("web-a"), "/") >= {"bin", "etc"}


@pytest.mark.parametrize("etag", ["", "0123-456"], ids=["MD5", "opaque"])
def test_bytes_that_were_damaged_each_time_are_forgotten(workshop: Workshop, origin: Origin, etag: str) -> None:
    """Nothing that was learnt of the ETag keeps the image from what the server sends later."""
    layer = root("web")
    declare(workshop, origin, "web", layer, etag=etag)
    origin.script = lambda asked: damaged(origin.serve(asked)) if asked.method == "GET" else None
    refused = workshop.once("-o", "json").expect(1)
    assert refused.object("Image", "web")["reason"] == "LayerCorrupt"
    assert "manifest" not in str(refused.object("Image", "web")["message"])
    origin.script = lambda asked: None

    workshop.run("retry", "image/web").expect(0)
    workshop.converge()

    assert cat(workshop.snapshot("web-a"), "/etc/hostname") == b"web\n"


def test_a_resumed_download_that_is_refused_is_fetched_anew_before_the_object_is_blamed(
    workshop: Workshop, origin: Origin
) -> None:
    layer = root("web", {"data": noise(3 << 20)})
    declare(workshop, origin, "web", layer, pinned=True)
    gate = threading.Event()
    origin.script = lambda asked: replace(damaged(origin.serve(asked)), cut=1 << 20, hold=gate) if asked.method == "GET" else None
    record = workshop.spool / f"{layer.sha256}.json"
    running = workshop.start("--once")
    running.until(lambda: len(origin.gets()) == 1 and origin.sent >= 1 << 20, "the first bytes", 30)
    running.until(record.exists, "a record of them", 30)
    running.kill()
    gate.set()
    again, held = threading.Event(), threading.Event()

    def script(asked: Asked) -> Answer | None:
        if asked.method == "GET" and asked.start == 0:
            again.set()
        if asked.method == "GET" and not again.is_set():
            return replace(origin.serve(asked), cut=0, hold=held)  # the rest does not come while the object may be blamed
        return None

    origin.script, origin.asked = script, []
    workshop.converge()
    held.set()

    assert origin.gets()[0].start != 0, "the download was resumed"
    assert again.is_set()
    assert cat(workshop.snapshot("web-a"), "/etc/hostname") == b"web\n"


def test_a_redirect_and_a_refused_look_up_are_no_obstacle(workshop: Workshop, origin: Origin) -> None:
    declare(workshop, origin, "web", root("web"))
    origin.put(root("moved").data, "elsewhere/web.tar")

    def script(asked: Asked) -> Answer | None:
        if asked.method == "HEAD":
            return Answer(405, {})
        return Answer(307, {"Location": "/elsewhere/web.tar"}) if asked.path == "/layers/web.tar" else None

    origin.script = script
    workshop.converge()

    assert cat(workshop.snapshot("web-a"), "/etc/hostname") == b"moved\n"
    eventually(lambda: not workshop.spool.exists() or not list(workshop.spool.iterdir()))


def test_a_layer_that_stays_damaged_is_fetched_once_more_and_then_waits(workshop: Workshop, origin: Origin) -> None:
    """A service does not fetch it at each look."""
    declare(workshop, origin, "web", Layer("web", b"?" * 20_000))
    running = workshop.start("--interval", "1")
    running.until(lambda: len(origin.gets()) >= 2, "the second fetch", 30)
    seen = sum(heads(origin).values())

    running.until(lambda: sum(heads(origin).values()) > seen + 3, "a few look-ups more", 30)

    assert len(origin.gets()) == 2
    running.signal(signal.SIGTERM).wait(20).expect(143)


def test_bytes_that_contradict_what_was_learnt_of_their_etag_replace_it(workshop: Workshop, origin: Origin) -> None:
    """An object was replaced by one of the same time and length; its server makes the same ETag of it."""
    declare(workshop, origin, "web", root("base", {"which": b"1"}), etag="6553f100-2800")
    workshop.converge()
    for path in [*workshop.volumes, workshop.snapshot("web-a")]:
        path.unlink()
    declare(workshop, origin, "web", root("base", {"which": b"2"}), etag="6553f100-2800")

    first = workshop.once("-o", "json")
    if first.code:
        told = first.object("Image", "web")
        assert told["reason"] == "DigestMismatch"
        assert "an earlier fetch of the same ETag had" in told["message"]
        workshop.converge()

    assert cat(workshop.snapshot("web-a"), "/which") == b"2"

"""`inspect`: a layer described before it is trusted, from wherever it lies, and no more of it read than that takes."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.image.source.ranges import FIRST_RANGE

from .layers import Layer, entry, file, noise, root, tar
from .workshop import BUCKET, RECONCILE, Workshop

Conforms = Callable[[str, Any], None]

EVIL = tar("evil", file("fine", noise(9000)), file("../evil", b"x"), file("long", noise(12 << 20)))


def where(bucket: Workshop) -> tuple[str, ...]:
    assert bucket.gate is not None
    return "--endpoint-url", bucket.gate.endpoint, "--anonymous"


def piped(workshop: Workshop, data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    """The installed command with a layer on its standard input."""
    command = [RECONCILE, "inspect", "-", *words]
    return subprocess.run(command, input=data, capture_output=True, env=workshop.environment, cwd=workshop.root, check=False)


def nothing_is_left(workshop: Workshop) -> None:
    """No state, no temporary file."""
    assert not workshop.state.exists()
    assert not [path for path in Path(workshop.root).rglob("*") if "spool" in path.name]


def test_a_layer_is_described_in_words(workshop: Workshop) -> None:
    """What an operator looks for stands there with its first names, and what there is none of is said to be absent."""
    workshop.keep(root("base"))

    said = workshop.run("inspect", "layers/base.tar").expect(0)

    said.words("setuid files", "bin/sh", "dev/null", "2 levels", "not compressed", "holds no", "file capabilities")
    assert max(map(len, said.stdout.splitlines())) < 120
    nothing_is_left(workshop)


def test_a_layer_in_a_bucket_is_described_as_the_same_file_is(bucket: Workshop, conforms: Conforms) -> None:
    """Read once, and not kept."""
    layer = root("base", {"srv/app": noise(3 << 20)}).gzipped()
    bucket.keep(layer)

    there = bucket.run("inspect", bucket.put(layer), *where(bucket), "-o", "json").expect(0).json
    here = bucket.run("inspect", f"layers/{layer.name}.tar", "-o", "json").expect(0).json

    conforms("inspect", there)
    assert (there["sha256"], there["compression"]) == (layer.sha256, "gzip")
    assert {**there, "source": ""} == {**here, "source": ""}
    assert bucket.gate is not None
    assert bucket.gate.sent(f"{layer.name}.tar") == len(layer.data)
    nothing_is_left(bucket)


def test_a_refused_layer_is_not_fetched_to_its_end(bucket: Workshop, conforms: Conforms) -> None:
    """A bad member near the start of a long object: the first request is the last."""
    source = bucket.put(EVIL)

    told = bucket.run("inspect", source, *where(bucket), "-o", "json").expect(1).json

    conforms("inspect", told)
    assert (told["rule"], told["member"], told["entries"]) == ("name-climbs", "../evil", 1)
    assert bucket.gate is not None
    assert bucket.gate.sent("evil.tar") <= FIRST_RANGE


def test_a_layer_can_be_piped_in(workshop: Workshop, conforms: Conforms) -> None:
    """`-` is standard input, plain or compressed; the verdict is the same."""
    layer = root("base").gzipped()

    told = piped(workshop, layer.data, "-o", "json")
    evil = piped(workshop, EVIL.data)

    assert (told.returncode, evil.returncode) == (0, 1)
    conforms("inspect", json.loads(told.stdout))
    assert json.loads(told.stdout)["sha256"] == layer.sha256
    assert b"standard input" in evil.stdout and b"name-climbs" in evil.stdout
    nothing_is_left(workshop)


def test_policies_can_be_tried_before_a_manifest_is_written(workshop: Workshop, conforms: Conforms) -> None:
    """Links that climb are refused, or listed where the manifest would let them resolve inside the image."""
    workshop.keep(tar("climbing", entry("etc/out", b"2", link="../../shadow")))

    refused = workshop.run("inspect", "layers/climbing.tar", "-o", "json").expect(1).json
    assert "limits.climbingLinks: resolve" in refused["hint"]
    accepted = workshop.run("inspect", "layers/climbing.tar", "--limit", "climbingLinks=resolve", "-o", "json").expect(0).json

    assert refused["rule"] == "link-climbs"
    conforms("inspect", accepted)
    assert accepted["climbingLinks"]["names"] == ["etc/out -> ../../shadow"]


@pytest.mark.parametrize(
    ("layer", "entries"),
    [
        (Layer("notes", b"these are notes\n" * 100), 0),
        (Layer("empty", b""), 0),
        (Layer("seven", b"7z\xbc\xaf\x27\x1c" + bytes(100)), 0),
        (root("cut", {"srv/app": noise(100_000)}).truncated(), 9),
    ],
    ids=lambda value: value.name if isinstance(value, Layer) else "",
)
def test_what_is_no_layer_is_refused_with_what_was_seen(
    workshop: Workshop, conforms: Conforms, layer: Layer, entries: int
) -> None:
    workshop.keep(layer)

    told = workshop.run("inspect", f"layers/{layer.name}.tar", "-o", "json").expect(1).json

    conforms("inspect", told)
    assert (told["verdict"], told["entries"]) == ("reject", entries)
    workshop.run("inspect", f"layers/{layer.name}.tar").expect(1).words("reject", told["rule"], told["message"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_that_is_interrupted_ends_at_once(bucket: Workshop, number: signal.Signals, code: int) -> None:
    """While the bucket sends nothing more; no verdict, no process left."""
    source = bucket.put(root("base", {"srv/app": noise(3 << 20)}))
    assert bucket.gate is not None
    bucket.gate.hold("base.tar", 200_000)

    running = bucket.start("inspect", source, *where(bucket))
    running.until(bucket.gate.held.is_set, "the bucket is silent")
    running.process.send_signal(number)
    done = running.wait()
    bucket.gate.release()

    done.expect(code).words("stopped")
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_what_can_not_be_had_is_an_error_and_no_verdict(bucket: Workshop) -> None:
    """A missing object, an endpoint that is down: exit 1, nothing on standard output."""
    missing = bucket.run("inspect", f"s3://{BUCKET}/no.tar", *where(bucket)).expect(1).words("no.tar")
    endpoint = where(bucket)
    assert bucket.gate is not None
    bucket.gate.shut()
    down = bucket.run("inspect", f"s3://{BUCKET}/no.tar", *endpoint).expect(1).words("does not answer")

    assert missing.stdout == down.stdout == ""

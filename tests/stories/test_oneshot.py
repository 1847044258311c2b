"""`inspect` and `build`: one layer judged, one image made, without a registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .layers import change, entry, file, noise, root, tar
from .workshop import BUCKET, Workshop, cat, digest, fsck

Conforms = Callable[[str, Any], None]


def test_an_acceptable_layer_is_accepted_with_its_totals(workshop: Workshop, conforms: Conforms) -> None:
    """Exit 0; how many entries, how many bytes, which digest."""
    layer = root("base")
    workshop.keep(layer)

    told = workshop.run("inspect", "layers/base.tar", "-o", "json").expect(0)

    conforms("inspect", told.json)
    assert (told.json["verdict"], told.json["sha256"]) == ("accept", layer.sha256)
    assert told.json["entries"] == 8
    workshop.run("inspect", "layers/base.tar").expect(0).words("accept", layer.sha256)


def test_a_refused_layer_is_refused_with_the_member_to_blame(workshop: Workshop, conforms: Conforms) -> None:
    """Exit 1; the reason, the rule and the member's name, with nothing in it that could upset a terminal."""
    workshop.keep(tar("evil", file("ok", b""), file("a/../../x\x1b[2J", b"evil")))

    told = workshop.run("inspect", "layers/evil.tar", "-o", "json").expect(1)
    words = workshop.run("inspect", "layers/evil.tar").expect(1).words("reject")

    conforms("inspect", told.json)
    assert (told.json["verdict"], told.json["reason"]) == ("reject", "UnsafeArchive")
    assert "a/../../x" in told.json["member"]
    assert "\x1b" not in words.stdout + words.stderr


def test_a_damaged_layer_is_refused(workshop: Workshop, conforms: Conforms) -> None:
    """Truncated, or no tar at all."""
    workshop.keep(root("cut", {"srv/app": noise(100_000)}).truncated())
    (workshop.layers / "notes.tar").write_text("these are notes\n" * 100)

    for name in ("cut", "notes"):
        told = workshop.run("inspect", f"layers/{name}.tar", "-o", "json").expect(1)
        conforms("inspect", told.json)
        assert told.json["verdict"] == "reject"


def test_limits_of_the_manifest_can_be_tried(workshop: Workshop) -> None:
    """`--limit NAME=VALUE`, as often as one likes."""
    workshop.keep(root("base"))

    workshop.run("inspect", "layers/base.tar", "--limit", "maxEntries=8", "--limit", "maxRatio=10").expect(0)
    told = workshop.run("inspect", "layers/base.tar", "--limit", "maxEntries=7", "-o", "json").expect(1)

    assert "entries" in told.json["rule"]


def test_a_layer_that_is_not_there_is_no_verdict(workshop: Workshop) -> None:
    """Exit 1 and an error, with nothing on standard output."""
    done = workshop.run("inspect", "layers/missing.tar").expect(1).words("missing.tar")

    assert done.stdout == ""


def test_build_makes_the_image_that_a_reconciler_would_make(bucket: Workshop, conforms: Conforms) -> None:
    """Layers from a bucket and from files to one checked file, with the very bytes of a pool's volume."""
    layers = [root("base"), change("app", {"srv/app": b"v1"}).gzipped()]
    bucket.image("web", layers)
    bucket.converge()
    source = bucket.put(layers[1])
    assert bucket.gate is not None
    where = ["--endpoint-url", bucket.gate.endpoint, "--anonymous"]

    made = ["--output", "web.ext4", "--size", "16MiB"]
    built = bucket.run("build", "layers/base.tar", source, *made, "-o", "json", *where).expect(0)

    conforms("build", built.json)
    fsck(bucket.root / "web.ext4")
    assert cat(bucket.root / "web.ext4", "/srv/app") == b"v1"
    assert digest(bucket.root / "web.ext4") in [digest(path) for path in bucket.volumes]
    assert [layer["sha256"] for layer in built.json["layers"]] == [layer.sha256 for layer in layers]


def test_a_build_that_fails_leaves_the_old_output(workshop: Workshop) -> None:
    """What stood under the name stays, and nothing lies beside it."""
    workshop.keep(tar("evil", entry("etc/out", b"1", link="../../etc/shadow")))
    output = workshop.root / "out" / "web.ext4"
    output.parent.mkdir()
    output.write_bytes(b"the old one")

    done = workshop.run("build", "layers/evil.tar", "--output", output, "--size", "16MiB").expect(1)

    assert "Traceback" not in done.stderr
    assert output.read_bytes() == b"the old one"
    assert [path.name for path in output.parent.iterdir()] == ["web.ext4"]


def test_a_missing_object_ends_a_build(bucket: Workshop) -> None:
    """The message names the object."""
    assert bucket.gate is not None
    where = ["--endpoint-url", bucket.gate.endpoint, "--anonymous"]

    bucket.run("build", f"s3://{BUCKET}/no.tar", "--output", "x.ext4", "--size", "16MiB", *where).expect(1).words("no.tar")

    assert not (bucket.root / "x.ext4").exists()

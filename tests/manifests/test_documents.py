"""The documents themselves: sizes, names, sources, and the schema that editors get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reconciler.manifests import documents, location
from reconciler.manifests.faults import Fault, Loc, path_of
from reconciler.manifests.image import ImageDocument
from reconciler.manifests.json_schema import schema as json_schema
from reconciler.manifests.pool import PoolDocument
from reconciler.manifests.problems import Absent, DocumentInvalid
from reconciler.model import Where
from reconciler.sizes import format_size, parse_size

SCHEMA = Path(__file__).parents[2] / "manifests" / "schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def an_image(**spec: Any) -> dict[str, Any]:
    layers = [{"source": "s3://images/1.tar"}]
    return {
        "apiVersion": documents.API_VERSION,
        "kind": "Image",
        "metadata": {"name": "golang"},
        "spec": {"layers": layers, **spec},
    }


def a_pool(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": documents.API_VERSION, "kind": "Pool", "metadata": {"name": "fast"}, "spec": spec}


class Origin:
    """A document that was read from no file."""

    def where(self, loc: Loc) -> Where:
        return Where("a.yaml", 1, 1)

    def fault(self, loc: Loc, message: str, about_key: bool = False) -> Fault:
        return Fault(self.where(loc), path_of(loc), message)


def parse(root: dict[str, Any]) -> documents.Document:
    return documents.parse(root, Origin())


def faults(root: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(DocumentInvalid) as caught:
        parse(root)
    return [(fault.path, fault.message) for fault in caught.value.faults]


# -------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64KiB", 65536),
        ("64Ki", 65536),
        ("16 MiB", 16 << 20),
        ("8GiB", 8 << 30),
        ("1.5Gi", 3 << 29),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes_are_bytes_or_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("8G", "write GiB"),
        ("8GB", "write GiB"),
        ("500m", "write MiB"),
        ("8gib", "write GiB"),
        ("8PiB", "unknown unit"),
        ("8B", "unknown unit"),
        ("-1GiB", "is not a size"),
        ("1e9", "unknown unit|is not a size"),
        ("1_000", "is not a size"),
        ("0.3KiB", "is not a whole number of bytes"),
        ("1.5", "is not a whole number of bytes"),
        ("", "is not a size"),
        ("٣GiB", "is not a size"),
        ("1" * 30, "is not a size"),
        ("8GiB\n", "is not a size"),
    ],
)
def test_other_sizes_are_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_size(text)


@given(st.integers(0, 1 << 60))
def test_a_size_is_written_so_that_it_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


# ------------------------------------------------------------------------------------------------------------ sources


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("s3://images/golang/1.tar", "s3://images/golang/1.tar"),
        ("s3://my.bucket-1/a b?c=%20#d", "s3://my.bucket-1/a b?c=%20#d"),
        ("file:///a/b%20c.tar", "/a/b c.tar"),
        ("file://localhost/a.tar", "/a.tar"),
        ("/a/b%20c.tar", "/a/b%20c.tar"),
        ("../layers/a:b.tar", "../layers/a:b.tar"),
    ],
)
def test_sources_are_taken_as_they_are_written(text: str, parsed: str) -> None:
    """A key and a bare path have no escapes; a URL of a file has."""
    assert location.parse_source(text) == parsed


@given(st.text())
def test_a_source_is_taken_or_refused_with_a_reason(text: str) -> None:
    try:
        parsed = location.resolve(location.parse_source(text), "/repo")
    except ValueError as error:
        assert str(error)
    else:
        assert parsed.startswith(("s3://", "/"))


@pytest.mark.parametrize("text", ["http://127.0.0.1:9000", "https://s3.example.com", "http://[::1]:9000/path"])
def test_endpoints_are_http_urls(text: str) -> None:
    assert location.parse_endpoint(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:9000",
        "s3://host",
        "http:///path",
        "http://h:port",
        "http://u@h",
        "http://h?a",
        "http://h#a",
        "http://a b",
        "http://[::1",
    ],
)
def test_other_endpoints_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is not|has|contains) ") as caught:
        location.parse_endpoint(text)
    assert text not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- documents


def test_kinds_are_distinguished() -> None:
    assert isinstance(parse(an_image()), ImageDocument)
    assert isinstance(parse(a_pool(file={})), PoolDocument)


def test_a_fault_of_one_field_hides_none_of_another() -> None:
    """Broken rules between fields are reported together with faults of the fields."""
    pool = a_pool(
        thin={"data": {"device": "x", "file": "/y"}, "blockSize": "1"}, file={}, reserve={"dataPercent": "x"}, extra="1"
    )

    assert {path for path, _ in faults(pool)} == {
        "spec",
        "spec.thin.data",
        "spec.thin.data.device",
        "spec.thin.metadata",
        "spec.thin.blockSize",
        "spec.reserve.dataPercent",
        "spec.extra",
    }


def test_a_broken_layer_is_not_a_missing_one() -> None:
    assert [path for path, _ in faults(an_image(layers=[{"source": "s3://x"}]))] == ["spec.layers[0].source"]


def test_a_key_with_nothing_after_it_is_not_a_default() -> None:
    [(path, message)] = faults(an_image(hosts=Absent.VALUE))

    assert path == "spec.hosts"
    assert message.startswith("has no value")


@pytest.mark.parametrize(
    ("field", "typo"),
    [
        ("deletionPolicy", "deletion_policy"),
        ("snapshots", "snapshot"),
        ("size", "Size"),
        ("layers", "layer"),
        ("suspend", "suspended"),
        ("pool", "poolRef"),
    ],
)
def test_a_mistyped_field_is_recognised(field: str, typo: str) -> None:
    [(path, message)] = faults(an_image(**{typo: "x"}))

    assert (path, message) == (f"spec.{typo}", f"is not a known field (did you mean {field!r}?)")


def test_a_field_without_resemblance_gets_no_hint() -> None:
    assert faults(an_image(xyzzy="x")) == [("spec.xyzzy", "is not a known field")]


# ------------------------------------------------------------------------------------------------------------- schema


def test_the_committed_schema_is_current() -> None:
    """``reconcile schema > manifests/schema.json`` makes it so."""
    assert json.loads(SCHEMA.read_text()) == json_schema()


def test_the_schema_is_one_and_branches_on_kind() -> None:
    schema = json_schema()

    jsonschema.Draft202012Validator.check_schema(schema)
    assert "oneOf" not in json.dumps(schema)
    assert [branch["if"]["properties"]["kind"]["const"] for branch in schema["allOf"]] == ["Pool", "Image"]


@pytest.mark.parametrize(
    "spec",
    [
        {"suspend": "no", "layers": f"[{{source: 1.tar, sha256: {'7' * 64}}}]"},
        {"suspend": "true", "size": "8589934592"},
        {"snapshots": "[{name: 1, count: 4}, {name: 1.10}]", "hosts": "{matchLabels: {country: no, n: 1}}"},
        {"limits": "{maxUnpackedBytes: 1073741824, maxRatio: 200, maxDepth: 8}", "s3": "{anonymous: yes, region: us-east-1}"},
    ],
)
def test_a_type_that_an_editor_guesses_is_no_error_there(spec: dict[str, str]) -> None:
    """Editors read YAML 1.2 or 1.1; the schema lets pass what either makes of a manifest that is right."""
    fields = {"layers": "[{source: 1.tar}]", **spec}
    text = "apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {name: 42}\nspec:\n" + "".join(
        f"  {k}: {v}\n" for k, v in fields.items()
    )

    parse(yaml.load(text, yaml.BaseLoader))
    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "root",
    [
        an_image(size="8G"),
        an_image(sise="8GiB"),
        an_image(size=4097),
        an_image(layers=[]),
        an_image(layers=[{"source": "1.tar", "sha256": "abc"}]),
        an_image(snapshots=[{"name": "-a"}]),
        an_image(snapshots=[{"name": "a", "count": 1001}]),
        an_image(suspend="maybe"),
        an_image(hosts=None),
        an_image(deletionPolicy="delete"),
        an_image(s3={"endpointUrl": "127.0.0.1:9000"}),
        a_pool(),
        a_pool(file={}, thin={"data": {"device": "/dev/a"}, "metadata": {"device": "/dev/b"}}),
        a_pool(thin={"data": {"device": "/dev/a", "size": "1GiB"}, "metadata": {"device": "/dev/b"}}),
        a_pool(thin={"data": {"file": "/a"}, "metadata": {"device": "/dev/b"}}),
        {**an_image(), "kind": "Pool"},
        {**an_image(), "kind": "image"},
        {**an_image(), "apiVersion": "v1"},
    ],
)
def test_an_editor_marks_the_commonest_mistakes(root: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(root)


# --------------------------------------------------------------------------------------------------------------- cost


def test_models_are_built_when_they_are_first_needed() -> None:
    """Building them all, nested ones alone and again in the others, would cost the no-op run a tenth of its second."""
    code = "from reconciler.manifests import image as d; "
    code += "print(d.ImageDocument.__pydantic_complete__, d.ImageBody.__pydantic_complete__)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == [
        "False",
        "False",
    ]


PLUGIN = """
    import sys
    from reconciler.manifests import documents
    print("plugged" in sys.modules, "importlib.metadata" in sys.modules)
    from pydantic.plugin._loader import PYDANTIC_ENTRY_POINT_GROUP, get_plugins
    print(PYDANTIC_ENTRY_POINT_GROUP, *get_plugins())
"""


def test_no_package_of_the_host_can_plug_into_the_reading_of_manifests(tmp_path: Path) -> None:
    (tmp_path / "plugged.py").write_text("plugin = None\n")
    package = tmp_path / "plugged-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[pydantic]\nplugged = plugged:plugin\n")
    env = {name: value for name, value in os.environ.items() if name != "PYDANTIC_DISABLE_PLUGINS"}

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PLUGIN)],
        capture_output=True,
        text=True,
        check=True,
        env=env | {"PYTHONPATH": str(tmp_path)},
    )

    assert done.stdout == "False False\npydantic\n"

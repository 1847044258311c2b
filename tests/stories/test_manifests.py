"""Bad manifests: every fault of every file at once, and nothing is touched."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from .layers import root
from .workshop import Workshop, inventory

FAULT = re.compile(r"^(?:error: )?(\S+?):(\d+):(\d+): (\S+): (.+)$", re.MULTILINE)

BAD = """\
apiVersion: reconciler/v1alpha1
kind: Image
metadata: {name: Web}
spec:
  size: 8GB
  layers:
    - {source: s3://images/1.tar, sha256: nothex}
  snapshot:
    - {name: a}
"""

WORSE = """\
apiVersion: reconciler/v1alpha1
kind: Imaeg
metadata: {name: db}
---
apiVersion: reconciler/v1alpha1
kind: Image
metadata: {name: db, name: db}
spec: {layers: []}
"""


@pytest.fixture
def bad(workshop: Workshop) -> Workshop:
    (workshop.manifests / "bad.yaml").write_text(BAD)
    (workshop.manifests / "team").mkdir()
    (workshop.manifests / "team" / "worse.yml").write_text(WORSE)
    return workshop


def test_all_faults_are_told_at_once_with_their_places(bad: Workshop) -> None:
    """Each line is file:line:column: path: message; a word that is nearly right is recognised; exit 4; no state directory."""
    done = bad.once().expect(4)

    told = {(file.rpartition("/")[2], int(line), int(column)) for file, line, column, _, _ in FAULT.findall(done.stderr)}
    assert {("bad.yaml", 3, 18), ("bad.yaml", 5, 9), ("bad.yaml", 7, 43), ("bad.yaml", 8, 3), ("worse.yml", 2, 7)} <= told, done
    assert any(file == "worse.yml" and line == 7 for file, line, _ in told), done
    done.words("spec.size", "GiB", "did you mean", "snapshots", "Image")
    assert done.stdout == ""
    assert not bad.state.exists()


@pytest.mark.parametrize("words", [["plan"], ["--check"], ["--once", "--prune"]], ids=" ".join)
def test_nothing_is_planned_from_bad_manifests(words: list[str], bad: Workshop) -> None:
    """Every verb that plans says the same, and touches nothing."""
    bad.run(*words).expect(4)

    assert not bad.state.exists()


def test_what_is_there_can_be_looked_at_all_the_same(workshop: Workshop) -> None:
    """`list`, `verify` and their like tell what the registry knows, and that the manifests could not be read."""
    workshop.image("web", [root("base")])
    workshop.converge()
    (workshop.manifests / "bad.yaml").write_text(BAD)

    for words in (["list"], ["describe", "snapshot/web-a"], ["events"], ["runs"], ["verify"]):
        done = workshop.run(*words).expect(0).words("web-a")
        assert "bad.yaml" in done.stderr, done


def test_one_bad_file_keeps_a_converged_host_as_it_is(workshop: Workshop) -> None:
    """A fault in one file stops everything: the good files might be wrong without it."""
    workshop.image("web", [root("base")])
    workshop.converge()
    before = inventory(workshop.state)
    (workshop.manifests / "bad.yaml").write_text(BAD)

    workshop.once("--prune").expect(4)

    assert inventory(workshop.state) == before


def test_validate_says_what_is_wrong_and_needs_nothing(bad: Workshop, conforms: Callable[[str, Any], None]) -> None:
    """`validate` needs no state directory; in JSON the faults are a list. A good directory is valid."""
    bad.run("validate").expect(4).words("bad.yaml:5:9", "worse.yml:2:7")
    told = bad.run("validate", "-o", "json").expect(4)
    conforms("validate", told.json)
    assert not told.json["valid"]
    assert all(FAULT.match(line) for line in told.json["faults"]), told

    for name in ("bad.yaml", "team/worse.yml"):
        (bad.manifests / name).unlink()
    bad.image("web", [root("base")])
    good = bad.run("validate", "-o", "json").expect(0)

    conforms("validate", good.json)
    assert good.json == {"valid": True, "faults": [], "images": ["web"], "pools": ["default"], "notes": []}
    bad.run("validate", str(bad.manifests / "web.yaml")).expect(0).words("valid")
    assert not bad.state.exists()


OTHERS = {
    "kustomization.yaml": "resources: [web.yaml]\n",
    "deploy/map.yaml": "apiVersion: v1\nkind: ConfigMap\ndata: &a {<<: {}, b: *a}\n---\napiVersion: apps/v1\nkind: Deployment\n",
}
"""Documents of other tools, in YAML that a manifest of ours may not use."""


def test_documents_of_other_tools_beside_the_manifests_are_ignored_with_a_note(workshop: Workshop) -> None:
    """One line on stderr of `plan` and `--once`; `validate` names each with its place."""
    workshop.image("web", [root("base")])
    for name, text in OTHERS.items():
        path = workshop.manifests / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    for words in (["plan"], ["--once"]):
        (line,) = [line for line in workshop.run(*words).expect(0).stderr.splitlines() if "ignored" in line]
        assert "3 documents" in line
        assert "map.yaml:1:1" in line
    workshop.run("plan").expect(0).words("0 to change")
    told = workshop.run("validate").expect(0).words("valid: 1 images")
    for place in ("kustomization.yaml:1:1", "map.yaml:1:1", "map.yaml:5:1"):
        assert place in told.stderr
    assert len(workshop.run("validate", "-o", "json").expect(0).json["notes"]) == 3


def test_a_document_of_ours_with_a_wrong_version_is_not_ignored(workshop: Workshop) -> None:
    """To ignore it would leave what it declares undeclared."""
    workshop.image("web", [root("base")])
    declared = (workshop.manifests / "web.yaml").read_text()
    for version in ("reconciler/v1", "reconcilor/v1alpha1", "v1alpha1"):
        (workshop.manifests / "web.yaml").write_text(declared.replace("reconciler/v1alpha1", version))
        workshop.run("plan").expect(4).words("web.yaml:", "apiVersion", "is not reconciler/v1alpha1")


def test_health_works_on_bad_manifests_and_names_them(bad: Workshop, conforms: Callable[[str, Any], None]) -> None:
    """`health` is for finding out what is wrong, so it does not stop at the first thing that is."""
    told = bad.run("health", "-o", "json").expect(1)

    conforms("checks", told.json)
    (manifests,) = [check for check in told.json["checks"] if check["name"] == "manifests"]
    assert manifests["level"] == "fail"
    assert not bad.state.exists()


def test_the_schema_for_editors_accepts_what_the_stories_declare(workshop: Workshop) -> None:
    """`reconcile schema` prints a JSON Schema; the manifests of these tests are valid by it."""
    import yaml
    from jsonschema import Draft202012Validator

    workshop.image("web", [root("base")], labels={"team": "build"}, suspend=True, deletionPolicy="Retain")
    schema = workshop.run("schema").expect(0).json

    Draft202012Validator.check_schema(schema)
    for path in workshop.manifests.glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            Draft202012Validator(schema).validate(document)

"""Lines on standard error as text, with priorities for the journal, or as JSON; standard output is always the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.errors import SourceForbidden
from tests.support.origin import Origin, failure

BROKEN = "kind: Imagine\n"
IMAGE = """apiVersion: reconciler/v1alpha1
kind: Image
metadata: {name: web}
spec: {size: 16MiB, layers: [{source: /nowhere/1.tar}], snapshots: [{name: web-a}]}
"""


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "web.yaml").write_text(IMAGE)
    return tmp_path / "manifests"


def once(manifests: Path, *options: str, stderr: int = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[str]:
    state = manifests.parent / "state"
    command = [sys.executable, "-m", "reconciler.cli.main", *options, "--once", "-f", str(manifests), "--state", str(state)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | env, check=False)


def test_each_line_is_one_json_object_that_names_its_subject(manifests: Path) -> None:
    done = once(manifests, "--log-format", "json")

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(line.keys() >= {"time", "level", "message"} for line in lines)
    [failed] = [line for line in lines if line.get("object") == "image/web"]
    assert (failed["level"], failed["reason"], failed["phase"]) == ("error", "SourceNotFound", "Failed")
    assert "failed" in lines[-1] and lines[-1]["message"].startswith("RECAP")


def test_the_variable_sets_the_form_and_standard_output_is_the_same(manifests: Path) -> None:
    text, as_json = once(manifests), once(manifests, RECONCILER_LOG_FORMAT="json")

    assert json.loads(as_json.stderr.splitlines()[0])
    assert text.stdout.split(" in ")[0] == as_json.stdout.split(" in ")[0]
    assert text.returncode == as_json.returncode == 1


def test_an_error_that_ends_the_command_is_a_line_of_the_log(manifests: Path) -> None:
    (manifests / "web.yaml").write_text(BROKEN)
    lines = [json.loads(line) for line in once(manifests, "--log-format", "json").stderr.splitlines()]

    assert {line["level"] for line in lines} == {"error"}
    assert any("web.yaml:1:7" in line["message"] for line in lines)
    assert lines[-1]["message"] == f"{len(lines) - 1} faults in 1 file; nothing touched"


def test_the_journal_receives_priorities(manifests: Path, tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        once(manifests, stderr=journal.fileno(), JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
        journal.seek(0)
        lines = journal.read().splitlines()

    assert lines
    assert all(line.startswith(("<3>", "<4>", "<5>", "<6>")) for line in lines)
    assert any(line.startswith("<3>failed   image/web") for line in lines)


def test_a_file_that_is_not_the_journal_gets_plain_lines(manifests: Path) -> None:
    assert "<3>" not in once(manifests, JOURNAL_STREAM="1:2").stderr


ESCAPED = "\x1b]0;title\x07\x1b[2J\u202e\nRECAP vm: ok=9"


def test_words_of_servers_and_archives_in_errors_are_printable() -> None:
    error = SourceForbidden(f"the server says {ESCAPED}", hint=f"images: {ESCAPED}")

    for text in (error.message, error.hint, str(error), *error.args):
        assert text.isprintable()
        assert r"\x1b]0;title\x07\x1b[2J\u202e\nRECAP" in text


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_server_can_not_write_to_the_terminal(manifests: Path, form: str) -> None:
    with Origin() as origin:
        origin.script = lambda asked: failure(403, "AccessDenied", ESCAPED)
        s3 = f"s3: {{endpointUrl: {origin.endpoint}, region: r, anonymous: true}}"
        layer = f'layers: [{{source: "s3://bucket/key", sha256: "{"1" * 64}"}}]'
        head = "apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {name: web}"
        (manifests / "web.yaml").write_text(f"{head}\nspec: {{size: 16MiB, {s3}, {layer}}}\n")
        done = once(manifests, "--log-format", form)

    assert done.returncode == 1
    written = done.stderr if form == "text" else "".join(json.loads(line)["message"] for line in done.stderr.splitlines())
    assert r"\x1b]0;title" in written
    assert not [sign for sign in done.stdout + done.stderr if not sign.isprintable() and sign != "\n"]
    assert not [line for line in done.stderr.splitlines() if line.startswith("RECAP vm")]

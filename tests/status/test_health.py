"""``health`` and ``verify``: a finding with a hint for everything that is wrong, and one OK for each check that passes."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from reconciler.host import context
from reconciler.image import e2fsck
from reconciler.image.builder import process
from reconciler.image.spec import GIB
from reconciler.model import Finding, Key, Kind, Observed, PoolObserved, Severity
from reconciler.policy import force
from reconciler.policy.rules import Policy
from reconciler.pool.driver import PoolState, Space, Trouble
from reconciler.settings import Settings
from reconciler.status import health, image
from tests.support import planning, planted

SPACE = Space(total=10 * GIB, free=5 * GIB, reserve=GIB)


def pool(**state: Any) -> PoolObserved:
    return PoolObserved("thin", True, PoolState(**{"space": SPACE, "volumes": {}, "snapshots": {}} | state))


def levels(found: PoolObserved) -> list[tuple[str, str]]:
    return [(one.severity.value, one.reason) for one in health.of_pool("thin", found)]


def test_an_intact_pool_is_one_finding() -> None:
    [found] = health.of_pool("thin", pool(metadata=SPACE))

    message = "4.0 GiB available of 10.0 GiB; layers share blocks"
    assert found == Finding(Severity.OK, Key(Kind.POOL, "", "thin"), "Passed", message)


@pytest.mark.parametrize(
    ("state", "expected", "words"),
    [
        ({"troubles": (Trouble("PoolReadOnly", "mend it"),)}, ("fail", "PoolReadOnly"), "mend it"),
        ({"troubles": (Trouble("ShrinkUnsupported", "no", halts=False),)}, ("warn", "ShrinkUnsupported"), "no"),
        (
            {"unready": "not assembled since the boot"},
            ("warn", "PoolNotAssembled"),
            "`reconcile --once` assembles it",
        ),
        ({"space": Space(10, 1, 1)}, ("fail", "PoolFull"), "no space above the reserve"),
        ({"metadata": Space(10 * GIB, GIB, 2 * GIB)}, ("fail", "PoolFull"), "no metadata space above the reserve"),
        ({"metadata": Space(10 * GIB, 2 * GIB, GIB + 1)}, ("warn", "MetadataLow"), "metadata space runs low"),
    ],
    ids=["halted", "a trouble that halts nothing", "not assembled", "full", "metadata is full", "metadata is nearly full"],
)
def test_each_fault_of_a_pool_is_a_finding(state: dict[str, Any], expected: tuple[str, str], words: str) -> None:
    found = list(health.of_pool("thin", pool(**state)))

    assert [(one.severity.value, one.reason) for one in found] == [expected]
    assert words in found[0].text


def test_orphans_are_warnings_beside_an_intact_pool() -> None:
    assert levels(pool(orphans=("thin id 7", "thin id 9"))) == [("warn", "Orphan"), ("warn", "Orphan"), ("ok", "Passed")]


def test_verify_reports_everything_in_a_pool() -> None:
    strange = pool(foreign=("thin id 3",), orphans=("thin id 7",), leftovers=("thin id 8",), unready="it is suspended")
    found = [health.check_json(one) for one in health.contents(Observed({"ours": pool(), "strange": strange}))]

    assert [(check["level"], check["name"], check["subject"]) for check in found] == [
        ("ok", "pool", "ours"),
        ("warn", "pool", "strange"),
        ("warn", "foreign", "strange"),
        ("warn", "orphan", "strange"),
        ("note", "leftover", "strange"),
    ]
    assert "reconcile gc strange" in found[3]["hint"]


def test_verify_skips_file_systems_of_a_pool_that_is_not_assembled(tmp_path: Path) -> None:
    observed = planning.observed(
        {
            "registry": {"images": {"go": "a"}, "volumes": ["a"], "snapshots": {"s": "go at a", "t": "go at a"}},
            "pools": {"default": {"unready": "not assembled", "idle": {"t": None}}},
        }
    )
    (tmp_path / "manifests").mkdir()
    with context.reading(Settings(manifests=tmp_path / "manifests", state=tmp_path / "state")) as ours:
        [volume] = health.volumes(ours, observed, None)
    snapshots = list(health.snapshots(observed, ()))

    assert volume.severity is Severity.WARNING
    assert "can't be checked now: not assembled" in volume.message
    assert [(one.severity.value, one.subject.with_pool) for one in snapshots] == [
        ("ok", "snapshot/default/s"),
        ("warn", "snapshot/default/t"),
    ]
    assert "`reconcile --once` activates it" in snapshots[1].hint


@pytest.mark.parametrize(("mode", "who"), [(0o755, ""), (0o777, "every user"), (0o775, "")])
def test_health_warns_if_other_users_may_write_manifests(tmp_path: Path, mode: int, who: str) -> None:
    tmp_path.chmod(mode)
    with context.reading(Settings(manifests=tmp_path, state=tmp_path / "state")) as ours:
        found = health.manifests(ours)

    assert found.severity is (Severity.WARNING if who else Severity.OK)
    assert (f"{who} may write to it" in found.message) == bool(who)


@pytest.mark.root
def test_health_names_the_user_or_group_that_may_write_manifests(tmp_path: Path) -> None:
    os.chown(tmp_path, 0, 1234)
    tmp_path.chmod(0o775)
    assert health.other_writers(tmp_path) == "group 1234"

    os.chown(tmp_path, 4321, 0)
    assert health.other_writers(tmp_path) == "user 4321"


def test_an_ordinary_user_is_not_warned_of_what_only_root_can_have() -> None:
    measures = {"seccomp": "", health.NEEDS_ROOT: "only root can take another"}
    lacking = measures | {"Landlock": "this kernel does not have it"}

    assert health.NEEDS_ROOT in process.confinement()
    assert health.confinement(measures, is_root=False).severity is Severity.OK
    assert health.confinement(measures, is_root=True).severity is Severity.WARNING
    optional = {"Landlock": "this kernel does not have it"}
    assert health.confinement(optional, is_root=True, required=True).severity is Severity.WARNING
    refused = health.confinement({"seccomp": "libseccomp can't be used"}, is_root=True, required=True)
    assert (refused.severity, refused.reason) == (Severity.ERROR, "PolicyRefused")
    assert health.confinement(lacking, is_root=False).message == "in force: seccomp; Landlock: this kernel does not have it"


def test_failed_runs_of_objects_that_are_gone_are_not_reported(tmp_path: Path) -> None:
    """``web`` is declared; ``old`` was, and nothing of it is left."""
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    layer = "layers: [{source: s3://images/base.tar, sha256: " + "a" * 64 + "}]"
    (manifests / "web.yaml").write_text(
        "apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {name: web}\n"
        f"spec: {{size: 16MiB, {layer}, snapshots: [{{name: web-a}}]}}\n"
    )
    settings = Settings(manifests=manifests, state=tmp_path / "state")
    with context.writing(settings, stop=threading.Event()) as ours:
        for name in ("web-a", "old-a"):
            run = ours.engine.open("snapshot", Key(Kind.SNAPSHOT, "default", name), {})
            ours.engine.execute(run.id)

    with context.reading(settings) as ours:
        assert {key.name for key in ours.records.failures()} == {"web-a", "old-a"}
        found = list(health.runs(image.read(ours)))

    assert [one.subject.name for one in found] == ["web-a"]


def test_a_measure_that_e2fsck_lacks_is_a_finding_and_an_error_where_the_policy_requires_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not e2fsck.present():
        pytest.skip("needs e2fsprogs")
    settings = json.dumps({"targets": {}, "user": 0, "without": ["seccomp"]})
    monkeypatch.setattr(process, "COMMAND", (sys.executable, planted.__file__, settings))

    found = health.tools()
    assert (found.severity, found.reason) == (Severity.WARNING, "ConfinementIncomplete")
    assert "not fully confined; seccomp: libseccomp can't be used" in found.message

    force.use(Policy(requires_confinement=True))
    assert (health.tools().severity, health.tools().reason) == (Severity.ERROR, "PolicyRefused")

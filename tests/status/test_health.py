"""What ``health`` and ``verify`` say of pools: every trouble with what to do about it, and nothing where nothing is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from reconciler.controller import context
from reconciler.image.spec import GIB
from reconciler.model import Observed, PoolObserved
from reconciler.pool.driver import PoolState, Space, Trouble
from reconciler.settings import Settings
from reconciler.status import health
from reconciler.status.health import Check
from tests.support import planning

SPACE = Space(total=10 * GIB, free=5 * GIB, reserve=GIB)


def pool(**state: Any) -> PoolObserved:
    return PoolObserved("thin", True, PoolState(**{"space": SPACE, "volumes": {}, "snapshots": {}} | state))


def levels(found: PoolObserved) -> list[tuple[str, str]]:
    return [(check.level, check.name) for check in health.pool_checks("thin", found)]


def test_a_pool_in_order_is_one_line() -> None:
    [check] = health.pool_checks("thin", pool(metadata=SPACE))

    assert check == Check("ok", "pool", "thin", "4.0 GiB available of 10.0 GiB; layers share blocks")


@pytest.mark.parametrize(
    ("state", "expected", "words"),
    [
        ({"troubles": (Trouble("PoolReadOnly", "mend it"),)}, ("fail", "pool"), "PoolReadOnly: mend it"),
        ({"troubles": (Trouble("ShrinkUnsupported", "no", halts=False),)}, ("warn", "pool"), "ShrinkUnsupported"),
        ({"unready": "not assembled since the host was started"}, ("warn", "pool"), "`reconcile --once` assembles it"),
        ({"space": Space(10, 1, 1)}, ("fail", "pool"), "no space above the reserve"),
        ({"metadata": Space(10 * GIB, GIB, 2 * GIB)}, ("fail", "pool"), "no metadata space above the reserve"),
        ({"metadata": Space(10 * GIB, 2 * GIB, GIB + 1)}, ("warn", "pool"), "metadata space runs low"),
    ],
    ids=["halted", "a trouble that stops nothing", "not assembled", "full", "metadata is full", "metadata is nearly full"],
)
def test_health_says_what_is_wrong_with_a_pool(state: dict[str, Any], expected: tuple[str, str], words: str) -> None:
    found = list(health.pool_checks("thin", pool(**state)))

    assert [(check.level, check.name) for check in found] == [expected]
    assert words in found[0].message


def test_orphans_are_a_warning_beside_a_pool_in_order() -> None:
    assert levels(pool(orphans=("thin id 7", "thin id 9"))) == [("warn", "orphan"), ("warn", "orphan"), ("ok", "pool")]


def test_verify_accounts_for_everything_in_a_pool() -> None:
    strange = pool(foreign=("thin id 3",), orphans=("thin id 7",), leftovers=("thin id 8",), unready="it is suspended")
    found = list(health.whole_pools(Observed({"ours": pool(), "strange": strange})))

    assert [(check.level, check.name, check.subject) for check in found] == [
        ("ok", "pool", "ours"),
        ("warn", "pool", "strange"),
        ("warn", "foreign", "strange"),
        ("warn", "orphan", "strange"),
        ("warn", "leftover", "strange"),
    ]
    assert "reconcile gc strange" in found[3].message


def test_verify_does_not_ask_a_pool_that_is_not_assembled_for_its_file_systems(tmp_path: Path) -> None:
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

    assert volume.level == "warn"
    assert "can't be looked at now: not assembled" in volume.message
    assert [(check.level, check.subject) for check in snapshots] == [("ok", "default/s"), ("warn", "default/t")]
    assert "`reconcile --once` activates it" in snapshots[1].message


@pytest.mark.parametrize(("mode", "who"), [(0o755, ""), (0o777, "everybody"), (0o775, "")])
def test_health_says_who_else_may_write_manifests(tmp_path: Path, mode: int, who: str) -> None:
    tmp_path.chmod(mode)
    with context.reading(Settings(manifests=tmp_path, state=tmp_path / "state")) as ours:
        found = health.manifest_check(ours)

    assert found.level == ("warn" if who else "ok")
    assert found.message.startswith(f"{who} may write to it") == bool(who)


@pytest.mark.root
def test_health_says_which_user_or_group_may_write_manifests(tmp_path: Path) -> None:
    os.chown(tmp_path, 0, 1234)
    tmp_path.chmod(0o775)
    assert health.others_who_write(tmp_path) == "group 1234"

    os.chown(tmp_path, 4321, 0)
    assert health.others_who_write(tmp_path) == "user 4321"

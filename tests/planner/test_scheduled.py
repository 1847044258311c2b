"""Images with `hosts.notBefore` in the future: nothing is built, changed or removed, and what there is stays active."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reconciler.model import Plan
from reconciler.planner.plan import plan
from reconciler.planner.status import statuses
from reconciler.registry.marks import suspending
from tests.support import planning

DUE = 1_772_344_800.0
NEW = {"web": {"layers": ["a", "b"], "snapshots": ["s"]}}
OLD = {"images": {"web": "a"}, "volumes": ["a"], "snapshots": {"s": "web at a", "former": "web at a"}}


def planned(now: float, case: dict[str, Any], **wish: Any) -> Plan:
    wanted = planning.desired(NEW)
    wanted = replace(wanted, images={"web": replace(wanted.images["web"], not_before=DUE)})
    return plan(suspending(wanted, {}, now), planning.observed(case), **wish)


def done(found: Plan) -> list[str]:
    return [f"{one.verb} {one.key}" for one in found.actions]


def test_an_image_is_not_built_and_no_pool_is_made_for_it_before_its_time() -> None:
    case = {"pools": {"default": {"unready": "not there yet"}}}

    early, due = planned(DUE - 1, case), planned(DUE, case)

    assert done(early) == []
    assert [(one.reason, one.message) for one in early.findings if one.subject.name == "web"] == [
        ("Scheduled", "hosts.notBefore: not built, changed or removed before 2026-03-01 06:00:00 UTC")
    ]
    assert "assemble pool/default" in done(due)
    assert "Scheduled" not in {one.reason for one in due.findings}


def test_what_an_earlier_revision_has_is_kept_and_activated_and_nothing_is_pruned() -> None:
    case = {"registry": OLD, "pools": {"default": {"idle": {"s": "not active"}}}}

    early, due = planned(DUE - 1, case, prune=True), planned(DUE, case, prune=True)

    assert done(early) == ["activate snapshot/s"]
    assert early.held == ()
    assert any(one.startswith("build ") for one in done(due))
    assert "remove snapshot/former" in done(due)


def test_conditions_give_the_time() -> None:
    wanted = planning.desired(NEW)
    wanted = suspending(replace(wanted, images={"web": replace(wanted.images["web"], not_before=DUE)}), {}, DUE - 1)
    host = planning.observed({})

    found = {one.type: one for one in statuses(wanted, host, plan(wanted, host))["web"].conditions}

    assert (found["Suspended"].status, found["Suspended"].reason) == (True, "Scheduled")
    assert found["Ready"].message.endswith("before 2026-03-01 06:00:00 UTC")

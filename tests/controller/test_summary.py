"""What an invocation comes to: a pool that could not be assembled, images that wait for it, and the exit code that tells."""

from __future__ import annotations

import pytest

from reconciler.controller.executor import Done, Ledger
from reconciler.controller.summary import exit_code, outcome
from reconciler.errors import Exit
from reconciler.model import Kind
from reconciler.output.result import Result
from reconciler.planner.plan import plan
from tests.support import planning

WANTED = planning.desired(
    {"go": {"layers": ["a"], "pool": "thin", "snapshots": ["s"]}, "node": {"layers": ["a"]}}, ["default", "thin"]
)
REGISTRY = {
    "images": {"go": "a in thin", "node": "a"},
    "volumes": ["a", "a in thin"],
    "snapshots": {"s": "go at a in thin"},
}
REBOOTED = planning.observed(
    {"registry": REGISTRY, "pools": {"default": {}, "thin": {"thin": True, "unready": "rebooted", "idle": {"s": None}}}}
)
UP = planning.observed({"registry": REGISTRY, "pools": {"default": {}, "thin": {"thin": True}}})


def told(result: Result) -> dict[str, tuple[str, str, str]]:
    return {f"{o.kind}/{o.name}": (o.action, o.phase, o.reason) for o in result.objects if o.kind is not Kind.VOLUME}


def test_a_pool_that_was_assembled_is_an_object_of_its_own() -> None:
    done = {action.key: Done(action, True) for action in plan(WANTED, REBOOTED).actions}

    result = outcome("host", WANTED, UP, plan(WANTED, UP), Ledger(done), 1.0)

    assert told(result) == {
        "Pool/thin": ("assemble", "Ready", ""),
        "Image/go": ("none", "Ready", ""),
        "Image/node": ("none", "Ready", ""),
        "Snapshot/s": ("activate", "Ready", ""),
    }
    assert (result.changed, result.pruned, exit_code(result, detailed=True)) == (2, 0, Exit.CHANGED)


def test_a_pool_that_needs_nothing_is_unchanged() -> None:
    result = outcome("host", WANTED, UP, plan(WANTED, UP), Ledger(), 1.0)

    assert told(result)["Pool/thin"] == ("none", "Ready", "")
    assert exit_code(result, detailed=True) is Exit.OK


def test_images_fail_with_the_pool_that_could_not_be_assembled() -> None:
    planned = plan(WANTED, REBOOTED)
    [assemble, _] = planned.actions
    done = Done(assemble, False, "PoolUnavailable", "no loop device")

    result = outcome("host", WANTED, REBOOTED, planned, Ledger({assemble.key: done}), 1.0)

    assert told(result)["Pool/thin"] == ("assemble", "Failed", "PoolUnavailable")
    assert {o.name: (o.ok, o.message) for o in result.objects if o.kind is Kind.IMAGE} == {
        "go": (False, "no loop device"),
        "node": (True, ""),
    }
    assert exit_code(result, detailed=True) is Exit.FAILED


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ({"go": {"layers": ["a"], "pool": "thin"}}, Exit.HOST_CANNOT),
        ({"go": {"layers": ["a"], "pool": "thin"}, "node": {"layers": ["a"]}}, Exit.FAILED),
    ],
    ids=["nothing else is declared", "another image is as declared"],
)
def test_the_exit_code_says_that_the_host_cannot_use_the_pool(images: dict[str, dict[str, object]], expected: Exit) -> None:
    wanted = planning.desired(images, ["default", "thin"])
    host = planning.observed(
        {
            "registry": {"images": {"node": "a"}, "volumes": ["a"]},
            "pools": {"default": {}, "thin": {"problem": "no device-mapper"}},
        }
    )

    assert exit_code(outcome("host", wanted, host, plan(wanted, host), Ledger(), 1.0), detailed=False) is expected

"""How the snapshots of an image stand with claims, as metrics, ``top`` and ``describe`` show it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reconciler.claim import ClaimState
from reconciler.planner.claims import Stock, stock
from tests.support import planning


def of(*sets: dict[str, Any], snapshots: dict[str, str] | None = None, claims: dict[str, str], **pool: Any) -> Stock | None:
    case: dict[str, Any] = {
        "images": {"go": {"layers": ["a"], **({"sets": [*sets]} if sets else {"snapshots": ["s"]})}},
        "registry": {"images": {"go": "a"}, "volumes": ["a"], "snapshots": snapshots or {"s": "go at a"}, "claims": claims},
        "pools": {"default": pool},
    }
    observed = planning.observed(case)
    ended = {
        place: replace(one, ended=5.0 if one.state is ClaimState.RELEASED else 0.0) for place, one in observed.claims.items()
    }
    observed = replace(observed, claims=ended)
    return stock(planning.desired(case["images"]).images["go"], observed)


def made(count: int) -> dict[str, str]:
    return {f"job-{number}": "go at a" for number in range(count)}


RECYCLED = {"name": "job", "count": 3, "max": 8, "recycle": "OnRelease"}


def test_a_snapshot_is_in_one_state() -> None:
    claims = {"job-0": "claimed", "job-1": "released", "job-2": "expired", "job-3": "expired", "job-4": "claimed"}
    found = of(RECYCLED, snapshots=made(6), claims=claims, held={"job-2": "process 7 (qemu)"})

    assert found is not None
    assert found.by_state == {"ready": 1, "claimed": 2, "expired": 1, "ended": 2, "used": 0, "wanting": 2}


def test_a_released_snapshot_that_is_still_open_has_ended() -> None:
    found = of(RECYCLED, snapshots=made(4), claims={"job-0": "released"}, held={"job-0": "process 7 (qemu)"})

    assert found is not None
    assert (found.ready, found.expired, found.ended, found.wanting, found.since) == (3, 0, 1, 0, 5.0)


def test_what_only_a_command_recycles_is_used() -> None:
    found = of({"name": "job", "count": 2, "recycle": "Never"}, snapshots=made(2), claims={"job-0": "expired"})

    assert found is not None
    assert (found.ready, found.used, found.wanting, found.since) == (1, 1, 1, None)


def test_an_image_without_claims_has_none() -> None:
    assert of(claims={}) is None
    assert of({"name": "job", "count": 3, "recycle": "Never"}, snapshots=made(3), claims={}) is None
    found = of(claims={"s": "claimed"})
    assert found is not None
    assert (found.claimed, found.wanting) == (1, 0)

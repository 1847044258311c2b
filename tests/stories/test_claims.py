"""Claims through the installed command: given out once, kept while claimed, never given out again as they are."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.api import client

from .layers import root
from .workshop import Workshop, digest


def claimed(workshop: Workshop, *words: str) -> dict[str, str]:
    return dict(workshop.run("claim", *words, "-o", "json").expect(0).json)


def test_a_pool_of_fresh_roots_for_jobs(workshop: Workshop, conforms: Callable[[str, object], None]) -> None:
    """Two are ready, two more are created when these are claimed; a released one is never given out as it is."""
    jobs = [{"name": "job", "count": 2, "max": 4, "ttl": "2h"}]
    workshop.image("web", [root("base")], snapshots=jobs)
    workshop.converge()
    fresh = digest(workshop.snapshot("job-0"))

    first, second = claimed(workshop, "image/web", "--holder", "job 1"), claimed(workshop, "image/web")
    assert {first["snapshot"], second["snapshot"]} == {"job-0", "job-1"}
    assert workshop.run("claim", "image/web").expect(6).stderr.startswith("error: image/web: no snapshot of it is ready")

    conforms("list", workshop.run("list", "-o", "json").expect(0).json)
    described = workshop.run("describe", "image/web", "-o", "json").expect(0).json
    conforms("describe", described)
    assert described["claims"] == {"ready": 0, "claimed": 2, "expired": 0, "ended": 0, "used": 0, "wanting": 2}
    assert "0 ready, 2 claimed, 2 wanting" in workshop.run("describe", "image/web").expect(0).stdout
    status = workshop.run("get", "image/web", "-o", "json").expect(0).json["status"]
    assert status["claims"] == described["claims"]
    assert [one["claim"]["state"] for one in status["snapshots"]] == ["claimed", "claimed"]
    assert workshop.run("top", "-o", "json").expect(0).json["claims"] == {"web": described["claims"]}

    with open(first["path"], "r+b") as disk:
        disk.write(b"used by job 1")
    workshop.converge()
    assert {claimed(workshop, "image/web")["snapshot"], claimed(workshop, "image/web")["snapshot"]} == {"job-2", "job-3"}

    workshop.run("release", first["claim"]).expect(0)
    conforms("list", workshop.run("list", "-o", "json").expect(0).json)
    workshop.converge()
    again = claimed(workshop, "image/web")
    assert again["snapshot"] == first["snapshot"]
    assert digest(workshop.snapshot(again["snapshot"])) == fresh


def test_a_claimed_snapshot_is_kept_whatever_the_manifests_declare(workshop: Workshop) -> None:
    workshop.image("web", [root("base")], snapshots=[{"name": "job", "count": 1}], replacePolicy="OnRelease")
    workshop.image("other", [root("other")])
    workshop.converge()
    claim = claimed(workshop, "snapshot/job-0")
    before = digest(workshop.snapshot("job-0"))

    workshop.image("web", [root("changed")], snapshots=[{"name": "job", "count": 1}], replacePolicy="OnRelease")
    assert f"in use by claim {claim['claim']}" in workshop.once().expect(0).stderr
    workshop.withdraw("web")
    workshop.run("--once", "--prune", "--prune-grace", "0s", "-o", "json").expect(0)
    assert digest(workshop.snapshot("job-0")) == before

    workshop.run("release", claim["claim"]).expect(0)
    workshop.run("--once", "--prune", "--prune-grace", "0s", "-o", "json").expect(0)
    assert not workshop.snapshot("job-0").exists()


def test_a_lowered_count_removes_unclaimed_snapshots_by_pruning_alone(workshop: Workshop) -> None:
    workshop.image("web", [root("base")], snapshots=[{"name": "job", "count": 9}])
    workshop.converge()
    workshop.image("web", [root("base")], snapshots=[{"name": "job", "count": 1, "max": 9}])

    workshop.once().expect(0)
    refused = workshop.run("--once", "--prune")
    assert "--prune would remove 8 of 9 snapshots" in refused.stderr
    assert all(workshop.snapshot(f"job-{n}").exists() for n in range(9))

    workshop.run("--once", "--prune", "--prune-max", "8").expect(0)
    assert sum(workshop.snapshot(f"job-{n}").exists() for n in range(9)) == 1


def test_what_is_not_recycled_stays_used_until_that_is_asked_for(workshop: Workshop) -> None:
    workshop.image("web", [root("base")], snapshots=["mine"])
    workshop.converge()
    claim = claimed(workshop, "snapshot/mine", "--ttl", "1h")
    workshop.run("release", claim["claim"]).expect(0)

    assert "[SnapshotUsed]" in workshop.once().expect(0).stderr
    workshop.run("claim", "snapshot/mine").expect(6)
    workshop.run("recycle", "snapshot/mine").expect(0)
    workshop.converge()

    again = claimed(workshop, "snapshot/mine")
    assert again["state"] == "claimed"
    assert workshop.run("list", "claims", "-o", "json").expect(0).json == {"claims": [again]}
    assert "claimed" in workshop.run("list", "claims").expect(0).stdout


def test_a_ttl_above_the_manifests_and_unknown_names_are_refused(workshop: Workshop) -> None:
    workshop.image("web", [root("base")], snapshots=[{"name": "job", "count": 1, "ttl": "1h"}])
    workshop.converge()

    above = workshop.run("claim", "image/web", "--ttl", "2h").expect(5).stderr
    assert "longer than the manifest permits" in above and "PUT /v1/claims/ID" in above
    assert "did you mean" in workshop.run("claim", "image/wed").expect(64).stderr
    assert "there is no snapshot" in workshop.run("claim", "snapshot/job-1").expect(64).stderr
    assert "control characters" in workshop.run("claim", "image/web", "--holder", "job\n1").expect(64).stderr
    assert "there is no claim" in workshop.run("release", "0123").expect(64).stderr
    assert "there is no claim" in workshop.run("renew", "0123").expect(64).stderr
    assert "is not a duration" in workshop.run("claim", "image/web", "--ttl", "soon").expect(64).stderr


def test_a_claim_is_renewed_until_it_has_ended(workshop: Workshop) -> None:
    workshop.image("web", [root("base")], snapshots=[{"name": "job", "count": 1, "ttl": "1h"}])
    workshop.converge()
    claim = workshop.run("claim", "image/web", "--ttl", "60s", "-o", "json").expect(0).json

    renewed = workshop.run("renew", claim["claim"], "--ttl", "30m", "-o", "json").expect(0).json
    assert (renewed["claim"], renewed["ttl"]) == (claim["claim"], 1800.0)
    assert renewed["expires"] > claim["expires"]
    assert "longer than the manifest permits" in workshop.run("renew", claim["claim"], "--ttl", "2h").expect(5).stderr

    serving = workshop.start("--progress", "none")
    serving.until(lambda: client.is_served(workshop.state / "api.sock"), "the API")
    assert workshop.run("renew", claim["claim"], "-o", "json").expect(0).json["ttl"] == 1800.0
    serving.kill()
    workshop.run("release", claim["claim"]).expect(0)
    assert "is released" in workshop.run("renew", claim["claim"]).expect(5).stderr


def test_an_imported_snapshot_is_in_use_until_it_is_released(workshop: Workshop) -> None:
    """It may hold the data of a user: it is neither made from the base again, nor removed as one too many, nor given out."""
    jobs: list[object] = [{"name": "job", "count": 1, "max": 3, "ttl": "2h"}]
    workshop.image("web", [root("base")], snapshots=jobs)
    workshop.converge()
    path = workshop.snapshot("job-0")
    with path.open("r+b") as disk:
        disk.write(b"data of a user")
    path.with_name("copy").write_bytes(path.read_bytes())
    path.with_name("copy").replace(path)
    changed = [{"name": "job", "count": 1, "max": 3, "ttl": "2h", "files": [{"path": "/etc/job", "content": "1"}]}]
    workshop.image("web", [root("base")], snapshots=changed)
    chain = next(row["chain"] for row in workshop.run("state", "ls", "-o", "json").json["rows"] if row["name"] == "job-0")

    done = workshop.run("import", "snapshot/job-0", "--image", "web", "--chain", chain).expect(0)
    (claim,) = workshop.run("list", "claims", "-o", "json").expect(0).json["claims"]
    assert f"claim {claim['claim']} of reconcile import keeps it in use" in done.stdout + done.stderr
    assert (claim["holder"], claim["ttl"], claim["uid"], claim["expires"]) == ("reconcile import", 0.0, 0, None)
    before = digest(path)
    workshop.once("--prune", "--prune-grace", "0s").expect(0)
    assert claimed(workshop, "image/web")["snapshot"] == "job-1"
    workshop.once("--prune", "--prune-grace", "0s").expect(0)
    assert digest(path) == before

    workshop.run("release", claim["claim"]).expect(0)
    workshop.once().expect(0)
    assert not path.exists() or digest(path) != before

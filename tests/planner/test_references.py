"""Images that are made of a reference: planned with the layers that it stands for, and what happens where it isn't resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from reconciler.image.spec import ImageReference, Layer, Packed, Resolved, Source
from reconciler.model import Desired, ImageResolution, ImageSpec, Observed, Plan, ReplacePolicy, Verb
from reconciler.planner.plan import plan
from reconciler.planner.references import wanted, with_layers
from tests.support.planning import SIZE, chain_id, desired, digests, observed

TAG = ImageReference(Source("oci://registry.example/team/web:1"), "linux/amd64")
PINNED = ImageReference(Source(f"oci://registry.example/team/web@sha256:{'f' * 64}"), "linux/amd64")
DONE: Mapping[str, Any] = {
    "registry": {"images": {"web": "a+b"}, "volumes": ["a", "a+b"], "snapshots": {"web-a": "web at a+b"}},
    "pools": {"default": {}},
}


def resolved(chain: str, *, size: int = 1000) -> Resolved:
    layers = tuple(Layer(Source(f"oci://registry.example/team/web@sha256:{one}"), one, size=size) for one in digests(chain))
    return Resolved(f"sha256:{'f' * 64}", f"sha256:{'e' * 64}", "{}", layers)


def declared(reference: ImageReference = TAG, **more: Any) -> Desired:
    web = ImageSpec("web", "default", SIZE, (), ("web-a",), reference=reference, **more)
    return replace(desired({}), images={"web": web})


def planned(found: ImageResolution | None, case: Mapping[str, Any], want: Desired | None = None, **seen: Any) -> Plan:
    """The plan, as ``controller.assess`` makes it."""
    resolutions = {found.reference: found} if found else {}
    there: Observed = replace(observed(case), references=resolutions, **seen)
    return plan(with_layers(want or declared(), resolutions), there)


def test_the_chain_and_the_bytes_to_fetch_are_exact_before_anything_is_fetched() -> None:
    found = planned(ImageResolution(TAG, resolved("a+b")), {}, spooled=frozenset({"a" * 64}))

    builds = [one for one in found.actions if one.verb is Verb.BUILD]
    assert [(one.chain, one.fetch) for one in builds] == [(chain_id("a"), 0), (chain_id("a+b"), 1000)]
    assert not found.blocked


def test_what_two_images_need_is_counted_once() -> None:
    want = declared()
    both = replace(want, images={**want.images, "two": replace(want.images["web"], name="two", snapshots=())})

    found = planned(ImageResolution(TAG, resolved("a+b")), {"pools": {"default": {"shares": False}}}, both)

    assert sum(one.fetch for one in found.actions) == 2000


def test_nothing_is_left_once_all_of_it_is_there() -> None:
    found = planned(ImageResolution(TAG, resolved("a+b")), DONE)

    assert (found.actions, found.blocked) == ((), ())
    assert [one.reason for one in found.findings] == ["Unpinned"]
    assert f"declare source: {TAG.source.url}@sha256:{'f' * 64}" in found.findings[0].hint


def test_a_digest_is_no_finding() -> None:
    assert not planned(ImageResolution(PINNED, resolved("a+b")), DONE, declared(PINNED)).findings


def test_a_registry_that_does_not_answer_leaves_the_image_at_what_it_stood_for_last() -> None:
    found = planned(ImageResolution(TAG, resolved("a+b"), "registry.example does not answer", "SourceUnavailable"), DONE)

    assert (found.actions, found.blocked) == ((), ())
    assert {one.reason for one in found.findings} == {"LastKnownChain", "Unpinned"}


@pytest.mark.parametrize("reason", ["ImageRefused", "DigestMismatch", "LayerCorrupt", "UnsafeArchive"])
def test_an_archive_that_was_read_and_is_refused_has_failed_as_a_compressed_one_has(reason: str) -> None:
    found = planned(ImageResolution(TAG, resolved("a+b"), "it has no manifest", reason), DONE)

    assert found.actions == ()
    assert [(one.name, one.reason) for one in found.blocked] == [("web", reason)]


@pytest.mark.parametrize("last", [None, resolved("a"), resolved("a+c")])
def test_it_is_blocked_where_that_is_not_what_was_applied(last: Resolved | None) -> None:
    found = planned(ImageResolution(TAG, last, "registry.example does not answer", "SourceUnavailable"), DONE)

    [failure] = found.blocked
    assert (failure.name, failure.reason) == ("web", "SourceUnavailable")
    assert failure.message.startswith("oci://registry.example/team/web:1")
    assert not found.actions


def test_it_is_blocked_where_its_volume_is_missing() -> None:
    case = {**DONE, "pools": {"default": {"volumes": {"a+b": "missing"}}}}

    assert planned(ImageResolution(TAG, resolved("a+b"), "no answer", "SourceUnavailable"), case).blocked


def test_before_it_is_resolved_its_actions_are_provisional() -> None:
    found = planned(None, {})

    assert not found.blocked
    assert {one.verb for one in found.actions} == {Verb.BUILD, Verb.CREATE}
    assert all(one.provisional for one in found.actions)


def test_a_moved_tag_replaces_snapshots_as_their_policy_has_it() -> None:
    found = planned(ImageResolution(TAG, resolved("a+c")), DONE)

    assert [one.verb for one in found.actions] == [Verb.BUILD, Verb.RECORD]
    assert "SnapshotOutdated" in {one.reason for one in found.findings}


def test_references_of_suspended_and_unselected_images_are_not_wanted() -> None:
    assert wanted(declared()) == (TAG,)
    assert wanted(declared(suspend=True)) == ()
    assert wanted(declared(), {"other"}) == ()


def test_the_digest_of_a_specification_has_its_reference() -> None:
    one, other = declared().images["web"], declared(PINNED).images["web"]

    assert one.digest != other.digest
    assert replace(one, reference=None).digest not in (one.digest, other.digest)


# ------------------------------------------------------------------------------------------- compressed archives


def archived(name: str = "", size: int = 5000, key: str = "9" * 64) -> ImageResolution:
    """A reference whose archive is compressed, and not decompressed yet."""
    reference = ImageReference(Source(f"oci-archive:s3://b/web.tar.gz{name}"), "linux/amd64")
    return ImageResolution(reference, packed=Packed(Source("s3://b/web.tar.gz"), key, size, "gzip"))


def unpacked(chain: str, key: str = "9" * 64) -> Resolved:
    layers = tuple(
        Layer(Source(f"part:{number}+100:unpacked:{key}:s3://b/web.tar.gz"), one, size=100)
        for number, one in enumerate(digests(chain))
    )
    return Resolved(f"sha256:{'f' * 64}", f"sha256:{'e' * 64}", "{}", layers)


def test_an_archive_is_decompressed_before_anything_is_built_of_it() -> None:
    found = planned(one := archived(), {}, declared(one.reference))

    fetch, build, create = found.actions
    assert (fetch.verb, fetch.fetch, fetch.unpack, fetch.provisional) == (Verb.RESOLVE, 5000, one.reference, False)
    assert "unresolved until fetched" in fetch.because
    assert [(one.verb, one.provisional) for one in (build, create)] == [(Verb.BUILD, True), (Verb.CREATE, True)]
    assert fetch.key in build.after
    assert not found.blocked


def test_the_images_of_one_archive_count_its_bytes_once() -> None:
    one, two = archived(), archived(":two")
    want = declared(one.reference)
    other = replace(want.images["web"], name="two", snapshots=(), reference=two.reference)
    seen = {one.reference: one, two.reference: two}
    want = replace(want, images={**want.images, "two": other})

    found = plan(with_layers(want, seen), replace(observed({}), references=seen))

    assert [one.fetch for one in found.actions if one.verb is Verb.RESOLVE] == [5000, 0]


def test_a_changed_archive_removes_nothing_before_it_is_resolved() -> None:
    """What it stands for is unknown, which is not the same as absent."""
    for policy in ReplacePolicy:
        want = declared((one := archived()).reference, replace=policy)
        there: Observed = replace(observed(DONE), references={one.reference: one})

        found = plan(with_layers(want, there.references), there, prune=True)

        assert all(one.provisional for one in found.actions if one.verb is not Verb.RESOLVE)
        assert (Verb.REPLACE in {one.verb for one in found.actions}) == (policy is not ReplacePolicy.KEEP)
        assert not {Verb.REMOVE, Verb.FORGET} & {one.verb for one in found.actions}


@pytest.mark.parametrize(("spooled", "fetched"), [(frozenset(), 200), (frozenset({"9" * 64}), 0)])
def test_a_decompressed_archive_is_not_fetched(spooled: frozenset[str], fetched: int) -> None:
    reference = archived().reference

    found = planned(ImageResolution(reference, unpacked("a+b")), {}, declared(reference), spooled=spooled)

    assert sum(one.fetch for one in found.actions) == fetched
    assert not any(one.provisional for one in found.actions)

"""Which unpinned sources are one object, and which digests follow."""

from __future__ import annotations

from reconciler.image.spec import S3Options, Source
from reconciler.model import Resolution
from reconciler.planner.unpinned import fetches, resolved_digests

HERE = S3Options("http://s3.example", "us-east-1")
ONE, SAME, OTHER = (
    Source("s3://b/one.tar", HERE),
    Source("s3://b/one.tar", S3Options("http://s3.example", "us-east-1", anonymous=True)),
    Source("s3://b/two.tar", HERE),
)


def test_one_object_that_is_asked_for_in_two_ways_is_fetched_once() -> None:
    unseen = {source: Resolution(source, '"e"', 10) for source in (ONE, SAME, OTHER)}

    actions = fetches({ONE: {"a"}, SAME: {"b"}, OTHER: {"c"}}, unseen)

    assert actions[ONE] is actions[SAME]
    assert actions[ONE].images == ("a", "b")
    assert "with 1 more of the same object" in actions[ONE].because
    assert actions[OTHER] is not actions[ONE], "another key is another object, whatever its ETag and length"


def test_a_digest_is_that_of_the_same_object_and_of_no_other_key() -> None:
    found = {
        ONE: Resolution(ONE, '"e"', 10, "d" * 64),
        SAME: Resolution(SAME, '"e"', 10),
        OTHER: Resolution(OTHER, '"e"', 10),
    }

    assert resolved_digests(found) == {ONE: "d" * 64, SAME: "d" * 64}

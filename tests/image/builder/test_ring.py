"""The memory between a parent and its builder: what is in use there is not filled again."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from reconciler.image.builder.ring import SIZE, WINDOW, Mapping, Ring


@pytest.fixture
def full() -> Iterator[tuple[Ring, Mapping]]:
    """A ring that has been filled once, and the builder's side of it."""
    ring = Ring()
    ring.fill(SIZE)
    yield ring, Mapping(os.dup(ring.fd))
    ring.release()


def test_room_ends_where_a_part_of_a_view_is_left(full: tuple[Ring, Mapping]) -> None:
    ring, mapping = full
    views = [mapping.view(at, WINDOW) for at in range(0, SIZE, WINDOW)]
    kept = views[3][5:9]
    views.clear()

    held = mapping.held(SIZE)
    ring.take(SIZE, held)

    assert held == SIZE - 3 * WINDOW
    assert len(ring.space(SIZE)) == 3 * WINDOW
    assert kept.tobytes() == bytes(4)


def test_what_nothing_uses_any_more_is_room(full: tuple[Ring, Mapping]) -> None:
    ring, mapping = full
    views = [mapping.view(at, WINDOW // 2) for at in range(0, SIZE, WINDOW // 2)]
    assert mapping.held(SIZE) == SIZE

    views.clear()
    ring.take(SIZE, mapping.held(SIZE))

    assert len(ring.space(SIZE)) == SIZE


@pytest.mark.parametrize(("read", "held"), [(SIZE + 1, 0), (SIZE // 2, 0), (SIZE, -1), (SIZE, SIZE), (SIZE, SIZE // 2)])
def test_a_builder_cannot_use_what_it_has_given_back_or_has_not_got(full: tuple[Ring, Mapping], read: int, held: int) -> None:
    ring, _ = full
    ring.take(SIZE - 1, WINDOW)

    with pytest.raises(ValueError, match="bytes read"):
        ring.take(read, held)

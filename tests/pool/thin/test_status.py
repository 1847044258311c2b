"""Status lines, tables and messages of device-mapper's thin targets: what is printed is what is read, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.pool.thin import status
from reconciler.pool.thin.status import Mode, PoolStatus, PoolTable, ThinStatus, ThinTable

numbers = st.integers(0, (1 << 64) - 1)
words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)
devices = st.builds(lambda major, minor: f"{major}:{minor}", st.integers(0, 4095), st.integers(0, (1 << 20) - 1))
pool_states = st.just(PoolStatus()) | st.builds(
    PoolStatus,
    transaction=numbers,
    used_metadata=numbers,
    total_metadata=numbers,
    used_data=numbers,
    total_data=numbers,
    held_root=st.none() | numbers,
    mode=st.sampled_from([mode for mode in Mode if mode is not Mode.FAIL]),
    discard=st.sampled_from(["discard_passdown", "no_discard_passdown", "ignore_discard"]),
    error_if_no_space=st.booleans(),
    needs_check=st.booleans(),
    metadata_low_water=st.none() | numbers,
)
thin_states = st.just(ThinStatus(failed=True)) | st.builds(ThinStatus, numbers, st.none() | numbers)
pool_tables = st.builds(PoolTable, devices, devices, numbers, numbers, st.lists(words, max_size=5).map(tuple))
thin_tables = st.builds(ThinTable, devices, st.integers(0, (1 << 24) - 1), st.none() | devices)


@given(pool_states | thin_states | pool_tables | thin_tables)
def test_what_is_printed_is_what_is_read(value: PoolStatus | ThinStatus | PoolTable | ThinTable) -> None:
    assert type(value).parse(str(value)) == value
    assert type(value).parse(f"{value} ") == value, "kernels end some lines with a space"


@given(st.sampled_from([PoolStatus, ThinStatus, PoolTable, ThinTable]), st.text() | st.lists(words).map(" ".join))
def test_nothing_else_comes_of_any_text_than_a_value_or_a_value_error(
    kind: type[PoolStatus | ThinStatus | PoolTable | ThinTable], text: str
) -> None:
    try:
        value = kind.parse(text)
    except ValueError as error:
        assert repr(text) in str(error)
    else:
        assert kind.parse(str(value)) == value


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "0 213/2048 0/4096 - rw discard_passdown error_if_no_space - 512",
            PoolStatus(0, 213, 2048, 0, 4096, None, Mode.RW, "discard_passdown", True, False, 512),
        ),
        (
            "4294967297 7/1024 12/8192 66 ro no_discard_passdown queue_if_no_space needs_check 256",
            PoolStatus(4294967297, 7, 1024, 12, 8192, 66, Mode.RO, "no_discard_passdown", False, True, 256),
        ),
        (
            "1 7/1024 8192/8192 - out_of_data_space ignore_discard error_if_no_space -",
            PoolStatus(1, 7, 1024, 8192, 8192, None, Mode.OUT_OF_DATA_SPACE, "ignore_discard", True, False, None),
        ),
        ("Fail", PoolStatus()),
    ],
)
def test_a_pools_status(line: str, expected: PoolStatus) -> None:
    assert PoolStatus.parse(line) == expected
    assert str(expected) == line


def test_a_pool_without_a_readable_status_has_failed() -> None:
    assert PoolStatus.parse("Error").mode is Mode.FAIL
    assert ThinStatus.parse("Error").failed


def test_words_that_later_kernels_add_are_passed_over() -> None:
    line = "0 213/2048 0/4096 - rw discard_passdown error_if_no_space - 512"

    assert PoolStatus.parse(f"{line} and more") == PoolStatus.parse(line)
    assert ThinStatus.parse("128 127 more") == ThinStatus(128, 127)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("0 -", ThinStatus(0, None)), ("15360 20479", ThinStatus(15360, 20479)), ("Fail", ThinStatus(failed=True))],
)
def test_a_thin_devices_status(line: str, expected: ThinStatus) -> None:
    assert ThinStatus.parse(line) == expected
    assert str(expected) == line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("7:0 7:1 128 10 1 error_if_no_space", PoolTable("7:0", "7:1", 128, 10, ("error_if_no_space",))),
        ("7:0 7:1 128 0 0", PoolTable("7:0", "7:1", 128, 0)),
    ],
)
def test_a_pools_table(line: str, expected: PoolTable) -> None:
    assert PoolTable.parse(line) == expected
    assert str(expected) == line


def test_a_table_may_be_written_without_a_count_of_features() -> None:
    assert PoolTable.parse("/dev/loop0 /dev/loop1 128 0") == PoolTable("/dev/loop0", "/dev/loop1", 128, 0)


@pytest.mark.parametrize(
    ("line", "expected"), [("254:0 7", ThinTable("254:0", 7)), ("254:0 7 7:3", ThinTable("254:0", 7, "7:3"))]
)
def test_a_thin_devices_table(line: str, expected: ThinTable) -> None:
    assert ThinTable.parse(line) == expected
    assert str(expected) == line


@pytest.mark.parametrize(
    ("parse", "line"),
    [
        (PoolStatus.parse, ""),
        (PoolStatus.parse, "0 213/2048 0/4096 - rw discard_passdown error_if_no_space"),
        (PoolStatus.parse, "0 213 0/4096 - rw discard_passdown error_if_no_space - 512"),
        (PoolStatus.parse, "0 213/2048 0/4096 - wo discard_passdown error_if_no_space - 512"),
        (PoolStatus.parse, "0 213/2048 0/4096 - Fail discard_passdown error_if_no_space - 512"),
        (PoolStatus.parse, "0 213/2048 0/4096 - rw discard_passdown panic - 512"),
        (PoolStatus.parse, "0 213/2048 0/4096 - rw discard_passdown error_if_no_space perhaps 512"),
        (ThinStatus.parse, "-"),
        (ThinStatus.parse, "x -"),
        (PoolTable.parse, "7:0 7:1 128"),
        (PoolTable.parse, "7:0 7:1 128 0 2 error_if_no_space"),
        (ThinTable.parse, "254:0"),
        (ThinTable.parse, "254:0 x"),
        (ThinTable.parse, "254:0 1 7:3 more"),
    ],
)
def test_a_line_that_is_none_is_named(parse: Callable[[str], object], line: str) -> None:
    with pytest.raises(ValueError, match=r"^not the (status|table) of a thin (pool|device): ") as caught:
        parse(line)

    assert str(caught.value).endswith(repr(line))


def test_messages_are_as_the_kernel_takes_them() -> None:
    assert [
        status.create_thin(5),
        status.create_snap(6, 5),
        status.delete(5),
        status.set_transaction_id(0, (7 << 32) | 1),
        status.release_metadata_snap(),
    ] == ["create_thin 5", "create_snap 6 5", "delete 5", "set_transaction_id 0 30064771073", "release_metadata_snap"]

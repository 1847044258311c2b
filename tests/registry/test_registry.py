"""The registry remembers what there should be and what happened, whoever else is writing and whenever the process ends."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.engine.definitions import Conflict, Entry, Result, Run, Status
from reconciler.engine.facts import (
    Fact,
    LayerSeen,
    ReferenceGone,
    ReferenceResolved,
    SnapshotGone,
    SnapshotMade,
    VolumeGone,
    VolumeSealed,
)
from reconciler.errors import HostCannot
from reconciler.image.spec import ImageReference, Layer, Resolved, S3Options, Source
from reconciler.model import ImageRow, Key, Kind, SnapshotRow, VolumeRow
from reconciler.pool.file.intents import Intent
from reconciler.pool.thin.adoption import Adoption
from reconciler.pool.thin.journal import DeviceRow, PoolRow, Role, State
from reconciler.registry import database
from reconciler.registry.marks import Mark, What
from reconciler.registry.writer import Registry

S3 = Source("s3://images/golang/1.tar", S3Options(endpoint_url="http://127.0.0.1:9000"))
GOLANG = ImageRow("golang", "default", "c0ffee", 8 << 30, False)
VOLUME = VolumeRow("default", "c0ffee", "f00d", 8 << 30, ("d1", "d2"), "ino 7")
SNAPSHOT = SnapshotRow("default", "golang-ci-0", "golang", "c0ffee", "ino 8")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite3"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    with Registry.open(path) as registry:
        yield registry


def opened(registry: Registry, name: str = "c0ffee", number: int = 1, **more: object) -> Run:
    values = {"machine": "volume", "subject": Key(Kind.VOLUME, "default", name), "state": "pending", "digest": "d"} | more
    return registry.open_run(Run(id=f"{name}-{number}", opened=0, updated=0, **values))  # type: ignore[arg-type]


def take_id(registry: Registry, pool: str) -> int:
    """The id of a device whose creation begins."""
    return registry.begin_devices(pool, [DeviceRow(0, Role.SNAPSHOT, "", "", 1, 0, State.CREATING)], ())[0].id


def end(registry: Registry, run: Run, status: Status, reason: str = "", message: str = "") -> None:
    entry = Entry(Result.FAILED, reason, message)
    registry.commit_run(run, replace(run, status=status, reason=reason, message=message), entry)


# --------------------------------------------------------------------------------------------- what there should be


def test_values_come_back_as_they_went_in_also_after_a_restart(registry: Registry, path: Path) -> None:
    registry.record_image(GOLANG)
    registry.apply([VolumeSealed(VOLUME), SnapshotMade(SNAPSHOT), LayerSeen(S3, '"etag"', 10_240, "d1")])
    for again in (registry, Registry.open(path), Registry.open(path, read_only=True)):
        assert again.images() == {"golang": GOLANG}
        assert again.volumes() == {("default", "c0ffee"): VOLUME}
        assert again.snapshots() == {("default", "golang-ci-0"): SNAPSHOT}
        assert again.digest_seen(S3, '"etag"', 10_240) == "d1"
        again.close()


def test_a_volume_belongs_to_its_pool(registry: Registry) -> None:
    registry.apply([VolumeSealed(VOLUME), VolumeSealed(replace(VOLUME, pool="second"))])
    registry.apply([VolumeGone("second", "c0ffee")])

    assert list(registry.volumes()) == [("default", "c0ffee")]


def test_making_again_replaces_and_removing_what_is_gone_is_no_error(registry: Registry) -> None:
    registry.apply([VolumeSealed(VOLUME), VolumeSealed(replace(VOLUME, identity="ino 9", parent=None))])
    registry.apply([SnapshotGone("default", "never was"), VolumeGone("default", "never was")])

    assert registry.volumes()[("default", "c0ffee")] == replace(VOLUME, identity="ino 9", parent=None)


def test_an_image_is_recorded_changed_and_forgotten(registry: Registry) -> None:
    registry.record_image(GOLANG)
    registry.record_image(replace(GOLANG, chain=None, retain=True))
    assert registry.images() == {"golang": replace(GOLANG, chain=None, retain=True)}

    registry.forget_image("golang")
    registry.forget_image("golang")
    assert registry.images() == {}


@pytest.mark.parametrize(
    ("source", "etag", "size"),
    [
        (S3, "other", 10),
        (S3, "etag", 11),
        (Source("s3://private/golang/1.tar", S3.s3), "etag", 10),
        (Source("s3://images/node/1.tar", S3.s3), "etag", 10),
        (Source("s3://images/golang/1.tar"), "etag", 10),
        (Source("/srv/1.tar"), "etag", 10),
    ],
    ids=["other bytes", "other length", "other bucket", "other key", "other endpoint", "a file"],
)
def test_a_digest_is_recorded_only_for_the_exact_bytes_that_were_fetched(
    registry: Registry, source: Source, etag: str, size: int
) -> None:
    registry.apply([LayerSeen(S3, "etag", 10, "d1")])

    assert registry.digest_seen(source, etag, size) is None


def test_what_an_older_version_has_recorded_for_a_bucket_is_found_apart(registry: Registry) -> None:
    """It may be of another key, so callers use it only where an image was made of it."""
    with registry._writing():
        registry._raw.execute("INSERT INTO seen VALUES (?, 'etag', 10, 'd1')", (f"{S3.s3.endpoint_url or 'aws'}/images",))

    assert registry.digest_seen(S3, "etag", 10) is None
    assert registry.digest_seen_in_bucket(S3, "etag", 10) == "d1"
    assert registry.digest_seen_in_bucket(Source("/srv/1.tar"), "etag", 10) is None


def test_what_was_learnt_of_bytes_can_be_dropped(registry: Registry) -> None:
    registry.apply([LayerSeen(S3, "etag", 10, "d1"), LayerSeen(S3, "other", 10, "d2")])
    registry.forget_seen("d1")
    registry.forget_seen("d1")

    assert registry.digest_seen(S3, "etag", 10) is None
    assert registry.digest_seen(S3, "other", 10) == "d2"


def test_files_are_identified_by_their_path(registry: Registry) -> None:
    registry.apply([LayerSeen(Source("/srv/1.tar"), "mtime", 10, "d1"), LayerSeen(Source("/srv/1.tar"), "mtime", 10, "d2")])

    assert registry.digest_seen(Source("/srv/1.tar"), "mtime", 10) == "d2", "the latest look counts"
    assert registry.digest_seen(Source("/srv/2.tar"), "mtime", 10) is None


def test_ids_are_counted_for_each_pool_and_never_given_twice(registry: Registry, path: Path) -> None:
    assert [take_id(registry, "thin"), take_id(registry, "thin"), take_id(registry, "other")] == [1, 2, 1]
    registry.close()
    with Registry.open(path) as again:
        assert take_id(again, "thin") == 3


FACTS = st.lists(
    st.one_of(
        st.builds(
            VolumeSealed, st.builds(VolumeRow, *[st.sampled_from("ab")] * 2, st.none() | st.text(), st.integers(0, 2**63 - 1))
        ),
        st.builds(VolumeGone, *[st.sampled_from("ab")] * 2),
        st.builds(SnapshotMade, st.builds(SnapshotRow, *[st.sampled_from("ab")] * 2, st.text(), st.text(), st.text())),
        st.builds(SnapshotGone, *[st.sampled_from("ab")] * 2),
    )
)


@settings(max_examples=20, deadline=None)
@given(FACTS)
def test_facts_add_up_to_what_there_is(facts: list[Fact]) -> None:
    volumes: dict[tuple[str, str], VolumeRow] = {}
    snapshots: dict[tuple[str, str], SnapshotRow] = {}
    for fact in facts:
        match fact:
            case VolumeSealed(row):
                volumes[row.pool, row.chain] = row
            case SnapshotMade(row):
                snapshots[row.pool, row.name] = row
            case VolumeGone(pool, chain):
                volumes.pop((pool, chain), None)
            case SnapshotGone(pool, name):
                snapshots.pop((pool, name), None)
    with in_memory() as registry:
        registry.apply(facts)

        assert (registry.volumes(), registry.snapshots()) == (volumes, snapshots)


def in_memory() -> Registry:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    database.upgrade(connection, Path(":memory:"))
    return Registry(connection, Path(":memory:"), read_only=False, clock=lambda: 0.0)


# ------------------------------------------------------------------------------------------- the file and its readers


def test_the_host_has_one_id_for_good(registry: Registry, path: Path, tmp_path: Path) -> None:
    with Registry.open(path) as again, Registry.open(tmp_path / "other") as other:
        assert registry.host == again.host != other.host
        assert len(registry.host) == 32


def test_the_serial_grows_with_every_change_and_only_then(registry: Registry) -> None:
    serials = [registry.serial]
    for change in (
        lambda: registry.record_image(GOLANG),
        lambda: registry.apply([VolumeSealed(VOLUME)]),
        lambda: take_id(registry, "thin"),
        lambda: registry.event(Key(Kind.POOL, "", "thin"), "Assembled", ""),
        lambda: opened(registry),
        lambda: registry.forget_image("golang"),
    ):
        change()
        serials.append(registry.serial)
    assert serials == sorted(set(serials))

    registry.record_image(replace(GOLANG, name="node"))
    before = registry.serial
    registry.record_image(replace(GOLANG, name="node"))
    registry.forget_image("golang")
    opened(registry)
    registry.volumes()
    assert registry.serial == before


def test_a_registry_that_is_not_there_reads_as_empty_and_is_not_made(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "state" / "registry.sqlite3", read_only=True) as registry:
        assert (registry.images(), registry.volumes(), registry.failures(), registry.events(), registry.runs()) == (
            {},
            {},
            {},
            (),
            (),
        )
        with pytest.raises(RuntimeError, match="opened for reading"):
            take_id(registry, "thin")

    assert os.listdir(tmp_path) == []


def test_reading_beside_a_writer_sees_one_state_and_delays_no_writer(registry: Registry, path: Path) -> None:
    registry.record_image(GOLANG)
    with Registry.open(path, read_only=True) as reader:
        registry.forget_image("golang")

        assert reader.images() == {"golang": GOLANG}
        assert reader.serial < registry.serial


def test_a_schema_that_was_written_by_a_newer_version_is_refused(registry: Registry, path: Path) -> None:
    registry.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    for read_only in (False, True):
        with pytest.raises(HostCannot, match="schema 99"):
            Registry.open(path, read_only=read_only)


def test_a_row_that_breaks_the_rules_is_refused_by_the_file_itself(registry: Registry, path: Path) -> None:
    run = opened(registry)
    with closing(sqlite3.connect(path)) as connection:
        for statement in (
            "UPDATE run SET status = 'finished'",
            "UPDATE run SET input = 'not json'",
            "UPDATE run SET attempt = 'many'",
            "INSERT INTO image VALUES ('x', 'default', NULL, 1, 2)",
            "INSERT INTO volume VALUES ('default', 'x', NULL, 'big', '[]', '')",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(statement)
    assert registry.run(run.id) == run


def test_a_full_disk_is_reported_and_half_a_transaction_is_none(registry: Registry) -> None:
    registry._raw.execute(f"PRAGMA max_page_count = {registry._raw.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(HostCannot, match=r"disk is full \(free space"):
        registry.apply([VolumeSealed(replace(VOLUME, chain=f"{n}", identity="x" * 4000)) for n in range(50)])

    assert registry.volumes() == {}
    registry._raw.execute("PRAGMA max_page_count = 100000")
    registry.apply([VolumeSealed(VOLUME)])
    assert len(registry.volumes()) == 1


# ------------------------------------------------------------------------------------------------------ many writers

WRITER = """
import pathlib, sys
from reconciler.pool.thin.adoption import Adoption
from reconciler.pool.thin.journal import DeviceRow, PoolRow, Role, State
from reconciler.model import ImageRow
from reconciler.registry.writer import Registry
with Registry.open(pathlib.Path(sys.argv[1])) as registry:
    sys.stdin.readline()
    for n in range(20):
        registry.record_image(ImageRow(sys.argv[2], "default", None, n, False))
        print(registry.begin_devices("thin", [DeviceRow(0, Role.SNAPSHOT, "", "", 1, 0, State.CREATING)], ())[0].id)
"""


def test_many_devices_get_ids_in_one_transaction_and_ids_in_use_are_skipped(registry: Registry) -> None:
    wanted = [DeviceRow(0, Role.SNAPSHOT, name, "", 1, 7, State.CREATING) for name in "abc"]

    given = registry.begin_devices("thin", wanted, {1, 3, (1 << 24) - 1})

    assert [(row.id, row.name) for row in given] == [(2, "a"), (4, "b"), (5, "c")]
    assert tuple(registry.thin_devices("thin").values()) == given
    assert registry.begin_devices("thin", wanted[:1], ())[0].id == 6, "the sequence does not jump"


def test_adopting_a_device_with_a_large_id_does_not_move_the_sequence(registry: Registry) -> None:
    large = DeviceRow((1 << 24) - 1, Role.SNAPSHOT, "web", "", 1, 7, State.HELD)

    registry.adopt_pool("thin", Adoption(PoolRow(1, 7), take=(large,)), [], [])

    assert registry.last_thin_id("thin") == 0
    assert registry.begin_devices("thin", [DeviceRow(0, Role.SNAPSHOT, "a", "", 1, 7, State.CREATING)], {large.id})[0].id == 1
    assert registry.last_thin_id("thin") == 1


def test_two_processes_never_get_the_same_id_and_neither_is_turned_away(path: Path) -> None:
    """Both make the file, both write all the time: BEGIN IMMEDIATE waits where a read that turns into a write would fail."""
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    ids = [int(word) for writer in writers for word in writer.communicate(timeout=60)[0].split()]

    assert sorted(ids) == list(range(1, 41))
    with Registry.open(path) as registry:
        assert {name: image.size for name, image in registry.images().items()} == {"a": 19, "b": 19}


def test_a_writer_waits_for_another_one_and_fails_if_that_takes_too_long(registry: Registry, path: Path) -> None:
    with closing(database.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.2, other.commit)
        release.start()
        registry.event(Key(Kind.POOL, "", "thin"), "Waited", "")
        release.join()

        registry._raw.execute("PRAGMA busy_timeout = 50")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(HostCannot, match="database is locked"):
            registry.event(Key(Kind.POOL, "", "thin"), "Gave up", "")
    assert [event.reason for event in registry.events()] == ["Waited"]


def test_threads_share_a_registry(registry: Registry) -> None:
    ids: list[int] = []
    threads = [threading.Thread(target=lambda: ids.extend(take_id(registry, "thin") for _ in range(25))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(ids) == list(range(1, 101))


# -------------------------------------------------------------------------------------------------------------- runs


def test_a_run_comes_back_as_it_went_in(registry: Registry) -> None:
    run = opened(registry, input={"layers": [{"url": "s3://a/b", "sha256": None}], "größe": 1.5}, data={"x": [True]})

    assert registry.run(run.id) == run
    assert registry.open_runs() == registry.runs() == (run,)


def test_a_run_that_another_process_changed_is_not_overwritten(registry: Registry) -> None:
    """Neither its state nor the facts of the loser."""
    seen = opened(registry)
    registry.commit_run(seen, replace(seen, state="downloading"), Entry(Result.ADVANCED, "Downloading"))
    for stale in (seen, replace(seen, state="downloading", attempt=1), replace(seen, state="downloading", status=Status.FAILED)):
        with pytest.raises(Conflict):
            registry.commit_run(stale, replace(stale, state="ready"), Entry(Result.ADVANCED, "Ready"), [VolumeSealed(VOLUME)])
        with pytest.raises(Conflict):
            registry.begin_attempt(stale, 0)

    assert registry.run(seen.id).state == "downloading"
    assert registry.volumes() == {}
    assert len(registry.transitions(seen.id)) == 1


def test_facts_that_can_not_be_recorded_keep_the_run_where_it_was(registry: Registry) -> None:
    run = opened(registry)
    impossible = VolumeSealed(replace(VOLUME, size="big"))  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        registry.commit_run(run, replace(run, state="ready"), Entry(Result.ADVANCED, "Ready"), [VolumeSealed(VOLUME), impossible])

    assert registry.run(run.id) == run
    assert registry.volumes() == {}
    assert [event.reason for event in registry.events()] == ["Opened"]


def test_a_commit_does_not_undo_a_cancel_that_came_meanwhile(registry: Registry) -> None:
    seen = opened(registry)
    registry.request_cancel(seen.id, "not wanted any more")
    registry.request_cancel(seen.id, "second thought")
    registry.commit_run(seen, replace(seen, state="downloading"), Entry(Result.ADVANCED, "Downloading"))

    assert registry.run(seen.id).cancel == "not wanted any more"


def test_the_file_itself_allows_one_open_run_for_an_object(registry: Registry, path: Path) -> None:
    opened(registry)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError):
        columns = ", ".join(row[1] for row in connection.execute("PRAGMA table_info(run)") if row[1] not in ("number", "id"))
        connection.execute(f"INSERT INTO run (id, {columns}) SELECT 'second', {columns} FROM run")


def test_the_last_run_of_an_object_decides_whether_it_failed(registry: Registry) -> None:
    for name, ends in {
        "bad": [Status.DONE, Status.FAILED],
        "good again": [Status.FAILED, Status.DONE],
        "asks": [Status.NEEDS_OPERATOR],
        "called off": [Status.CANCELLED],
    }.items():
        for number, status in enumerate(ends):
            end(registry, opened(registry, name, number), status, "DigestMismatch", f"{name} {number}")
    waiting = opened(registry, "waiting")
    tried = replace(waiting, attempt=1, reason="SourceUnavailable", message="no answer")
    registry.commit_run(waiting, tried, Entry(Result.RETRY, "SourceUnavailable"))
    opened(registry, "just begun")

    assert {(f.name, f.reason, f.message, f.waits_for_person) for f in registry.failures().values()} == {
        ("bad", "DigestMismatch", "bad 1", False),
        ("asks", "DigestMismatch", "asks 0", True),
        ("waiting", "SourceUnavailable", "no answer", False),
    }
    assert set(registry.failures()) == {Key(Kind.VOLUME, "default", name) for name in ("bad", "asks", "waiting")}


def test_runs_can_be_asked_for_by_object_and_status(registry: Registry) -> None:
    for number in range(5):
        end(registry, opened(registry, "a", number), Status.FAILED if number % 2 else Status.DONE)
    opened(registry, "b", 1)

    assert [run.id for run in registry.runs(Key(Kind.VOLUME, "default", "a"), limit=2)] == ["a-3", "a-4"]
    assert [run.id for run in registry.runs(status=Status.FAILED)] == ["a-1", "a-3"]
    assert [run.id for run in registry.runs(status=Status.ACTIVE)] == ["b-1"]
    assert registry.runs(Key(Kind.SNAPSHOT, "default", "a")) == registry.runs(Key(Kind.VOLUME, "other", "a")) == ()


def test_asking_for_a_run_that_is_not_there_is_a_key_error(registry: Registry) -> None:
    for ask in (registry.run, lambda run: registry.request_cancel(run, "")):
        with pytest.raises(KeyError, match="nowhere"):
            ask("nowhere")


# ----------------------------------------------------------------------------------------------------------- history


def test_events_are_kept_in_order_and_found_by_object(path: Path) -> None:
    ticks = iter(range(100))
    with Registry.open(path, clock=lambda: float(next(ticks))) as registry:
        registry.event(Key(Kind.VOLUME, "default", "a"), "Sealed", "8 GiB", run="r1")
        registry.event(Key(Kind.SNAPSHOT, "default", "a"), "Made", "")
        registry.event(Key(Kind.VOLUME, "default", "b"), "Sealed", "")

        assert [(e.seq, e.at, e.kind, e.pool, e.name, e.message, e.run) for e in registry.events(limit=2)] == [
            (2, 1.0, "Snapshot", "default", "a", "", ""),
            (3, 2.0, "Volume", "default", "b", "", ""),
        ]
        assert [(e.kind, e.run) for e in registry.events(Key(Kind.VOLUME, "default", "a"))] == [("Volume", "r1")]
        assert [e.seq for e in registry.events(Key(Kind.SNAPSHOT, "", "a"))] == [2], "in any pool"
        assert registry.events(Key(Kind.SNAPSHOT, "other", "a")) == ()
        assert [e.seq for e in registry.events(limit=2)] == [2, 3]


def test_what_is_not_utf_8_is_shown_escaped(registry: Registry) -> None:
    """Names in hostile archives, and of files on this host, are bytes."""
    name = os.fsdecode(b"caf\xe9")
    registry.event(Key(Kind.VOLUME, "default", name), "LeftoverDiscarded", f"half-built: {name}")
    registry.apply([LayerSeen(Source(f"/srv/{name}"), "e", 1, "d1")])
    end(registry, opened(registry), Status.FAILED, "UnsafeArchive", f"{name}: refused")

    assert registry.events()[0].message == "half-built: caf\\udce9"
    assert registry.digest_seen(Source(f"/srv/{name}"), "e", 1) == "d1"
    assert registry.failures()[Key(Kind.VOLUME, "default", "c0ffee")].message == "caf\\udce9: refused"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET message = 'nothing happened'",
        "DELETE FROM event",
        "INSERT OR REPLACE INTO event SELECT seq, at, kind, name, reason, 'nothing happened', run, pool FROM event",
    ],
)
def test_history_can_not_be_rewritten_from_outside_either(registry: Registry, path: Path, statement: str) -> None:
    registry.event(Key(Kind.VOLUME, "default", "a"), "Sealed", "it happened")
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    registry.prune_history(keep=10)

    assert [event.message for event in registry.events()] == ["it happened"]


def test_retention_keeps_the_newest_events_and_numbers_are_not_used_again(registry: Registry) -> None:
    for number in range(10):
        registry.event(Key(Kind.VOLUME, "default", f"{number}"), "Sealed", "")
    assert registry.prune_history(keep=3) == 7
    assert registry.prune_history(keep=3) == 0
    assert registry.prune_history(keep=0) == 3
    registry.event(Key(Kind.VOLUME, "default", "next"), "Sealed", "")

    assert [event.seq for event in registry.events()] == [11]


def test_retention_ends_what_is_remembered_of_objects_that_are_gone(registry: Registry) -> None:
    """200,000 former snapshots leave no more than the newest runs."""
    row = SnapshotRow("default", "kept", "web", "c1", "identity")
    registry.apply([SnapshotMade(row)])
    for name in ("gone", "kept"):
        run = Run(f"{name}-1", "snapshot", Key(Kind.SNAPSHOT, "default", name), "pending", "", 1.0, 1.0)
        end(registry, registry.open_run(run), Status.DONE)
    for number in range(6):
        end(registry, opened(registry, "busy", number), Status.DONE)
    registry.prune_history(keep=2)

    assert [run.id for run in registry.runs()] == ["kept-1", "busy-4", "busy-5"]


def test_retention_keeps_the_digests_of_volumes_and_the_newest(registry: Registry) -> None:
    registry.apply([VolumeSealed(VolumeRow("default", "c1", None, 1 << 20, ("d0",), "identity"))])
    for number in range(6):
        registry.apply([LayerSeen(S3, f"etag{number}", 10, f"d{number}")])
    registry.prune_history(keep=2)

    assert [registry.digest_seen(S3, f"etag{number}", 10) for number in range(6)] == ["d0", None, None, None, "d4", "d5"]


def test_generations_and_old_marks_of_images_that_are_gone_are_dropped(registry: Registry) -> None:
    registry.observe_generations({"declared": "x", "gone": "y"})
    for name in ("declared", "gone", "gone lately"):
        registry.mark(Mark(name, What.PROTECTED, since=100.0 if name == "gone lately" else 1.0))
    registry.forget_gone(["declared"], before=50.0)

    assert list(registry.generations()) == ["declared"]
    assert sorted(name for name, _ in registry.marks()) == ["declared", "gone lately"]


def test_retention_keeps_open_runs_and_the_last_run_of_each_object(registry: Registry) -> None:
    open_ = opened(registry, "open")
    for number in range(6):
        end(registry, opened(registry, "busy", number), Status.DONE)
    end(registry, opened(registry, "failed long ago"), Status.FAILED, "DigestMismatch")
    for number in range(6, 12):
        end(registry, opened(registry, "busy", number), Status.DONE)
    registry.prune_history(keep=2)

    assert [run.id for run in registry.runs()] == [open_.id, "failed long ago-1", "busy-10", "busy-11"]
    assert registry.transitions("busy-3") == ()
    assert len(registry.transitions("busy-10")) == 1
    assert Key(Kind.VOLUME, "default", "failed long ago") in registry.failures()


def test_no_query_has_numbered_placeholders() -> None:
    """Python 3.12 warns of ``?1`` with a sequence, and 3.14 refuses it: a query has ``?`` alone, or names."""
    sources = Path(database.__file__).parent.glob("*.py")
    assert [path.name for path in sources if re.search(r"\?\d", path.read_text())] == []


def test_intents_are_replaced_by_the_row_of_the_snapshot(tmp_path: Path) -> None:
    """Those of another pool, and of other snapshots, stay."""
    with Registry.open(tmp_path / "registry.sqlite3") as registry:
        both = {"web": Intent("ino=1 gen=2", "c"), "db": Intent("ino=3 gen=4", "c")}
        registry.write_intents("default", both)
        registry.write_intents("other", {"web": Intent("ino=5 gen=6", "d")})
        registry.request_aside("default", "web", "ino=7 gen=8")
        assert (registry.intents("default"), registry.asides()) == (both, {("default", "web"): "ino=7 gen=8"})

        registry.apply([SnapshotMade(SnapshotRow("default", "web", "image", "c", "ino=1 gen=2"))])

        assert registry.intents("default") == {"db": both["db"]}
        assert registry.asides() == {}
        registry.write_intents("default", {}, ["db"])
        assert (registry.intents("default"), set(registry.intents("other"))) == ({}, {"web"})


def test_what_a_reference_stood_for_is_found_by_its_url_and_by_its_digest(registry: Registry) -> None:
    """Another repository's reference with the same digest has the same layers, served by its own repository."""
    digest = f"sha256:{'d' * 64}"
    layer = Layer(Source(f"oci://one.example/web@sha256:{'a' * 64}"), "a" * 64, size=7, diff_id="b" * 64)
    found = Resolved(digest, f"sha256:{'e' * 64}", '{"config": {}}', (layer,))
    tag, other = (ImageReference(Source(url), "linux/amd64") for url in ("oci://one.example/web:1", "oci://two.example/copy:2"))

    registry.apply([ReferenceResolved(tag, found)])
    registry.apply([ReferenceResolved(tag, found)])

    assert registry.recorded([tag, other]) == {tag: replace(found, config="")}
    assert registry.image_configs() == {("oci://one.example/web:1", "linux/amd64"): '{"config": {}}'}
    elsewhere = registry.resolved(other, digest)
    assert elsewhere is not None
    assert elsewhere.layers == (replace(layer, source=Source(f"oci://two.example/copy@sha256:{'a' * 64}")),)
    assert (elsewhere.layers[0].size, elsewhere.layers[0].diff_id) == (7, "b" * 64)
    assert registry.resolved(replace(other, platform="linux/arm64"), digest) is None

    registry.apply([ReferenceGone("oci://one.example/web:1", "linux/amd64")])
    assert registry.recorded([tag]) == {}

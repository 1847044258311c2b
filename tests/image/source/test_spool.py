"""Layers are fetched once, in order, whole and right, whatever the network, the server, the disk and other readers do."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.backoff import Backoff
from reconciler.errors import (
    DigestMismatch,
    NeedsOperator,
    NoSpace,
    ReconcilerError,
    SourceChanged,
    SourceForbidden,
    SourceNotFound,
    SourceUnavailable,
    Stopped,
)
from reconciler.image.source import arrival, download, reading, workers
from reconciler.image.source import spool as spooling
from reconciler.image.source.partial import Partial, Proof, Record
from reconciler.image.source.reading import PIECE, Reading
from reconciler.image.source.remote import head_one
from reconciler.image.source.spool import Spool
from reconciler.image.source.stamp import Head
from reconciler.image.source.sums import Sums
from reconciler.image.source.window import Window
from reconciler.image.spec import MIB, Layer, S3Options, Source
from samples.s3 import S3Server, upload
from tests.support.origin import Answer, Asked, Origin, eventually, failure
from tests.support.raw import RawServer, silent

DATA = random.Random(1).randbytes(3 * MIB + 12345)
SHA256 = hashlib.sha256(DATA).hexdigest()
SIZE = len(DATA)


@pytest.fixture(scope="module")
def address() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def origin(address: Origin) -> Origin:
    address.reset()
    return address


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "BETWEEN_REQUESTS", Backoff(0.001, 0.01))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """Parts of 1 MiB, and a record of how far it has come whenever there is something to record."""
    with Spool(tmp_path / "spool", part_bytes=MIB, checkpoint_seconds=0) as spool:
        yield spool


def content(fetch: Reading) -> bytes:
    """The layer as a builder gets it: along with its arrival."""
    read, buffer = bytearray(), memoryview(bytearray(PIECE))
    while got := fetch.readinto(buffer):
        read += buffer[:got]
    return bytes(read)


def fetched(spool: Spool, layer: Layer, head: Head | None = None) -> bytes:
    with spool.fetch(layer, head) as fetch:
        data = content(fetch)
        result = fetch.result()
    assert (result.digest, result.size) == (hashlib.sha256(data).hexdigest(), len(data))
    return data


def records(spool: Spool) -> list[Record]:
    found = (Partial.of(spool.directory, path.stem).load() for path in spool.directory.glob("*.json"))
    return [record for record in found if record]


def names(spool: Spool) -> set[str]:
    return {path.name for path in spool.directory.iterdir()}


def parts(*stops: int) -> list[tuple[int, int]]:
    return list(zip((0, *stops), stops, strict=False))


# ------------------------------------------------------------------------------------------- a real S3 server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    path = tmp_path_factory.mktemp("objects") / "layer"
    path.write_bytes(DATA)
    with S3Server() as server:
        upload(server.endpoint, {"1.tar": path, "again/1.tar": path}, "images")
        yield server


def on(server: S3Server, key: str, *, pinned: bool = True) -> Layer:
    server.forget()
    s3 = S3Options(server.endpoint, "us-east-1", anonymous=True)
    return Layer(Source(f"s3://images/{key}", s3), SHA256 if pinned else None)


def test_a_pinned_layer_costs_its_ranges_and_no_other_request(server: S3Server, spool: Spool) -> None:
    layer = on(server, "1.tar")

    assert fetched(spool, layer) == DATA

    asked = server.requests()
    assert {request.method for request in asked} == {"GET"}
    assert sorted(request.range for request in asked) == [
        "bytes=0-1048575",
        "bytes=1048576-2097151",
        "bytes=2097152-3145727",
        f"bytes=3145728-{SIZE - 1}",
    ]
    assert names(spool) == {SHA256}


def test_a_small_layer_costs_a_single_request(server: S3Server, tmp_path: Path) -> None:
    layer = on(server, "1.tar")

    assert fetched(Spool(tmp_path / "spool"), layer) == DATA
    assert len(server.requests()) == 1


def test_a_layer_that_is_not_pinned_is_identified_by_its_key_and_etag(server: S3Server, spool: Spool) -> None:
    """Fetched again it costs one HEAD."""
    layer = on(server, "1.tar", pinned=False)

    assert fetched(spool, layer) == fetched(spool, layer) == DATA

    assert len(server.gets("images/1.tar")) == 4
    assert [request.method for request in server.requests()].count("HEAD") == 2


def test_two_keys_with_equal_etag_and_length_are_two_layers(origin: Origin, spool: Spool) -> None:
    """Some servers make an ETag of a file's time and length."""
    one = Layer(origin.put(DATA, "layers/one.tar", etag="0-64"))
    two = Layer(origin.put(DATA[::-1], "layers/two.tar", etag="0-64"))

    assert fetched(spool, one) == DATA
    assert fetched(spool, two) == DATA[::-1]


def test_a_layer_that_lies_in_the_spool_is_not_asked_for_again(server: S3Server, spool: Spool) -> None:
    layer = on(server, "1.tar")
    fetched(spool, layer)
    server.forget()

    assert fetched(Spool(spool.directory), layer) == DATA
    assert not server.requests()


@pytest.mark.parametrize("pinned", [True, False])
def test_a_missing_layer_is_reported_with_its_place(server: S3Server, spool: Spool, pinned: bool) -> None:
    with pytest.raises(SourceNotFound, match="none"), spool.fetch(on(server, "none", pinned=pinned)) as fetch:
        fetch.result()


# ------------------------------------------------------------------------------------------------ many readers


def test_two_who_want_the_same_layer_share_one_transfer(origin: Origin, spool: Spool) -> None:
    layer, gate = origin.layer(DATA), threading.Event()
    origin.script = lambda asked: replace(origin.serve(asked), cut=1000, hold=gate)
    elsewhere = replace(layer, source=origin.put(DATA, "layers/copy.tar"))

    with spool.fetch(layer) as one, spool.fetch(elsewhere) as other:
        gate.set()
        assert content(one) == content(other) == DATA

    assert origin.ranges() == parts(MIB, 2 * MIB, 3 * MIB, SIZE)
    assert {asked.path for asked in origin.gets()} == {"/layers/one.tar"}


def test_many_threads_may_ask_at_once(origin: Origin, spool: Spool) -> None:
    layer, results = origin.layer(DATA), []
    threads = [threading.Thread(target=lambda: results.append(fetched(spool, layer))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [DATA] * 8
    assert len(origin.gets()) == 4


def test_one_who_leaves_does_not_end_it_for_the_others(origin: Origin, spool: Spool) -> None:
    layer, gate = origin.layer(DATA), threading.Event()
    origin.script = lambda asked: replace(origin.serve(asked), cut=0, hold=gate)
    leaving, staying = spool.fetch(layer), spool.fetch(layer)

    leaving.close()
    leaving.close()
    gate.set()

    with staying:
        assert content(staying) == DATA


def test_the_last_one_to_leave_ends_the_transfer_and_the_next_one_goes_on(origin: Origin, spool: Spool) -> None:
    layer, gate = origin.layer(DATA), threading.Event()
    origin.script = lambda asked: replace(origin.serve(asked), cut=0, hold=gate) if asked.start else None
    with spool.fetch(layer):
        eventually(Partial.of(spool.directory, SHA256).load)
    origin.script, origin.asked = (lambda asked: None), []

    assert fetched(spool, layer) == DATA
    assert origin.ranges()[0] == (MIB, 2 * MIB)
    gate.set()


def test_a_transfer_that_does_not_end_holds_up_no_other_layer(
    origin: Origin, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever left it may want it again: that waits, for a while, and without the lock that everybody needs."""
    stuck, gate, real = replace(origin.layer(DATA), sha256="5" * 64), threading.Event(), download.Download.run

    def run(one: download.Download) -> str:
        if one._layer == stuck:
            gate.wait(60)
        return real(one)

    monkeypatch.setattr(download.Download, "run", run)
    monkeypatch.setattr("reconciler.image.source.spool.ENDING_SECONDS", 0.5)
    spool.fetch(stuck).close()
    failures: list[ReconcilerError] = []

    def again() -> None:
        try:
            spool.fetch(stuck)
        except ReconcilerError as error:
            failures.append(error)

    waiting = threading.Thread(target=again)
    waiting.start()
    assert fetched(spool, origin.layer(DATA)) == DATA
    waiting.join()
    assert [type(one) for one in failures] == [SourceUnavailable]
    with pytest.raises(SourceUnavailable, match="has not ended"):
        spool.discard("5" * 64)
    gate.set()


def test_a_failure_at_somebody_elses_place_is_no_verdict_on_mine(origin: Origin, spool: Spool) -> None:
    """Two images name the same layer at two places, and one of the places is wrong."""
    mine, gate = origin.layer(DATA), threading.Event()
    wrong = replace(mine, source=origin.source("layers/none.tar"))

    def script(asked: Asked) -> Answer | None:
        gate.wait(10)
        return None

    origin.script = script
    with spool.fetch(wrong) as theirs, spool.fetch(mine) as joined:
        gate.set()
        with pytest.raises(SourceNotFound):
            theirs.result()
        with pytest.raises(SourceUnavailable, match=r"none\.tar"):
            joined.result()

    assert fetched(spool, mine) == DATA


# ---------------------------------------------------------------------------------------- reading along, stopping


@pytest.fixture
def second() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def attempts(spool: Spool, layer: Layer) -> list[type[ReconcilerError]]:
    """The errors of the attempts until one succeeds."""
    errors: list[type[ReconcilerError]] = []
    while len(errors) < 4:
        try:
            assert fetched(spool, layer) == DATA
            return errors
        except ReconcilerError as error:
            errors.append(type(error))
    raise AssertionError(errors)


FAILING: dict[str, Callable[[Asked], Answer]] = {
    "missing": lambda asked: failure(404, "NoSuchKey"),
    "forbidden": lambda asked: failure(403, "AccessDenied"),
    "out of order": lambda asked: failure(500, "InternalError"),
    "wrong": lambda asked: Answer(200, {"ETag": '"x"'}, b"another layer"),
}


@pytest.mark.parametrize("fault", FAILING.values(), ids=FAILING)
def test_another_source_of_the_same_digest_is_used_where_the_first_one_fails(
    origin: Origin, second: Origin, spool: Spool, fault: Callable[[Asked], Answer]
) -> None:
    layer = replace(origin.layer(DATA), others=(second.put(DATA, "elsewhere/one.tar"),))
    origin.script = fault

    assert attempts(spool, layer) == [SourceUnavailable]


def test_a_silent_source_holds_up_a_layer_less_where_another_one_has_it(
    origin: Origin, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "ELSEWHERE_SECONDS", 0.3)
    monkeypatch.setattr(spool, "_manner", replace(spool._manner, answer_seconds=3600.0))
    right = origin.layer(DATA)
    with RawServer(silent) as server:
        elsewhere = replace(right.source, s3=replace(right.source.s3, endpoint_url=server.endpoint))
        assert attempts(spool, replace(right, source=elsewhere, others=(right.source,))) == [SourceUnavailable]


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_source_that_stalls_is_asked_less_often_where_another_one_has_the_layer(
    origin: Origin, second: Origin, spool: Spool, elsewhere: bool
) -> None:
    """As if each answer had stalled for half a minute after its headers."""
    other = second.put(DATA, "elsewhere/one.tar")
    layer = replace(origin.layer(DATA), others=(other,) if elsewhere else ())
    origin.script = lambda asked: replace(origin.serve(asked), cut=0)
    with pytest.raises(SourceUnavailable), spool.fetch(layer) as fetch:
        content(fetch)

    # Any of the parts that are fetched side by side may be the one that is given up.
    asked = max(Counter(one.start for one in origin.gets()).values())
    assert asked == (spooling.ELSEWHERE_TRIES if elsewhere else reading.FRUITLESS_TRIES)
    origin.script = lambda asked: None
    assert fetched(spool, layer) == DATA
    assert bool(second.gets()) == elsewhere


def test_a_reader_that_comes_late_is_told_why_a_transfer_has_failed(
    origin: Origin, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the moment when the bytes are discarded already, and the error is not known yet."""
    discard, calls, gone = Partial.discard, [], threading.Event()

    def slowly(partial: Partial) -> None:
        discard(partial)
        calls.append(partial)
        if len(calls) == 2:  # first what an earlier attempt may have left
            gone.set()
            time.sleep(0.5)

    monkeypatch.setattr(Partial, "discard", slowly)
    with spool.fetch(replace(origin.layer(DATA), sha256="0" * 64)) as fetch:
        assert gone.wait(10)
        with pytest.raises(DigestMismatch):
            content(fetch)


def test_a_layer_is_fetched_from_the_source_that_reported_its_size(origin: Origin, second: Origin, spool: Spool) -> None:
    layer = replace(origin.layer(DATA), others=(second.put(DATA, "elsewhere/one.tar"),))
    origin.script = lambda asked: failure(404, "NoSuchKey")

    assert spool.length(layer) == SIZE
    origin.asked.clear()
    assert spool.length(layer) == SIZE
    assert attempts(spool, layer) == []
    assert not origin.asked


def test_a_source_that_reported_the_size_and_fails_is_not_used_again(origin: Origin, second: Origin, spool: Spool) -> None:
    layer = replace(origin.layer(DATA), others=(second.put(DATA, "elsewhere/one.tar"),))
    second.script = lambda asked: None if asked.method == "HEAD" else failure(404, "NoSuchKey")
    origin.script = lambda asked: failure(404, "NoSuchKey") if asked.method == "HEAD" else None

    assert spool.length(layer) == SIZE
    assert attempts(spool, layer) == [SourceUnavailable]


def test_the_next_attempt_names_the_source_that_it_uses(origin: Origin, second: Origin, spool: Spool) -> None:
    layer = replace(origin.layer(DATA), others=(second.source("elsewhere/one.tar"),))
    origin.objects.clear()

    with pytest.raises(SourceUnavailable, match=f"from s3://elsewhere/one.tar at {second.endpoint}"), spool.fetch(layer) as fetch:
        content(fetch)


def test_where_every_source_of_a_digest_fails_the_first_one_has_its_turn_again(
    origin: Origin, second: Origin, spool: Spool
) -> None:
    layer = replace(origin.layer(DATA), others=(second.source("elsewhere/one.tar"),))
    origin.script = lambda asked: failure(404, "NoSuchKey") if asked.number == 1 else None

    assert attempts(spool, layer) == [SourceUnavailable, SourceNotFound]
    assert len(second.asked) == 1


@pytest.mark.slow
def test_another_source_goes_on_where_the_first_one_broke_off(origin: Origin, second: Origin, spool: Spool) -> None:
    layer = replace(origin.layer(DATA), others=(second.put(DATA, "elsewhere/one.tar", etag="of-another-server"),))
    left_over(spool, layer, 2 * MIB, origin.etags["/layers/one.tar"])
    origin.script = lambda asked: failure(500, "InternalError")

    assert attempts(spool, layer) == [SourceUnavailable]
    assert second.ranges() == [(2 * MIB, 3 * MIB), (3 * MIB, SIZE)], "nothing is fetched a second time"


def test_the_beginning_can_be_read_while_the_rest_is_on_its_way(origin: Origin, spool: Spool) -> None:
    gate, buffer, read = threading.Event(), memoryview(bytearray(PIECE)), bytearray()
    origin.script = lambda asked: replace(origin.serve(asked), cut=0, hold=gate) if asked.start else None
    with spool.fetch(origin.layer(DATA)) as fetch:
        while len(read) < MIB:
            read += buffer[: fetch.readinto(buffer)]
        assert read == DATA[:MIB]
        assert fetch.progress == (MIB, SIZE)
        gate.set()
        fetch.result()

        assert bytes(read) + content(fetch) == DATA, "a reader outlives the renaming"


def test_a_reader_that_has_begun_outlives_the_file(origin: Origin, spool: Spool) -> None:
    layer, buffer = origin.layer(DATA), memoryview(bytearray(100))
    fetched(spool, layer)
    with spool.fetch(layer) as fetch:
        fetch.readinto(buffer)
        (spool.directory / SHA256).unlink()

        assert bytes(buffer) + content(fetch) == DATA


def test_what_a_reader_gets_is_hashed_on_its_way(origin: Origin, spool: Spool) -> None:
    """Bytes that change in the spool after they arrived, and before they are read, are found by the reader."""
    layer = origin.layer(DATA)
    with spool.fetch(layer) as fetch:
        fetch.result()
        (spool.directory / SHA256).write_bytes(DATA[:-1] + b"?")
        with pytest.raises(SourceChanged, match="damaged"):
            content(fetch)

    assert fetched(spool, layer) == DATA


@pytest.fixture
def hashed_alone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes a transfer's own thread has hashed, each time."""
    counts: list[int] = []
    digest = arrival.Arrival.digest

    def counted(self: arrival.Arrival, descriptor: int, start: int, stop: int, into: Sums) -> None:
        counts.append(stop - start)
        digest(self, descriptor, start, stop, into)

    monkeypatch.setattr(arrival.Arrival, "digest", counted)
    return counts


def followed(fetch: Reading, gate: threading.Event) -> bytes:
    """The layer, of which all but the first MiB arrives once that has been read."""
    read, buffer = bytearray(), memoryview(bytearray(PIECE))
    while len(read) < MIB:
        read += buffer[: fetch.readinto(buffer)]
    gate.set()
    return bytes(read) + content(fetch)


@pytest.mark.parametrize("pinned", [True, False])
def test_what_a_reader_hashes_as_it_arrives_is_not_hashed_again(
    origin: Origin, spool: Spool, hashed_alone: list[int], monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    """An MD5, which the ETag of an unpinned layer may be, is taken by the transfer alone."""
    monkeypatch.setattr(arrival, "LENT_SECONDS", 60.0)
    gate, layer = threading.Event(), origin.layer(DATA) if pinned else replace(origin.layer(DATA), sha256=None)
    origin.script = lambda asked: replace(origin.serve(asked), cut=0, hold=gate) if asked.start else None
    with spool.fetch(layer) as fetch:
        assert followed(fetch, gate) == DATA
        assert fetch.result().digest == SHA256

    assert sum(hashed_alone) <= MIB if pinned else sum(hashed_alone) == SIZE


def test_wrong_bytes_are_found_where_a_reader_has_hashed_them(
    origin: Origin, spool: Spool, hashed_alone: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "LENT_SECONDS", 60.0)
    gate, layer = threading.Event(), replace(origin.layer(DATA), sha256="0" * 64)
    origin.script = lambda asked: replace(origin.serve(asked), cut=0, hold=gate) if asked.start else None
    with spool.fetch(layer) as fetch, pytest.raises(DigestMismatch, match=f"has sha256 {SHA256}, not the declared 0000"):
        followed(fetch, gate)

    assert sum(hashed_alone) <= MIB
    assert names(spool) == set()


@pytest.mark.parametrize("closed", [True, False])
def test_a_reader_that_stalls_delays_no_other_reader(origin: Origin, spool: Spool, closed: bool) -> None:
    gate, buffer = threading.Event(), memoryview(bytearray(PIECE))
    origin.script = lambda asked: replace(origin.serve(asked), cut=0, hold=gate) if asked.start else None
    with spool.fetch(origin.layer(DATA)) as stalled, spool.fetch(origin.layer(DATA)) as other:
        stalled.readinto(buffer)
        if closed:
            stalled.close()
        gate.set()

        assert other.result().digest == SHA256


def test_bytes_far_ahead_of_their_reader_are_hashed_without_it(
    origin: Origin, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So there are proofs of most of it if the process is killed, however slow its builder is."""
    monkeypatch.setattr(arrival, "LENT_SECONDS", 60.0)
    monkeypatch.setattr(arrival, "LEAD_BYTES", MIB)
    gate, buffer = threading.Event(), memoryview(bytearray(PIECE))
    origin.script = lambda asked: replace(origin.serve(asked), cut=0, hold=gate) if asked.start else None
    with spool.fetch(origin.layer(DATA)) as fetch:
        fetch.readinto(buffer)
        gate.set()

        eventually(lambda: SHA256 in names(spool))


def test_stopping_ends_a_stalled_transfer_at_once(origin: Origin, tmp_path: Path) -> None:
    stop, gate = threading.Event(), threading.Event()
    origin.script = lambda asked: replace(origin.serve(asked), cut=MIB // 2, hold=gate)
    with Spool(tmp_path, part_bytes=MIB, stop=stop) as spool, spool.fetch(origin.layer(DATA)) as fetch:
        eventually(lambda: len(origin.gets()) == 4)
        threading.Timer(0.05, stop.set).start()
        with pytest.raises(Stopped):
            fetch.result()
        spool.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith(("part", "arrival"))]
    gate.set()


# ------------------------------------------------------------------------------------------- bad networks, servers


def test_a_connection_that_breaks_is_taken_up_where_it_broke(origin: Origin, tmp_path: Path) -> None:
    layer = origin.layer(DATA)
    origin.script = lambda asked: replace(origin.serve(asked), cut=2 * MIB - 7) if asked.number == 1 else None

    assert fetched(Spool(tmp_path / "spool"), layer) == DATA
    assert origin.ranges() == [(0, 8 * MIB), (2 * MIB - 7, SIZE)], "at the very byte"


def test_a_server_that_never_sends_what_it_promised_is_given_up(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(DATA)
    origin.script = lambda asked: replace(origin.serve(asked), cut=0)

    with pytest.raises(SourceUnavailable, match="broke off"), spool.fetch(layer) as fetch:
        fetch.result()

    assert [asked.start for asked in origin.gets()].count(0) <= reading.FRUITLESS_TRIES


def test_connections_that_break_after_few_bytes_each_bring_the_layer_all_the_same(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(DATA)
    origin.script = lambda asked: replace(origin.serve(asked), cut=100_000)

    assert fetched(spool, layer) == DATA

    assert len(origin.gets()) < 2 * SIZE // 100_000, "no byte is asked for twice"


def test_a_busy_server_is_asked_once_more(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(DATA)
    origin.script = lambda asked: failure(503, "SlowDown") if asked.number == 2 else None

    assert fetched(spool, layer) == DATA
    assert len(origin.gets()) == 5


def test_an_object_that_is_replaced_meanwhile_is_an_error_and_not_a_mix(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(DATA)

    def script(asked: Asked) -> Answer | None:
        if asked.start:
            origin.put(DATA[::-1])
        return None

    origin.script = script
    with pytest.raises(SourceChanged), spool.fetch(layer) as fetch:
        fetch.result()

    assert names(spool) == set()


def test_a_replaced_object_is_noticed_where_the_server_ignores_if_match(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(DATA)

    def script(asked: Asked) -> Answer | None:
        honest = origin.serve(asked)
        return replace(honest, headers={**honest.headers, "ETag": '"another"'}) if asked.start else None

    origin.script = script
    with pytest.raises(SourceChanged, match='"another"'), spool.fetch(layer) as fetch:
        fetch.result()


def test_an_object_that_is_not_what_was_looked_at_before_is_an_error(origin: Origin, spool: Spool) -> None:
    layer = Layer(origin.put(DATA))
    seen = head_one(layer.source)
    origin.put(DATA[::-1])

    with pytest.raises(SourceChanged), spool.fetch(layer, seen) as fetch:
        fetch.result()


def test_an_object_of_another_length_is_an_error(origin: Origin, spool: Spool) -> None:
    layer = Layer(origin.put(DATA))

    with (
        pytest.raises(SourceChanged, match=f"{SIZE} bytes"),
        spool.fetch(layer, replace(head_one(layer.source), size=SIZE + 1)) as fetch,
    ):
        fetch.result()


def test_credentials_that_are_refused_are_no_reason_to_try_again(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(DATA)
    origin.script = lambda asked: failure(403, "AccessDenied")

    with pytest.raises(SourceForbidden), spool.fetch(layer) as fetch:
        fetch.result()

    starts = [asked.start for asked in origin.gets()]
    assert len(starts) == len(set(starts)), "parts that were asked for side by side are each asked for once"


def test_wrong_bytes_are_reported_with_both_digests_and_not_kept(origin: Origin, spool: Spool) -> None:
    layer = replace(origin.layer(DATA), sha256="0" * 64)

    with pytest.raises(DigestMismatch, match=f"{SHA256}.*{'0' * 64}"), spool.fetch(layer) as fetch:
        content(fetch)

    assert names(spool) == set()


def test_a_single_part_md5_etag_is_compared_with_the_bytes(origin: Origin, spool: Spool) -> None:
    layer = Layer(origin.put(DATA))

    def script(asked: Asked) -> Answer | None:
        honest = origin.serve(asked)
        return replace(honest, body=b"?" + honest.body[1:]) if asked.number == 1 else None

    origin.script = script
    with pytest.raises(SourceChanged, match="damaged on its way"), spool.fetch(layer) as fetch:
        fetch.result()

    assert names(spool) == set()
    assert fetched(spool, layer) == DATA


def test_an_etag_that_looks_like_an_md5_and_is_none_is_no_obstacle(origin: Origin, spool: Spool) -> None:
    """Two fetches that agree settle it."""
    layer = Layer(origin.put(DATA, etag="0" * 32))

    assert fetched(spool, layer) == DATA
    assert len(origin.gets()) == 8


def test_the_md5_is_of_all_bytes_where_a_download_is_resumed(origin: Origin, spool: Spool) -> None:
    layer, gate = Layer(origin.put(DATA)), threading.Event()
    origin.script = lambda asked: replace(origin.serve(asked), cut=0, hold=gate) if (asked.start or 0) >= 2 * MIB else None
    with spool.fetch(layer):
        eventually(lambda: any(record.size == SIZE and record.length == 2 * MIB for record in records(spool)))
    spool.close()
    gate.set()
    origin.script, origin.asked = (lambda asked: None), []
    again = Spool(spool.directory, part_bytes=MIB)

    with again.fetch(layer) as fetch:
        assert content(fetch) == DATA
    assert again.was_resumed(SHA256)
    assert len(origin.gets()) < 4, "nothing is fetched a second time"


def test_a_discarded_layer_is_fetched_from_its_first_byte(origin: Origin, spool: Spool) -> None:
    pinned, unpinned = origin.layer(DATA), Layer(origin.put(DATA))
    fetched(spool, pinned)
    fetched(spool, unpinned)
    spool.discard(SHA256)
    assert names(spool) == set()
    origin.asked = []

    assert fetched(spool, unpinned) == DATA
    assert len(origin.gets()) == 4


def test_a_learnt_digest_that_does_not_fit_any_more_is_not_blamed_on_a_manifest(origin: Origin, spool: Spool) -> None:
    layer = replace(origin.layer(DATA), sha256="0" * 64, learnt=True)

    with pytest.raises(DigestMismatch, match="an earlier fetch of the same ETag") as caught, spool.fetch(layer) as fetch:
        content(fetch)

    assert "manifest" not in str(caught.value)


def test_an_empty_layer_is_the_empty_layer(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(b"")

    assert fetched(spool, layer) == fetched(spool, Layer(layer.source)) == b""


# ---------------------------------------------------------------------------------------------------- resuming

CHILD = """
import sys
from pathlib import Path
from reconciler.image.spec import Layer, S3Options, Source
from reconciler.image.source.spool import Spool
directory, endpoint, digest = sys.argv[1:]
layer = Layer(Source("s3://layers/one.tar", S3Options(endpoint, "us-east-1", True)), digest)
Spool(Path(directory), connections=2, part_bytes=1 << 20, checkpoint_seconds=0).fetch(layer).result()
"""


def interrupted(origin: Origin, spool: Spool, layer: Layer) -> int:
    """Leave the directory as a killed process leaves it; returns how far its record goes."""
    gate = threading.Event()
    origin.script = lambda asked: replace(origin.serve(asked), cut=0, hold=gate) if (asked.start or 0) >= 2 * MIB else None
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(spool.directory), origin.endpoint, str(layer.sha256)])
    partial = Partial.of(spool.directory, str(layer.sha256))
    try:
        eventually(lambda: (record := partial.load()) and record.length == 2 * MIB, 30)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    gate.set()
    origin.script, origin.asked = (lambda asked: None), []
    return 2 * MIB


def test_a_killed_download_is_resumed_where_it_was(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(DATA)
    length = interrupted(origin, spool, layer)

    assert fetched(spool, layer) == DATA
    assert origin.ranges() == [(length, 3 * MIB), (3 * MIB, SIZE)]
    assert names(spool) == {SHA256}


def left_over(spool: Spool, layer: Layer, length: int, etag: str, *, prefix: bytes = DATA) -> Partial:
    """A partial download with proofs for each MiB."""
    partial = Partial.of(spool.directory, str(layer.sha256))
    spool.directory.mkdir(exist_ok=True)
    partial.bytes.write_bytes(prefix[:length])
    proofs = [Proof(at, hashlib.sha256(DATA[:at]).hexdigest()) for at in range(MIB, length + 1, MIB)]
    partial.save(Record(etag, SIZE, tuple(proofs)))
    return partial


def test_only_the_damaged_end_of_a_partial_download_is_fetched_again(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(DATA)
    left_over(spool, layer, 2 * MIB, head_one(layer.source).etag, prefix=DATA[: 2 * MIB - 1] + b"?")

    assert fetched(spool, layer) == DATA
    assert origin.ranges()[0] == (MIB, 2 * MIB)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"etag": "x", "size": 1, "proofs": [[9, "y"]]}', '{"proofs": 3}'])
def test_a_record_that_makes_no_sense_means_from_the_beginning(origin: Origin, spool: Spool, damage: str) -> None:
    layer = origin.layer(DATA)
    left_over(spool, layer, 2 * MIB, head_one(layer.source).etag).record.write_text(damage)

    assert fetched(spool, layer) == DATA
    assert len(origin.gets()) == 4


def test_what_is_left_of_another_object_is_not_gone_on_with(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(DATA)
    left_over(spool, layer, 2 * MIB, '"another"')

    assert spool_with_head(spool, layer) == DATA
    assert len(origin.gets()) == 4


def spool_with_head(spool: Spool, layer: Layer) -> bytes:
    return fetched(spool, layer, head_one(layer.source))


def test_an_object_that_was_replaced_since_is_fetched_anew_by_the_next_try(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(DATA)
    left_over(spool, layer, 2 * MIB, '"another"')

    with pytest.raises(SourceChanged), spool.fetch(layer) as fetch:
        fetch.result()

    assert fetched(spool, layer) == DATA


def test_wrong_bytes_are_believed_only_when_they_came_in_one_go(origin: Origin, spool: Spool) -> None:
    """A server may give a new object the old one's ETag; then the parts are of two objects, and the manifest is not to blame."""
    layer = replace(origin.layer(DATA), sha256="1" * 64)
    left_over(spool, layer, 2 * MIB, head_one(layer.source).etag)

    with pytest.raises(SourceChanged, match="different times"), spool.fetch(layer) as fetch:
        fetch.result()
    with pytest.raises(DigestMismatch), spool.fetch(layer) as fetch:
        fetch.result()


def test_long_downloads_keep_a_proof_every_so_often(origin: Origin, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PROOF_BYTES", MIB)
    layer, gate = origin.layer(DATA), threading.Event()
    origin.script = lambda asked: replace(origin.serve(asked), cut=0, hold=gate) if (asked.start or 0) >= 3 * MIB else None
    partial = Partial.of(spool.directory, SHA256)
    with spool.fetch(layer):
        eventually(lambda: (record := partial.load()) and record.length == 3 * MIB)
    gate.set()

    assert [proof[0] for proof in json.loads(partial.record.read_text())["proofs"]] == [MIB, 2 * MIB, 3 * MIB]


# ------------------------------------------------------------------------------------------------------ the disk


def test_a_layer_that_rots_in_the_spool_is_found_out_and_fetched_again(origin: Origin, spool: Spool) -> None:
    layer = origin.layer(DATA)
    fetched(spool, layer)
    (spool.directory / SHA256).write_bytes(DATA[:-1] + b"?")

    with pytest.raises(SourceChanged, match=r"damaged|removed"), spool.fetch(layer) as fetch:
        content(fetch)

    assert fetched(spool, layer) == DATA


def test_a_layer_that_can_not_fit_is_refused_before_it_is_fetched(origin: Origin, spool: Spool) -> None:
    origin.script = lambda asked: Answer(206, {"ETag": '"x"', "Content-Range": f"bytes 0-{MIB - 1}/{1 << 60}"}, bytes(MIB))

    with pytest.raises(NoSpace, match=str(spool.directory)), spool.fetch(Layer(origin.source(), SHA256)) as fetch:
        fetch.result()


def test_a_layer_as_large_as_the_disk_is_refused_although_it_would_fit(origin: Origin, spool: Spool) -> None:
    """The registry and the disks of guests may be there too."""
    status = os.statvfs(spool.directory.parent)
    size = status.f_bavail * status.f_frsize - MIB
    origin.script = lambda asked: Answer(206, {"ETag": '"x"', "Content-Range": f"bytes 0-{MIB - 1}/{size}"}, bytes(MIB))

    with pytest.raises(NoSpace, match="must stay free"), spool.fetch(Layer(origin.source(), SHA256)) as fetch:
        fetch.result()


def test_two_downloads_that_fit_only_one_by_one_are_not_both_begun(origin: Origin, spool: Spool) -> None:
    status, ended = os.statvfs(spool.directory.parent), threading.Event()
    size = status.f_bavail * status.f_frsize * 6 // 10

    def large(asked: Asked) -> Answer:
        if asked.start:
            ended.wait()
        return Answer(206, {"ETag": '"x"', "Content-Range": f"bytes 0-{MIB - 1}/{size}"}, bytes(MIB))

    origin.script = large
    one, two = Layer(origin.source("layers/one"), SHA256), Layer(origin.source("layers/two"), "ab" * 32)
    try:
        with spool.fetch(one) as first:
            eventually(lambda: first.progress.done)
            with spool.fetch(two) as second, pytest.raises(NoSpace, match="other downloads"):
                second.result()
    finally:
        ended.set()


def test_a_disk_that_fills_up_is_named(origin: Origin, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    layer = origin.layer(DATA)
    monkeypatch.setattr(os, "pwrite", full)

    with pytest.raises(NoSpace, match=str(spool.directory)), spool.fetch(layer) as fetch:
        fetch.result()


def test_a_spool_that_can_not_be_made_waits_for_a_person(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(NeedsOperator, match="file/spool"):
        Spool(tmp_path / "file" / "spool").fetch(origin.layer(DATA))


def test_sweeping_removes_what_nobody_needs_and_nothing_else(origin: Origin, spool: Spool) -> None:
    kept, unpinned = origin.layer(DATA), Layer(origin.put(DATA[::-1], "layers/two.tar"))
    fetched(spool, kept)
    fetched(spool, unpinned)
    left_over(spool, replace(kept, sha256="2" * 64), MIB, '"x"')
    (spool.directory / "notes.txt").write_text("not ours")

    removed = spool.sweep([SHA256])

    assert names(spool) == {SHA256, "notes.txt"}
    assert {"2" * 64 + ".part", "2" * 64 + ".json", hashlib.sha256(DATA[::-1]).hexdigest()} <= set(removed)


def test_sweeping_spares_what_is_being_read(origin: Origin, spool: Spool) -> None:
    layer, gate = origin.layer(DATA), threading.Event()
    unpinned = Layer(origin.put(DATA[::-1], "layers/two.tar"))
    origin.script = lambda asked: replace(origin.serve(asked), cut=0, hold=gate) if asked.path.endswith("one.tar") else None
    with spool.fetch(layer) as fetch, spool.fetch(unpinned) as whole:
        whole.result()
        eventually(lambda: len(origin.gets()) >= 4)

        assert spool.sweep(()) == ()

        gate.set()
        assert content(fetch) == DATA
        assert content(whole) == DATA[::-1]


def test_sweeping_keeps_the_name_by_which_a_kept_layer_is_known(origin: Origin, spool: Spool) -> None:
    layer = Layer(origin.put(DATA))
    fetched(spool, layer)

    spool.sweep([SHA256])
    origin.asked = []

    assert fetched(spool, layer) == DATA
    assert not origin.gets()


def test_a_spool_that_was_never_used_has_nothing_to_sweep(tmp_path: Path) -> None:
    assert Spool(tmp_path / "none").sweep(()) == ()


# --------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "layer.tar"
    path.write_bytes(DATA)
    return path


def test_a_file_is_read_where_it_lies(file: Path, spool: Spool) -> None:
    assert fetched(spool, Layer(Source(str(file)))) == fetched(spool, Layer(Source(str(file)), SHA256)) == DATA
    assert not spool.directory.exists()


def test_a_file_with_other_bytes_than_its_manifest_says_is_reported_with_both_digests(file: Path, spool: Spool) -> None:
    with pytest.raises(DigestMismatch, match=f"{SHA256}.*{'0' * 64}"), spool.fetch(Layer(Source(str(file)), "0" * 64)) as fetch:
        fetch.result()


@pytest.mark.parametrize("way", ["written", "replaced", "removed", "shortened"])
def test_a_file_that_changes_while_it_is_read_is_found_out(file: Path, spool: Spool, way: str) -> None:
    """Even when that happens after the digest was taken, and before the reader has come to its end."""
    with spool.fetch(Layer(Source(str(file)))) as fetch:
        fetch.result()
        if way == "written":
            with file.open("r+b") as opened:
                opened.write(b"?")
            os.utime(file, ns=(0, 0))
        elif way == "replaced":
            file.with_name("new").write_bytes(DATA)
            file.with_name("new").rename(file)
        elif way == "removed":
            file.unlink()
        else:
            os.truncate(file, 5)

        with pytest.raises((SourceChanged, SourceNotFound)):
            fetch.result()


def test_a_file_that_is_not_what_was_looked_at_before_is_an_error(file: Path, spool: Spool) -> None:
    seen = head_one(Source(str(file)))
    file.write_bytes(DATA * 2)

    with pytest.raises(SourceChanged):
        spool.fetch(Layer(Source(str(file))), seen)


def test_a_missing_file_is_named(tmp_path: Path, spool: Spool) -> None:
    with pytest.raises(SourceNotFound, match=r"none\.tar"):
        spool.fetch(Layer(Source(str(tmp_path / "none.tar"))))


# -------------------------------------------------------------------------------------------------------- window


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(0, 9), st.integers(0, 30), st.integers(1, 9), st.integers(1, 5))
def test_the_frontier_is_where_the_first_gap_begins(data: st.DataObject, start: int, more: int, part: int, hands: int) -> None:
    """Whatever the order in which pieces of parts land."""
    window, there, busy = Window(start, start + more, part), set(range(start)), []
    while True:
        while len(busy) < hands and (taken := window.take()):
            busy.append(taken)
        if not busy:
            break
        chosen = data.draw(st.sampled_from(busy))
        length = data.draw(st.integers(1, chosen.stop - chosen.at))
        there |= set(range(chosen.at, chosen.at + length))
        frontier = window.landed(chosen, length)
        assert frontier == next(at for at in range(start + more + 1) if at not in there)
        busy = [one for one in busy if one.at < one.stop]
    assert there == set(range(start + more))

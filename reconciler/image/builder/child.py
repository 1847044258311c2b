"""The builder process: reads layers, judges members, writes one volume. Run as ``python -m reconciler.image.builder.child FD``.

Started by ``build`` (its parent), one for each volume in progress. It holds descriptors (a control channel, the volume, each
layer as it comes, the chain's index) and nothing else: what it reads is hostile, so it gives up privileges and paths before the
first byte. Its state ends with it; the volume has no superblock until the parent has sent ``commit``.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from uuid import UUID

from reconciler.errors import BuilderDied, ReconcilerError
from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.tar import Reader
from reconciler.image.builder.confine import MEMORY, Bounds, confine
from reconciler.image.builder.protocol import Channel, Packet
from reconciler.image.ext4 import Writer
from reconciler.image.free_space import Room
from reconciler.image.spec import Limits
from reconciler.image.tree import index
from reconciler.image.tree.judge import Judge
from reconciler.image.tree.survey import Survey
from reconciler.image.tree.tree import Tree

SECONDS_TO_FINISH = 600
"""Of CPU, for what a build does besides reading layers."""

PROGRESS_SECONDS = 0.1


class ParentGone(Exception):
    """The other end of the channel has closed: the volume is no longer wanted."""


class LayerSource:
    """The bytes of one layer as they arrive: reads what the spool or a pipe holds, and waits on the channel for more.

    Only the channel defines where a layer ends: the end of a pipe means no more than that it has no writer.
    """

    def __init__(self, channel: Channel, fd: int, number: int) -> None:
        self._channel = channel
        self._fd = fd
        self._number = number
        self._length = 0
        self._complete = False
        self._pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        self._reported = 0.0
        self.position = 0
        self.entries = 0

    def read(self, n: int) -> bytes:
        """1 to n bytes; none only at the layer's end."""
        if time.monotonic() - self._reported >= PROGRESS_SECONDS:
            self.report()
        if self.position >= self._length and not self._complete:
            self.report()
        while self.position >= self._length and not self._complete:
            self._take(receive(self._channel))
        wanted = min(n, self._length - self.position)
        data = os.read(self._fd, wanted) if self._pipe else os.pread(self._fd, wanted, self.position)
        if not data and self.position < self._length:
            raise BuilderDied("the spool is shorter than announced", hint="run again")
        self.position += len(data)
        return data

    def _take(self, packet: Packet) -> None:
        if packet.kind == "length":
            self._length = packet.body["length"]
        elif packet.kind == "end":
            self._complete = True

    def report(self) -> None:
        """Tell the parent how far the layer has been read and how many of its members have been accepted."""
        self._reported = time.monotonic()
        self._channel.send("progress", layer=self._number, read=self.position, entries=self.entries)

    def close(self) -> None:
        """Swallow the announcements that the reader did not need, up to the layer's end."""
        self.report()
        while not self._complete:
            self._take(receive(self._channel))
        self.report()
        os.close(self._fd)


def receive(channel: Channel) -> Packet:
    packet = channel.receive()
    if packet is None:
        raise ParentGone
    return packet


def prepare() -> None:
    """Load what Python would read from disk at first use: after ``confine`` there is no disk to read."""
    gc.disable()  # a tree has no cycles: searching for them would cost a fifth of the time
    for encoding in ("ascii", "latin-1", "unicode_escape", "utf-8"):
        codecs.lookup(encoding)


def apply_layer(
    channel: Channel, number: int, tree: Tree, writer: Writer, room: Room, limits: Limits, survey: Survey | None = None
) -> dict[str, object]:
    """Read one layer to its end into the tree and the volume; return the judge's totals. A survey is sent before an error."""
    packet = receive(channel)
    source = LayerSource(channel, packet.fds[0], number)
    stream = open_stream(source, limits)
    judge, reader = Judge(limits), Reader(stream, limits)

    def totals() -> dict[str, object]:
        return judge.totals() | {"storedBytes": stream.stored, "unpackedBytes": stream.unpacked}

    members = reader if survey is None else survey.follow(reader)
    tree.begin_layer()
    try:
        for member in members:
            judge.check(member)
            source.entries += 1
            inode = tree.add(member)
            if inode is not None:
                room.take(member.size if member.segments is None else sum(length for _, length in member.segments))
                writer.append(inode, member.size, member.segments, reader.data(member))
        judge.finish()
        tree.end_layer()
    except ReconcilerError:
        source.report()
        if survey is not None:
            channel.send("seen", totals=totals())
            channel.send("seen", totals=survey.document(stream.compression, tree, whole=False))
        raise
    source.close()
    if survey is not None:
        channel.send("seen", totals=survey.document(stream.compression, tree, whole=True))
    return totals()


def build(channel: Channel, request: Packet) -> None:
    """Carry out one request: replayed layers only rebuild the tree, the others are written too."""
    body = request.body
    limits, size, replay = Limits(**body["limits"]), body["size"], body["replay"]
    fds = dict(zip(body["names"], request.fds, strict=True))
    tree, next_block = Tree(limits), None
    if "index_in" in fds:
        with os.fdopen(fds["index_in"], "rb") as file:
            tree, next_block = index.load(file.read(), limits)
    if replay:
        rehearsal = Writer(-1, size, sink=True)
        for number in range(replay):
            apply_layer(channel, number, tree, rehearsal, Room(-1), limits)
        next_block = rehearsal.next_block
    volume = fds.get("volume", -1)
    writer, room = Writer(volume, size, next_block=next_block, sink=volume < 0), Room(volume, body["room"])
    for number in range(replay, body["layers"]):
        survey = Survey(limits) if body["survey"] else None
        channel.send("applied", totals=apply_layer(channel, number, tree, writer, room, limits, survey))
    channel.send("accepted")
    commit = receive(channel)
    summary = writer.finish(tree.root, UUID(commit.body["uuid"]))
    if "index_out" in fds:
        with os.fdopen(fds["index_out"], "wb") as file:
            file.write(index.dump(tree, writer.next_block))
            file.flush()
            os.fsync(file.fileno())
    channel.send("written", summary=asdict(summary))


def bounds(request: Packet) -> Bounds:
    body = request.body
    if request.kind != "request":
        return Bounds()
    return Bounds(body["size"], body["layers"] * body["limits"]["max_seconds"] + SECONDS_TO_FINISH)


@contextlib.contextmanager
def verdicts(channel: Channel) -> Iterator[None]:
    """Every error of ours becomes a packet; what is left is a crash, which the parent sees as the end of the process."""
    try:
        yield
    except ParentGone:
        return
    except MemoryError:
        message = f"reading it takes more than the builder's {MEMORY} bytes of memory"
        channel.send("failed", error="LayerRefused", message=message, hint="", rule="limit-memory", offset=None, member="")
    except ReconcilerError as error:
        fields = {name: getattr(error, name) for name in ("rule", "offset") if hasattr(error, name)}
        member = getattr(error, "member", b"")
        channel.send(
            "failed", error=type(error).__name__, message=error.message, hint=error.hint, member=member[:4096].hex(), **fields
        )


def main(argv: list[str]) -> int:
    channel = Channel.inherited(int(argv[1]))
    request = channel.receive()
    if request is None:
        return 0
    prepare()
    measures = confine(bounds(request))
    with verdicts(channel):
        if request.kind == "probe":
            channel.send("confined", measures={one.name: one.missing for one in measures})
        elif request.kind == "check":
            with os.fdopen(request.fds[0], "rb") as file:
                index.load(file.read())
            channel.send("checked")
        else:
            build(channel, request)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

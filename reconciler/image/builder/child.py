"""The builder process: reads layers, judges members, writes one volume. Run by ``start``.

Started by ``parent``, one for each volume in progress. It holds descriptors (a control channel, the volume, the chain's index),
the memory where layers arrive, and nothing else: what it reads is hostile, so it gives up privileges and paths before it reads.
Its state ends with it; the volume has no superblock until the parent has sent ``commit``.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import os
import socket
import time
from collections.abc import Callable, Iterator
from uuid import UUID

from reconciler.dataclass import asdict
from reconciler.errors import BuilderDied, LayerRefused, ReconcilerError
from reconciler.image.archive import estargz
from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.diff_id import Summed
from reconciler.image.archive.tar import Reader
from reconciler.image.builder import fork_server
from reconciler.image.builder.confine import MEMORY, Bounds, confine
from reconciler.image.builder.protocol import Channel, Packet
from reconciler.image.builder.ring import WINDOW, Mapping
from reconciler.image.ext4 import numbering
from reconciler.image.ext4.writer import Below, Writer
from reconciler.image.free_space import Room
from reconciler.image.spec import Limits
from reconciler.image.tree import index
from reconciler.image.tree.judge import Judge
from reconciler.image.tree.survey import Survey
from reconciler.image.tree.tree import Inode, Tree

SECONDS_TO_FINISH = 600
"""Of CPU, for what a build does besides reading layers."""

PROGRESS_SECONDS = 0.1


class ParentGone(Exception):
    """The other end of the channel has closed: the volume is no longer wanted."""


class Supply:
    """The layers' bytes as the parent reports them: a position in the ring for the whole build."""

    def __init__(self, channel: Channel, ring: Mapping, returned: int) -> None:
        self._channel = channel
        self._ring = ring
        self.returned = returned
        """Bytes after which the parent gets the memory back."""
        self.position = 0
        self.let_go: Callable[[], None] = lambda: None
        """Has what keeps views of the ring for long copy them."""
        self._lends = returned >= WINDOW
        """Whether the ring is large beside what may be in use."""

    def layer(self, number: int) -> LayerSource:
        """Wait for the next layer to begin."""
        begun = receive(self._channel)
        return LayerSource(self._channel, self, number, begun.body["diff_id"])

    def view(self, length: int) -> bytes | memoryview:
        data = self._ring.view(self.position, length)
        self.position += len(data)
        return data if self._lends else bytes(data)

    def held(self) -> int:
        """Bytes before the position that are in use: never so many that there is no room for those to come."""
        held = self._ring.held(self.position)
        if held > 2 * self.returned:
            self.let_go()
            held = self._ring.held(self.position)
        return held


class LayerSource:
    """The bytes of one layer as they arrive: views of what lies in the ring; waits on the channel for more."""

    def __init__(self, channel: Channel, supply: Supply, number: int, diff_id: str) -> None:
        self._channel = channel
        self._supply = supply
        self._number = number
        self._length = 0
        self._complete = False
        self._reported = (0.0, 0)
        self.position = 0
        self.entries = 0
        self.diff_id = diff_id
        """The declared sum of its decompressed bytes, where there is one."""

    def read(self, n: int) -> bytes | memoryview:
        """1 to n bytes; none only at the layer's end. They stay as they are for as long as they, or a part of them, are kept."""
        at, position = self._reported
        if self.position - position >= self._supply.returned or time.monotonic() - at >= PROGRESS_SECONDS:
            self.report()
        if self.position >= self._length and not self._complete:
            self.report()
        while self.position >= self._length and not self._complete:
            self._take(receive(self._channel))
        if self.position >= self._length:
            return b""
        data = self._supply.view(min(n, self._length - self.position))
        self.position += len(data)
        return data

    def _take(self, packet: Packet) -> None:
        if packet.kind == "length":
            self._length = packet.body["length"]
        elif packet.kind == "end":
            self._complete = True

    def report(self) -> None:
        """Send the parent how far the layer has been read and how many of its members have been accepted."""
        self._reported = (time.monotonic(), self.position)
        held = self._supply.held()
        self._channel.send("progress", layer=self._number, read=self.position, held=held, entries=self.entries)

    def close(self) -> None:
        """Pass over what the reader did not need, up to the layer's end."""
        while not self._complete:
            self._take(receive(self._channel))
        self._supply.position += self._length - self.position
        self.position = self._length
        self.report()


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
    gc.freeze()


def apply_layer(
    channel: Channel, source: LayerSource, tree: Tree, writer: Writer, room: Room, limits: Limits, survey: Survey | None = None
) -> dict[str, object]:
    """Read one layer to its end into the tree and the volume; return the judge's totals. A survey is sent before an error."""
    stream = open_stream(source, limits)
    summed = Summed(stream) if source.diff_id else None
    judge, reader, own = Judge(limits, tree.accounts), Reader(summed or stream, limits), estargz.Own[Inode]()
    dropped = own.files(None)

    def totals() -> dict[str, object]:
        counted = {"storedBytes": stream.stored, "unpackedBytes": stream.unpacked, "estargzFiles": len(dropped)}
        return judge.totals() | counted | {"compression": stream.compression}

    members = reader if survey is None else survey.follow(reader)
    tree.begin_layer()
    try:
        for member in members:
            judge.check(member)
            source.entries += 1
            inode = tree.add(member)
            own.see(member, inode)
            if inode is not None:
                room.take(member.size if member.segments is None else sum(length for _, length in member.segments))
                writer.append(inode, member.size, member.segments, tree.accounts.read(member, inode, reader.data(member)))
        judge.finish()
        tree.end_layer()
        dropped = own.files(stream.contents_at)
        tree.drop(dropped)
        if summed is not None:
            summed.check(source.diff_id)
    except ReconcilerError:
        if survey is not None:
            channel.send("seen", totals=totals())
            channel.send("seen", totals=survey.document(stream.compression, tree, whole=False))
        raise
    source.close()
    if survey is not None:
        whole = {"inodes": numbering.needed(tree.root)}
        channel.send("seen", totals=survey.document(stream.compression, tree, whole=True) | whole)
    return totals()


def unpack(channel: Channel, source: LayerSource, file: int, room: Room, limits: Limits) -> None:
    """Write the decompressed bytes of a layer to a file."""
    stream, at = open_stream(source, limits), 0
    while chunk := memoryview(stream.read()):
        room.take(len(chunk))
        while chunk:
            written = os.pwrite(file, chunk, at)
            chunk, at = chunk[written:], at + written
    source.close()
    channel.send("applied", totals={"storedBytes": stream.stored, "unpackedBytes": stream.unpacked})
    channel.send("accepted")
    receive(channel)
    channel.send("written", summary={})


def build(channel: Channel, request: Packet, ring: Mapping) -> None:
    """Carry out one request: replayed layers only rebuild the tree, the others are written too."""
    body = request.body
    limits, size, replay = Limits(**body["limits"]), body["size"], body["replay"]
    ratio = body["bytes_per_inode"] or None
    fds = dict(zip(body["names"], request.fds, strict=True))
    supply = Supply(channel, ring, body["returned"])
    if body["unpack"]:
        unpack(channel, supply.layer(0), fds["volume"], Room(fds["volume"], body["room"]), limits)
        return
    tree, below = Tree(limits), None
    if "index_in" in fds:
        with os.fdopen(fds["index_in"], "rb") as file:
            tree, next_block = index.load(file.read(), limits)
            below = Below(tree.root, next_block)
    if replay:
        rehearsal = Writer(-1, size, ratio=ratio, sink=True)
        for number in range(replay):
            channel.send("applied", totals=apply_layer(channel, supply.layer(number), tree, rehearsal, Room(-1), limits))
            rehearsal.end_layer(tree.root)
        below = Below(tree.root, rehearsal.next_block)
    volume = fds.get("volume", -1)
    writer = Writer(volume, size, below=below, ratio=ratio, sink=volume < 0)
    supply.let_go = writer.let_go
    room = Room(volume, body["room"])
    for number in range(replay, body["layers"]):
        if number > replay:
            writer.end_layer(tree.root)
        survey = Survey(limits) if body["survey"] else None
        channel.send("applied", totals=apply_layer(channel, supply.layer(number), tree, writer, room, limits, survey))
    channel.send("accepted")
    commit = receive(channel)
    summary = writer.finish(tree.root, UUID(commit.body["uuid"]), commit.body["label"].encode())
    if "index_out" in fds:
        with os.fdopen(fds["index_out"], "wb") as file:
            file.write(index.dump(tree, writer.next_block))
            file.flush()
            os.fsync(file.fileno())
    channel.send("written", summary=asdict(summary))


def editing() -> Callable[[int, int], None]:
    """What edits a volume as a memory file describes. No other request pays for its modules."""
    from reconciler.image.builder import edits
    from reconciler.image.ext4 import edit

    return lambda volume, described: edit.apply(volume, edits.unpack(described))


def edit_all(channel: Channel, apply: Callable[[int, int], None]) -> None:
    """Carry out edits until the parent hangs up. One that fails costs its own snapshot only."""
    while True:
        volume, described = receive(channel).fds
        try:
            with verdicts(channel):
                apply(volume, described)
                channel.send("edited")
        finally:
            os.close(volume)
            os.close(described)


def bounds(request: Packet) -> Bounds:
    body = request.body
    if request.kind == "editor":
        return Bounds(body["size"])
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
        fail(channel, LayerRefused(message, rule="limit-memory"))
    except ReconcilerError as error:
        fail(channel, error)


def fail(channel: Channel, error: ReconcilerError) -> None:
    member, rule, offset = getattr(error, "member", b""), getattr(error, "rule", ""), getattr(error, "offset", None)
    needed = getattr(error, "needed", 0)
    fields = {
        "needed": needed,
        "message": error.message,
        "hint": error.hint,
        "member": member[:4096].hex(),
        "rule": rule,
        "offset": offset,
    }
    channel.send("failed", (), error=type(error).__name__, **fields)


def main(argv: list[str]) -> int:
    prepare()
    return fork_server.serve(socket.socket(fileno=int(argv[1])), converse)


def converse(fd: int) -> int:
    """Answer one request on the channel ``fd``; return the exit code."""
    channel = Channel.inherited(fd)
    request = channel.receive()
    if request is None:
        return 0
    ring = Mapping(request.fds[-1]) if request.kind == "request" else None
    apply = editing() if request.kind == "editor" else None  # loaded while there is a disk to load it from
    with verdicts(channel):
        try:
            measures = confine(bounds(request))
        except OSError as error:
            raise BuilderDied(f"the builder process can't be confined: {error}", hint="`reconcile health` shows why") from error
        if request.kind == "check":
            with os.fdopen(request.fds[0], "rb") as file:
                index.load(file.read())
            channel.send("checked")
            return 0
        channel.send("confined", measures={one.name: one.missing for one in measures})
        if apply is not None:
            edit_all(channel, apply)
        if ring is not None:
            build(channel, request, ring)
    return 0

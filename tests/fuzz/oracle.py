"""What must hold of any input whatever: the builder's own steps in this process, and everything that can be checked of them.

Used by the hypothesis tests, the replay of the corpus and the coverage-guided run. ``Bench`` keeps two sparse files that serve as
volumes, one input after the other. A broken promise is a ``Broken``; whatever else comes out of it is one, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID

from reconciler.errors import ImageTooSmall, LayerCorrupt, LayerRefused, NoSpace, ReconcilerError
from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.member import HARDLINK, Member
from reconciler.image.archive.tar import Reader
from reconciler.image.ext4.writer import Below, Summary, Writer
from reconciler.image.spec import KIB, MIB, POLICIES, Limits
from reconciler.image.tree import index
from reconciler.image.tree.inode import Inode
from reconciler.image.tree.judge import MAX_COMPONENT, MAX_ID, MAX_MAJOR, MAX_MINOR, MAX_MTIME, MAX_TARGET, MIN_MTIME, Judge
from reconciler.image.tree.tree import MAX_LINKS, Tree
from tests.fuzz import readers, tarball
from tests.support import ext4
from tests.support.ext4_images import check, same_bytes

_T = TypeVar("_T")

VERDICTS = (LayerRefused, LayerCorrupt, ImageTooSmall, NoSpace)
"""The only ways in which a layer may fail; the exact types, not what derives from them."""

LIMITS = Limits(max_unpacked_bytes=16 * MIB, max_file_bytes=5 * MIB, max_entries=2000, max_ratio=200, max_depth=64)
UUID_OF_ALL = UUID("6d0c7f0e-5a3b-5c1e-9d57-0b7a3a1f4e52")
SIZE = 64 * MIB
STEPS, MOST_PIECES = (7, 100, 509, 512, 1000, 4097), 300
CPU_SECONDS = 20.0
"""What one input may take. Hundreds run in a second: this is no measure of speed, but what is worse than linear passes it."""

MEMORY = 64 * MIB
"""Bytes by which the process may grow while it reads one input; most need less than one MiB, none as much as ten."""


def limits_of(case: bytes, limits: Limits = LIMITS) -> Limits:
    """Those, with the policies that the case asks for."""
    bits = tarball.policy_of(case)
    chosen = {name: values[1] for bit, (name, values) in enumerate(POLICIES.items()) if bits & 1 << bit}
    return replace(limits, **cast("dict[str, Any]", chosen))


class Broken(AssertionError):
    """A promise does not hold. ``promise`` is its short name."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise


@dataclass(frozen=True, slots=True)
class Depth:
    """How much is checked of what was accepted, from the cheap to the dear."""

    pieces: bool = True
    """Read it again as it arrives over a bad line, whether it was accepted or not."""
    strict: bool = True
    """Read it again without the shorter ways that plain members have, whether it was accepted or not."""
    volume: bool = True
    """Write it, read it back with the tests' own reader, and put the index on top of it."""
    referee: bool = True
    """e2fsck -fn."""
    peers: bool = True
    """GNU tar and bsdtar, where they are installed."""


FULL = Depth()
NONE = Depth(pieces=False, strict=False, volume=False, referee=False, peers=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``error`` is empty where the input was accepted, ``rule`` where the error has none."""

    error: str = ""
    rule: str = ""
    entries: int = 0
    peers: str = ""
    """What came of the comparison with other readers: ``agree``, ``theirs differ``, ``one refuses``, or that there was none."""

    def __str__(self) -> str:
        return f"{self.error}({self.rule})" if self.error else "accepted"


@dataclass(slots=True)
class _Layers:
    """What applying the layers has left: for the checks to look at."""

    limits: Limits
    strict: bool = False
    tree: Tree = field(init=False)
    writer: Writer = field(init=False)
    members: list[list[readers.Listed]] = field(default_factory=list)
    digests: dict[Inode, str] = field(default_factory=dict)
    entries: int = 0
    totals: list[dict[str, object]] = field(default_factory=list)

    def apply(self, layer: bytes, *, note: bool = False, step: int = 1 << 62) -> None:
        """The steps of ``builder.apply_layer``, without its process, channel and room; ``step`` bytes arrive at a time."""
        judge = Judge(self.limits, self.tree.accounts, strict=self.strict)
        reader = Reader(open_stream(Line(layer, step), self.limits), self.limits, strict=self.strict)
        self.tree.begin_layer()
        noted: list[readers.Listed] = []
        for member in reader:
            mode = member.mode
            judge.check(member)
            inode = self.tree.add(member)
            chunks: Iterable[bytes | memoryview] = ()
            if inode is not None:
                chunks = self.tree.accounts.read(member, inode, reader.data(member))
                if note:
                    data = b"".join(chunks)
                    self.digests[inode] = _digest(member, data)
                    chunks = [data]
                self.writer.append(inode, member.size, member.segments, chunks)
            if note:
                noted.append(_listed(member, mode, b"".join(chunks)))
        judge.finish()
        self.tree.end_layer()
        self.writer.end_layer(self.tree.root)
        totals = judge.totals()
        if totals["entries"] != sum(1 for _ in noted) and note:
            raise Broken("totals", f"{totals['entries']} entries are counted, and {len(noted)} were read")
        self.members.append(noted)
        self.totals.append(totals)
        self.entries += self.tree.entries
        if self.tree.entries > self.limits.max_entries:
            raise Broken("limit-entries", f"a layer of {self.tree.entries} entries was accepted")


class Line:
    """A layer that arrives ``step`` bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._file = io.BytesIO(data)
        self._step = step

    def read(self, n: int, /) -> bytes:
        return self._file.read(min(n, self._step))


class Bench:
    """``run`` one input after the other; the volumes and the limits stay. A context manager."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        limits: Limits = LIMITS,
        size: int = SIZE,
        seconds: float = CPU_SECONDS,
        memory: int = MEMORY,
    ) -> None:
        self._usual = self.limits = limits
        self.size, self.seconds, self.memory = size, seconds, memory
        self._gauge = Gauge()
        self._files = contextlib.ExitStack()
        self._files.callback(self._gauge.close)
        self._paths = [self._scratch(directory, name) for name in ("volume", "parent", "tar")]

    def _scratch(self, directory: Path | None, name: str) -> Path:
        file = tempfile.NamedTemporaryFile(prefix=f"fuzz-{name}-", dir=directory)  # noqa: SIM115
        return Path(self._files.enter_context(file).name)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exc: object) -> None:
        self._files.close()

    def run(self, case: bytes, depth: Depth = FULL) -> Verdict:
        """Judge the case; Broken, or any other error, where a promise is not kept."""
        layers, self.limits = tarball.layers_of(case), limits_of(case, self._usual)
        self._gauge.reset()
        told, rehearsed = self._rehearse(layers)
        self._gauge.check(self.seconds, self.memory)
        if depth.pieces:
            self._check_pieces(layers, told)
        if depth.strict:
            self._check_strict(layers, told, rehearsed)
        if rehearsed is None:
            return _refused(told)
        check_tree(rehearsed.tree, self.limits)
        if not depth.volume:
            return Verdict(entries=rehearsed.entries)
        return self._accepted(layers, rehearsed, depth)

    def _rehearse(
        self, layers: Sequence[bytes], step: int = 1 << 62, *, strict: bool = False
    ) -> tuple[ReconcilerError, _Layers | None]:
        """To the verdict, as ``reconcile inspect`` comes to it: into a tree, and onto no volume."""
        built = self._begin(Writer(-1, self.size, sink=True), strict=strict)
        try:
            for layer in layers:
                built.apply(layer, step=step)
        except VERDICTS as verdict:
            return verdict, None
        except ReconcilerError as error:
            raise Broken("verdict", f"{type(error).__name__} is no verdict on a layer: {error}") from error
        return ReconcilerError("accepted"), built

    def _check_pieces(self, layers: Sequence[bytes], told: ReconcilerError) -> None:
        """How many bytes arrive at a time makes no difference; only what is damaged may be found to be something else first."""
        length = sum(map(len, layers))
        step = max(STEPS[length % len(STEPS)], length // MOST_PIECES)
        again, _ = self._rehearse(layers, step)
        plain = not any(layer.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")) or layer[1:4] == b"\x2a\x4d\x18" for layer in layers)
        same = _told(again) == _told(told) if plain else (type(again) in VERDICTS) == (type(told) in VERDICTS)
        if not same:
            raise Broken("pieces", f"{step} bytes at a time: {_told(again)}, and all at once: {_told(told)}")

    def _check_strict(self, layers: Sequence[bytes], told: ReconcilerError, rehearsed: _Layers | None) -> None:
        """The shorter ways of plain members change nothing: neither verdict, rule, member, offset nor tree."""
        again, built = self._rehearse(layers, strict=True)
        if _told(again) != _told(told):
            raise Broken("strict", f"on the strict path {_told(again)}, and else {_told(told)}")
        if built is None or rehearsed is None:
            return
        if built.totals != rehearsed.totals:
            raise Broken("strict", f"on the strict path {built.totals}, and else {rehearsed.totals}")
        one, other = (index.dump(each.tree, each.writer.next_block) for each in (built, rehearsed))
        if one != other:
            raise Broken("strict", "the strict path makes another tree")

    def _begin(self, writer: Writer, *, strict: bool = False) -> _Layers:
        built = _Layers(self.limits, strict)
        built.tree, built.writer = Tree(self.limits, strict=strict), writer
        return built

    # --------------------------------------------------------------------------------------- what was accepted

    def _accepted(self, layers: Sequence[bytes], rehearsed: _Layers, depth: Depth) -> Verdict:
        volume, parent, _ = self._paths
        try:
            built, next_block = self._build(layers, volume)
        except (ImageTooSmall, NoSpace) as verdict:
            return _refused(verdict)
        except LayerRefused as verdict:
            # ``inspect`` has no volume: what ext4 can't hold must be refused where the members are judged.
            raise Broken(
                "late", f"{verdict.rule}: accepted by the judge and the tree, refused by the writer: {verdict}"
            ) from verdict
        if next_block != rehearsed.writer.next_block:
            raise Broken("rehearsal", f"the data ends at block {next_block}, rehearsed at {rehearsed.writer.next_block}")
        if depth.referee:
            _check_referee(volume)
        self._check_contents(volume, built)
        self._check_index(built.tree, next_block)
        self._check_in_steps(layers, volume, parent)
        told = self._ask_peers(layers, built) if depth.peers else ""
        return Verdict(entries=built.entries, peers=told)

    def _build(self, layers: Sequence[bytes], path: Path) -> tuple[_Layers, int]:
        with _emptied(path, self.size) as fd:
            built = self._begin(Writer(fd, self.size))
            try:
                for layer in layers:
                    built.apply(layer, note=True)
                summary = built.writer.finish(built.tree.root, UUID_OF_ALL)
            finally:
                built.writer.close()
        _check_summary(summary, self.size)
        return built, summary.next_block

    def _check_contents(self, path: Path, built: _Layers) -> None:
        """A reader of ext4 that shares no code with the writer finds the inodes that the tree has, and the data that was read."""
        found = _without_lost_found(ext4.of_image(path))
        meant = _without_lost_found(dict(_walk(built.tree.root)))
        if found.keys() != meant.keys():
            raise Broken("volume", f"names differ: {sorted(found.keys() ^ meant.keys())[:5]!r}")
        for name, inode in meant.items():
            facts = found[name]
            is_link = inode.kind == stat.S_IFLNK
            told = (facts.kind, facts.uid, facts.gid, facts.mtime, facts.target, facts.device, dict(facts.xattrs))
            expected = (inode.kind, inode.uid, inode.gid, inode.mtime, inode.target, inode.device, inode.xattrs)
            if told != expected or (not is_link and facts.mode != inode.mode):
                raise Broken("volume", f"{name!r} is {told!r} mode {facts.mode:o}, meant {expected!r} mode {inode.mode:o}")
            if inode.kind == stat.S_IFREG and (facts.size, facts.digest) != (inode.size, built.digests[inode]):
                raise Broken("volume", f"{name!r} has other data than its layer")

    def _check_index(self, tree: Tree, next_block: int) -> None:
        written = index.dump(tree, next_block)
        try:
            loaded, block = index.load(written, self.limits)
        except ReconcilerError as error:
            raise Broken("index", f"it can't be read back: {error}") from error
        if block != next_block or index.dump(loaded, block) != written:
            raise Broken("index", "it changes as it is read back")

    def _check_in_steps(self, layers: Sequence[bytes], volume: Path, other: Path) -> None:
        """One volume for each prefix of the chain, each on the index and the volume of the one before, ends in the same bytes."""
        tree, below = Tree(self.limits), None
        with _emptied(other, self.size) as fd:
            for layer in [*layers, None]:
                step = self._begin(Writer(fd, self.size, below=below))
                step.tree = tree
                try:
                    if layer is not None:
                        step.apply(layer)
                    summary = step.writer.finish(step.tree.root, UUID_OF_ALL)
                except VERDICTS as verdict:
                    if isinstance(verdict, ImageTooSmall | NoSpace):
                        return  # a lower layer needs room that a whiteout of a later one gives back
                    raise Broken("steps", f"layer by layer it is refused: {verdict}") from verdict
                finally:
                    step.writer.close()
                tree, next_block = index.load(index.dump(step.tree, summary.next_block), self.limits)
                below = Below(tree.root, next_block)
        try:
            same_bytes(volume, other)
        except AssertionError as error:
            raise Broken("steps", f"built layer by layer the volume is another: {error}") from error

    def _ask_peers(self, layers: Sequence[bytes], built: _Layers) -> str:
        told = "none"
        for layer, members in zip(layers, built.members, strict=True):
            stream = open_stream(io.BytesIO(layer), self.limits)
            self._paths[2].write_bytes(b"".join(iter(stream.read, b"")))
            told = readers.compare(self._paths[2], members)
            if told.startswith("ours differs"):
                raise Broken("peers", told)
            if told.startswith("ambiguous") and not self.limits.policy:
                raise Broken(
                    "ambiguous", f"{told.removeprefix('ambiguous: ')}: who looks at the layer first does not see what is written"
                )
        return told


@contextlib.contextmanager
def _emptied(path: Path, size: int) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR)
    try:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


def _told(verdict: ReconcilerError) -> tuple[object, ...]:
    fields = (getattr(verdict, name, None) for name in ("rule", "member", "offset"))
    return (type(verdict).__name__, verdict.message, *fields)


def _is_place(offset: int | None) -> bool:
    return offset is None or offset % 512 == 0 <= offset


def _refused(verdict: ReconcilerError) -> Verdict:
    """A verdict that can be told: its fields have their types, and its message is a short text without control characters."""
    rule, member = getattr(verdict, "rule", ""), getattr(verdict, "member", b"")
    if type(verdict) not in VERDICTS:
        raise Broken("verdict", f"{type(verdict).__name__} is not one of the verdicts")
    if isinstance(verdict, LayerRefused) and not (rule and isinstance(member, bytes) and _is_place(verdict.offset)):
        raise Broken("verdict", f"a refusal without a rule, member or place: {verdict!r}")
    if not verdict.message.isprintable() or len(verdict.message) > 2000:
        raise Broken("message", f"not fit for a log: {verdict.message[:300]!r}")
    return Verdict(type(verdict).__name__, rule)


def _digest(member: Member, data: bytes) -> str:
    """Of a file's whole content, holes included, put together from what the reader says of it."""
    whole, taken = bytearray(member.size), 0
    for offset, length in [(0, member.size)] if member.segments is None else member.segments:
        whole[offset : offset + length] = data[taken : taken + length]
        taken += length
    if len(whole) != member.size or taken != len(data):
        raise Broken("data", f"{member.name!r}: {len(data)} bytes of data for {taken}, size {member.size}")
    return hashlib.sha256(whole).hexdigest()


def _listed(member: Member, mode: int, data: bytes) -> readers.Listed:
    """``mode`` is what the reader told: policies and access control lists may change it, for other readers don't."""
    content = data
    if member.segments is not None:
        whole, taken = bytearray(member.size), 0
        for offset, length in member.segments:
            whole[offset : offset + length] = data[taken : taken + length]
            taken += length
        content = bytes(whole)
    device = (member.devmajor, member.devminor) if member.type in (stat.S_IFCHR, stat.S_IFBLK) else (0, 0)
    link = member.linkname if member.type in (HARDLINK, stat.S_IFLNK) else b""
    return readers.Listed(member.name, member.type, mode, member.uid, member.gid, member.size, link, device, content)


# --------------------------------------------------------------------------------------------- time and memory


class Gauge:
    """CPU time and the most memory since ``reset``, from files that stay open: they are read for each input."""

    def __init__(self) -> None:
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY)
        self.reset()

    def close(self) -> None:
        os.close(self._status)
        os.close(self._clear)

    def reset(self) -> None:
        os.pwrite(self._clear, b"5", 0)  # the peak becomes what is resident now
        self._resident = self._kib(b"VmRSS:")
        self._began = time.thread_time()

    def check(self, seconds: float, memory: int) -> None:
        spent = time.thread_time() - self._began
        if spent > seconds:
            raise Broken("time", f"{spent:.1f} s of CPU, more than {seconds:.0f}")
        grown = self._kib(b"VmHWM:") - self._resident
        if grown > memory // KIB:
            raise Broken("memory", f"{grown} KiB more than before, more than {memory // KIB}")

    def _kib(self, name: bytes) -> int:
        text = os.pread(self._status, 4096, 0)
        return int(text[text.index(name) + len(name) :].split(None, 1)[0])


# -------------------------------------------------------------------------------------------------- the tree


def _walk(root: Inode) -> Iterator[tuple[bytes, Inode]]:
    """Each name with its inode; the root is ``b"."``."""
    yield b".", root
    todo = [(b"", root)]
    while todo:
        prefix, above = todo.pop()
        for name, inode in (above.children or {}).items():
            yield prefix + name, inode
            if inode.children is not None:
                todo.append((prefix + name + b"/", inode))


def check_tree(tree: Tree, limits: Limits) -> None:
    """What was accepted is a tree, of names that a file system can have, within the limits."""
    seen: set[int] = set()
    names: dict[int, int] = {}
    for path, inode in _walk(tree.root):
        name = path.rpartition(b"/")[2]
        if inode is not tree.root and (not 0 < len(name) <= MAX_COMPONENT or name == b".." or b"\0" in name or name == b"."):
            raise Broken("name", f"{path!r} got into the tree")
        if name.startswith(b".wh."):
            raise Broken("whiteout", f"{path!r} got into the tree")
        if inode.children is not None and id(inode) in seen:
            raise Broken("tree", f"{path!r} is a directory with two names")
        seen.add(id(inode))
        names[id(inode)] = names.get(id(inode), 0) + 1
        _check_inode(path, inode, limits)
        if names[id(inode)] > min(inode.names, MAX_LINKS):
            raise Broken("links", f"{path!r} has more names than it says, or than ext4 can count")


def _check_inode(path: bytes, inode: Inode, limits: Limits) -> None:
    if (inode.kind == stat.S_IFDIR) != (inode.children is not None):
        raise Broken("tree", f"{path!r} is half a directory")
    if inode.mode & ~0o7777 or not (0 <= inode.uid <= MAX_ID and 0 <= inode.gid <= MAX_ID):
        raise Broken("owner", f"{path!r} has mode {inode.mode:o}, owner {inode.uid}:{inode.gid}")
    if not MIN_MTIME <= inode.mtime <= MAX_MTIME:
        raise Broken("mtime", f"{path!r}: {inode.mtime}")
    if inode.size > limits.max_file_bytes or inode.size < 0 or (inode.size and inode.kind != stat.S_IFREG):
        raise Broken("limit-file", f"{path!r} has {inode.size} bytes")
    if (inode.kind == stat.S_IFLNK) != (0 < len(inode.target) <= MAX_TARGET) or b"\0" in inode.target:
        raise Broken("target", f"{path!r} leads to {inode.target[:100]!r}")
    if not (0 <= inode.device[0] <= MAX_MAJOR and 0 <= inode.device[1] <= MAX_MINOR):
        raise Broken("device", f"{path!r} is {inode.device}")
    if limits.devices == "refuse" and inode.kind in (stat.S_IFCHR, stat.S_IFBLK):
        raise Broken("policy", f"{path!r} is a device")
    if limits.setuid != "keep" and inode.kind == stat.S_IFREG and inode.mode & 0o6000:
        raise Broken("policy", f"{path!r} has mode {inode.mode:o}")
    if any(not name.startswith((b"user.", b"security.capability", b"system.posix_acl_")) for name in inode.xattrs):
        raise Broken("xattr", f"{path!r} has {sorted(inode.xattrs)[:5]!r}")


def _without_lost_found(names: dict[bytes, _T]) -> dict[bytes, _T]:
    """The reader of ext4 passes over a directory of that name: with mke2fs it is none of the image's."""
    return {name: what for name, what in names.items() if not (name + b"/").startswith(b"lost+found/")}


def _check_summary(summary: Summary, size: int) -> None:
    if summary.used_blocks + summary.free_blocks != summary.blocks or summary.blocks != size // 4096:
        raise Broken("summary", f"{summary}")


def _check_referee(path: Path) -> None:
    try:
        check(path)
    except AssertionError as error:
        raise Broken("referee", f"e2fsck complains: {error}") from error

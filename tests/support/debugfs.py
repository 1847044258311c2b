"""An ext4 image read by e2fsprogs' debugfs: a reader besides the tests' own and the kernel, without root. No state."""

from __future__ import annotations

import hashlib
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.compare import ROOT, Facts, Run, grouped
from tests.support.images import ENVIRONMENT

Stated = dict[int, bytes]
"""By inode, what debugfs prints of it."""

NAMED = (0x02, 0x08)
"""Tags of an ACL's entries for one user or group, which have an id (linux/posix_acl.h)."""

_entry = re.compile(rb"/(\d+)/([0-7]{6})/-?\d+/-?\d+/([^/]+)/\d*/\n")
_mode = re.compile(rb"Mode: +([0-7]+)")
_owner = re.compile(rb"User: +(-?\d+) +Group: +(-?\d+)(?: +Project: +\d+)? +Size: (\d+)")
_links = re.compile(rb"\nLinks: (\d+)")
_mtime = re.compile(rb"\n mtime: 0x([0-9a-f]+):([0-9a-f]+)")
_device = re.compile(rb"Device major/minor number: (\d+):(\d+)")
_target = re.compile(rb'\nFast link dest: "(.*)"\n', re.DOTALL)
_extent = re.compile(rb"\((\d+)(?:-(\d+))?\):")
_attribute = re.compile(rb"^  (.+?) \(\d+\)(?: = .*)?$", re.MULTILINE)
_hexadecimal = re.compile(rb"(?:[0-9a-f]{2} )+").fullmatch


def of_image(image: Path, scratch: Path) -> dict[bytes, Facts]:
    """The contents of an image, its root directory as ``b"."``; ``scratch`` is for the files that debugfs extracts."""
    found = dict(_names(image))
    output = _answers(image, {number: b"stat <%d>" % number for number, _ in found.values()})
    listed = _answers(image, {number: b"ea_list <%d>" % number for number, _ in found.values()})
    attributes = {
        (number, name): scratch / f"{number}.{at}" for number in output for at, name in enumerate(_listed(listed[number]))
    }
    contents = {number: scratch / str(number) for number, kind in found.values() if _has_content(kind, output[number])}
    _run(image, [b'ea_get -f "%s" "<%d>" "%s"' % (bytes(path), number, name) for (number, name), path in attributes.items()])
    _run(image, [b'dump <%d> "%s"' % (number, bytes(path)) for number, path in contents.items()])
    links = grouped({name: number for name, (number, kind) in found.items() if kind != stat.S_IFDIR})
    xattrs: dict[int, list[tuple[bytes, bytes]]] = {}
    for (number, name), path in attributes.items():
        xattrs.setdefault(number, []).append((name, _value(name, path.read_bytes())))
    return {
        name: _facts(kind, output[number], contents.get(number), tuple(sorted(xattrs.get(number, []))), links.get(name, ()))
        for name, (number, kind) in found.items()
    }


def _names(image: Path) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Each name with its inode and kind; mke2fs' own empty lost+found is left out."""
    yield ROOT, (2, stat.S_IFDIR)
    level = {2: b""}
    while level:
        below: dict[int, bytes] = {}
        for number, listing in _answers(image, {number: b"ls -p -r <%d>" % number for number in level}).items():
            for child, mode, name in _entry.findall(listing):
                kind = stat.S_IFMT(int(mode, 8))
                if name in (b".", b".."):
                    continue
                yield level[number] + name, (int(child), kind)
                if kind == stat.S_IFDIR:
                    below[int(child)] = level[number] + name + b"/"
        level = below


def _has_content(kind: int, output: bytes) -> bool:
    return kind == stat.S_IFREG or (kind == stat.S_IFLNK and not _target.search(output))


def _listed(answer: bytes) -> list[bytes]:
    return [bytes.fromhex(name.decode()) if _hexadecimal(name) else name for name in _attribute.findall(answer)]


def _facts(
    kind: int, output: bytes, content: Path | None, xattrs: tuple[tuple[bytes, bytes], ...], links: tuple[bytes, ...]
) -> Facts:
    owner, device, target = _owner.search(output), _device.search(output), _target.search(output)
    assert owner, output
    data = content.read_bytes() if content else b""
    assert kind == stat.S_IFDIR or int(_one(_links, output)) == max(1, len(links)), output
    return Facts(
        kind=kind,
        mode=int(_one(_mode, output), 8),
        uid=int(owner[1]) % 2**32,
        gid=int(owner[2]) % 2**32,
        mtime=_time(output),
        size=0 if kind == stat.S_IFDIR else int(owner[3]),
        digest=hashlib.sha256(data).hexdigest() if kind == stat.S_IFREG else "",
        data=tuple(_extents(output)) if kind == stat.S_IFREG else (),
        target=target[1] if target else data if kind == stat.S_IFLNK else b"",
        device=(int(device[1]), int(device[2])) if device else (0, 0),
        xattrs=xattrs,
        links=links,
    )


def _value(name: bytes, value: bytes) -> bytes:
    """As the system call gives it: where an entry of an ACL has no id, libext2fs puts a 0 and Linux 2^32-1."""
    if not name.startswith(b"system.posix_acl_"):
        return value
    entries = (value[at : at + 8] for at in range(4, len(value), 8))
    return value[:4] + b"".join(entry if entry[0] in NAMED else entry[:4] + b"\xff" * 4 for entry in entries)


def _one(pattern: re.Pattern[bytes], output: bytes) -> bytes:
    match = pattern.search(output)
    assert match, output
    return bytes(match[1])


def _time(output: bytes) -> int:
    """Nanoseconds: the low 32 bits are signed, two bits of the other word are above them, the rest are nanoseconds."""
    match = _mtime.search(output)
    assert match, output
    low, extra = int(match[1], 16), int(match[2], 16)
    return (low - (low >> 31 << 32) + ((extra & 3) << 32)) * 10**9 + (extra >> 2)


def _extents(output: bytes) -> Iterator[Run]:
    """The blocks that have data, neighbours joined."""
    start = end = -1
    for first, last in _extent.findall(output.partition(b"\nEXTENTS:\n")[2]):
        if int(first) != end:
            if start >= 0:
                yield start, end - start
            start = int(first)
        end = int(last or first) + 1
    if start >= 0:
        yield start, end - start


# ------------------------------------------------------------------------------------------------- the program


def _answers(image: Path, requests: dict[int, bytes]) -> Stated:
    """What debugfs answers to one request each; it repeats each request in front of its answer."""
    output = _run(image, requests.values())
    places: list[tuple[int, int]] = []
    for request in requests.values():
        echo = b"debugfs: " + request + b"\n"
        start = output.index(echo, places[-1][1] if places else 0)
        places.append((start, start + len(echo)))
    ends = [start for start, _ in places[1:]] + [len(output)]
    return {number: output[begin:end] for number, (_, begin), end in zip(requests, places, ends, strict=True)}


def _run(image: Path, requests: Iterable[bytes]) -> bytes:
    script = b"".join(request + b"\n" for request in requests)
    done = subprocess.run(["debugfs", "-f", "-", image], input=script, capture_output=True, env=ENVIRONMENT, check=False)
    complaints = [line for line in done.stderr.splitlines() if not line.startswith(b"debugfs ")]
    assert (done.returncode, complaints) == (0, []), complaints
    return done.stdout

"""Writes a small ISO 9660 file system: a few files in its root directory, their names kept by Rock Ridge.

Called by ``host.seeds`` for the disks that cloud-init reads. The same files give the same bytes: nothing has a date of now, an
owner or an identifier of the writer. ECMA-119 has the structures, IEEE P1282 (RRIP) those in a record's system use. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

SECTOR = 2048
_PATHS, _PATHS_BIG, _ROOT, _FILES = 18, 19, 20, 21
"""Sectors of the path tables, the root directory and the first file; before them lie 16 unused ones and two descriptors."""
_FIRST_DATE = bytes((70, 1, 1, 0, 0, 0, 0))
"""1970-01-01 00:00:00 UTC, as a record has it."""
_NO_DATE = b"0" * 16 + b"\0"
_DIRECTORY, _REGULAR = 0o40555, 0o100444


def image(label: str, files: Mapping[str, bytes]) -> bytes:
    """The whole disk. ``label`` is the volume's id; at most 16 files, whose names have at most 64 ASCII characters."""
    records, contents, at = [], [], _FILES
    for number, (name, content) in enumerate(sorted(files.items())):
        own = _rock_ridge(_REGULAR, 1) + _entry(b"NM", b"\0" + name.encode("ascii"))
        records.append(_record(b"FILE%02d.;1" % number, at, len(content), 0, own))
        contents.append(_padded(content))
        at += len(contents[-1]) // SECTOR
    shared_use = _entry(b"SP", b"\xbe\xef\0")
    extensions = _entry(b"ER", struct.pack("4B", 10, 0, 0, 1) + b"RRIP_1991A")
    parts = [
        bytes(16 * SECTOR),
        _descriptor(label, at),
        _padded(b"\xffCD001\x01"),
        _padded(_path_table("<")),
        _padded(_path_table(">")),
        _padded(
            _record(b"\0", _ROOT, SECTOR, 2, shared_use + _rock_ridge(_DIRECTORY, 2) + extensions)
            + _record(b"\1", _ROOT, SECTOR, 2, _rock_ridge(_DIRECTORY, 2))
            + b"".join(records)
        ),
        *contents,
    ]
    return b"".join(parts)


def _descriptor(label: str, sectors: int) -> bytes:
    """The primary volume descriptor."""
    return _padded(
        b"\x01CD001\x01\0"
        + b" " * 32  # system
        + label.encode("ascii").ljust(32)
        + bytes(8)
        + _both(sectors)
        + bytes(32)
        + _both(1, "H") * 2  # one volume of a set of one
        + _both(SECTOR, "H")
        + _both(len(_path_table("<")))
        + struct.pack("<2L", _PATHS, 0)
        + struct.pack(">2L", _PATHS_BIG, 0)
        + _record(b"\0", _ROOT, SECTOR, 2, b"")
        + b" " * (128 * 4 + 37 * 3)  # set, publisher, preparer, application; copyright, abstract, bibliography
        + _NO_DATE * 4
        + b"\x01"
    )


def _path_table(order: str) -> bytes:
    """Of the root alone."""
    return struct.pack(f"{order}BBLH", 1, 0, _ROOT, 1) + b"\0\0"


def _record(name: bytes, sector: int, size: int, flags: int, system_use: bytes) -> bytes:
    """An entry of a directory; records and what is in them for the system have an even length."""
    head = _both(sector) + _both(size) + _FIRST_DATE + bytes((flags, 0, 0)) + _both(1, "H") + bytes((len(name),)) + name
    head += b"" if len(name) % 2 else b"\0"
    system_use += b"\0" * (len(system_use) % 2)
    return bytes((2 + len(head) + len(system_use), 0)) + head + system_use


def _rock_ridge(mode: int, links: int) -> bytes:
    """Mode, links and owner (root)."""
    return _entry(b"PX", b"".join(map(_both, (mode, links, 0, 0))))


def _entry(signature: bytes, data: bytes) -> bytes:
    return signature + bytes((4 + len(data), 1)) + data


def _both(number: int, form: str = "L") -> bytes:
    """In both byte orders."""
    return struct.pack(f"<{form}", number) + struct.pack(f">{form}", number)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % SECTOR)

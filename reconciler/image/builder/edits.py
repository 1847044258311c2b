"""Edits of snapshots on their way to the child: one memory file holds a description, and the files' contents behind it.

``editor`` packs them, the child unpacks them: contents that are secret lie in no packet, no file and no log. No state.
"""

from __future__ import annotations

import json
import os
from uuid import UUID

from reconciler.image.ext4.edit import Edit, File

HEADER = 8
"""Bytes of the description's length, little-endian."""


def pack(edit: Edit) -> int:
    """A descriptor of the memory file, which the caller closes."""
    files = [
        {"path": one.path.hex(), "length": len(one.content), "mode": one.mode, "uid": one.uid, "gid": one.gid}
        for one in edit.files
    ]
    described = {"size": edit.size, "uuid": str(edit.uuid) if edit.uuid else "", "unique": edit.unique, "files": files}
    text = json.dumps(described).encode()
    whole = memoryview(b"".join((len(text).to_bytes(HEADER, "little"), text, *(one.content for one in edit.files))))
    fd = os.memfd_create("edit", os.MFD_CLOEXEC)
    try:
        while whole:
            whole = whole[os.write(fd, whole) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def unpack(fd: int) -> Edit:
    whole = memoryview(_read(fd))
    length = int.from_bytes(whole[:HEADER], "little")
    described = json.loads(bytes(whole[HEADER : HEADER + length]))
    at, files = HEADER + length, []
    for one in described["files"]:
        content = bytes(whole[at : at + one["length"]])
        files.append(File(bytes.fromhex(one["path"]), content, one["mode"], one["uid"], one["gid"]))
        at += one["length"]
    uuid = UUID(described["uuid"]) if described["uuid"] else None
    return Edit(described["size"], uuid, described["unique"], tuple(files))


def _read(fd: int) -> bytes:
    pieces, at = [], 0
    while piece := os.pread(fd, 1 << 20, at):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)

"""Edits a copy of a finished file system in place: a larger size, a UUID of its own, files, no identity of another machine.

Called by ``builder.editor`` in a confined process. No mount, no index and no layer is needed: superblock, group descriptors and
what lies on the paths' way are read. The same volume and the same ``Edit`` give the same bytes. Only a copy that nothing has
used may be edited: a kernel that has written keeps part of the truth in its journal. No state.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from uuid import UUID

from reconciler.dataclass import dataclass
from reconciler.errors import FileRefused
from reconciler.image.ext4.directory import FILE_TYPES
from reconciler.image.ext4.grow import grow
from reconciler.image.ext4.paths import Located, resolve, shown
from reconciler.image.ext4.stored import Stored
from reconciler.image.ext4.stored_directory import StoredDirectory
from reconciler.image.ext4.stored_inode import LINKS, Node, write_new

MOST_CONTENT = 1 << 20
"""Bytes of one file."""

MACHINE_ID = b"/etc/machine-id"
MACHINE_ID_MODE = 0o444
SECRETS = (
    b"/var/lib/dbus/machine-id",
    b"/var/lib/systemd/random-seed",
    b"/var/lib/systemd/credential.secret",
    b"/var/lib/urandom/random-seed",
    b"/var/lib/random-seed",
    b"/var/lib/misc/random-seed",
    b"/boot/loader/random-seed",
    b"/loader/random-seed",
)
"""What a machine makes for itself alone: systemd's "Building Images Safely", and older init systems."""
HOST_KEYS, HOST_KEY = b"/etc/ssh", b"ssh_host_"


@dataclass(frozen=True, slots=True)
class File:
    """A regular file to be written. ``path`` is absolute; a symlink in its last place is followed."""

    path: bytes
    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Edit:
    """``size`` (bytes) is that of the volume, 0 to keep the file system's. ``uuid`` None keeps that.

    ``unique`` empties /etc/machine-id and removes SSH host keys and random seeds, before ``files`` are written.
    """

    size: int = 0
    uuid: UUID | None = None
    unique: bool = False
    files: tuple[File, ...] = ()


def apply(fd: int, edit: Edit) -> None:
    """Edit the file system on ``fd``; the caller syncs. After an error the volume is to be discarded.

    Raises FileRefused for a path, ImageTooSmall where something has no room, VolumeCorrupt, NoSpace, DeviceFailed, Terminal for
    a size that can't be reached.
    """
    stored = Stored(fd)
    if edit.uuid is not None:
        stored.set("s_uuid", edit.uuid.bytes)
    if edit.size:
        grow(stored, edit.size)
    if edit.unique:
        _forget_machine(stored)
    for file in edit.files:
        _write(stored, file)
    stored.flush()


def _write(stored: Stored, file: File) -> None:
    if len(file.content) > MOST_CONTENT:
        raise FileRefused(f"{shown(file.path)} has {len(file.content)} bytes", hint=f"a file has at most {MOST_CONTENT}")
    place = resolve(stored, file.path, make=True)
    if place is not None:
        _replace(stored, place, file)


def _replace(stored: Stored, place: Located, file: File) -> None:
    """A file with other names keeps its content under those."""
    wanted_for, mode, owner = shown(file.path), stat.S_IFREG | file.mode, (file.uid, file.gid)
    node = place.node
    if node is None or node.get(LINKS) > 1:
        number = stored.new_inode(wanted_for, directory=False)
        write_new(stored, number, file.content, mode, owner, wanted_for)
        if node is None:
            place.directory.insert(place.name, number, FILE_TYPES[stat.S_IFREG], wanted_for)
            return
        _require_file(node, wanted_for)
        _unlink(node)
        slot = place.directory.find(place.name)
        assert slot is not None
        place.directory.point(slot, number, FILE_TYPES[stat.S_IFREG])
        return
    _require_file(node, wanted_for)
    node.release_blocks()
    write_new(stored, node.number, file.content, mode, owner, wanted_for)


def _require_file(node: Node, path: str) -> None:
    if node.kind != stat.S_IFREG:
        what = "a directory" if node.kind == stat.S_IFDIR else "no regular file"
        raise FileRefused(f"{path} is {what} in the image", hint="choose another path, or remove it from the image")


def _unlink(node: Node) -> None:
    """Take one name from a file; its last one takes the inode with it."""
    links = node.get(LINKS)
    if links > 1:
        node.set(LINKS, links - 1)
        node.save()
        return
    node.release_blocks()
    node.stored.release_inode(node.number)


# ------------------------------------------------------------------------------------------------------ identities


def _forget_machine(stored: Stored) -> None:
    _empty_machine_id(stored)
    for path in (*SECRETS, *_host_keys(stored)):
        _remove(stored, path)


def _empty_machine_id(stored: Stored) -> None:
    """An empty file, as systemd wants it: also behind a symlink. An image without one gets none."""
    place = _found(stored, MACHINE_ID, follow=True)
    if place is not None and place.node is not None and place.node.kind == stat.S_IFREG:
        _replace(stored, place, File(MACHINE_ID, b"", MACHINE_ID_MODE))


def _host_keys(stored: Stored) -> Iterator[bytes]:
    place = _found(stored, HOST_KEYS, follow=True)
    if place is None or place.node is None or place.node.kind != stat.S_IFDIR:
        return
    names = [name for name, _, _ in StoredDirectory(place.node).entries() if name.startswith(HOST_KEY)]
    for name in sorted(names):
        yield HOST_KEYS + b"/" + name


def _remove(stored: Stored, path: bytes) -> None:
    """Remove a regular file; anything else stays. Absent is success."""
    place = _found(stored, path, follow=False)
    if place is None or place.node is None or place.node.kind != stat.S_IFREG:
        return
    slot = place.directory.find(place.name)
    assert slot is not None
    place.directory.remove(slot)
    _unlink(place.node)


def _found(stored: Stored, path: bytes, *, follow: bool) -> Located | None:
    """Where a path of ours leads; a path that the image has bent out of its root leads nowhere."""
    try:
        return resolve(stored, path, follow=follow)
    except FileRefused:
        return None

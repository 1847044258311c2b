"""Access control lists: what tars spell in words becomes what Linux keeps, and nothing that Linux would refuse gets in."""

from __future__ import annotations

import struct

import pytest

from reconciler.image.archive import acl
from reconciler.image.archive.member import Malformed

NO_ID = 2**32 - 1
LIST = [(1, 6, NO_ID), (2, 4, 7), (2, 7, 1000), (4, 4, NO_ID), (8, 5, 2000), (16, 5, NO_ID), (32, 0, NO_ID)]
BINARY = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in LIST)


@pytest.mark.parametrize(
    "text",
    [
        b"user::rw-,user:1000:rwx,user:lp:r--:7,group::r--,group:staff:r-x:2000,mask::r-x,other::---",
        b"u::rw-\ng::r--\no::---\nm::r-x\nu:7:r--\t#effective:r--\nu:1000:rwx\ng:2000:r-x\n",
        b"other::---, mask::r-x, group:2000:r-x, group::r--, user:1000:rwx, user:7:r--, user::rw-,",
    ],
    ids=["libarchive", "lines", "any order"],
)
def test_every_spelling_of_a_list_becomes_the_kernels(text: bytes) -> None:
    entries, unknown = acl.from_text(text)

    assert unknown == ()
    assert acl.to_xattr(entries) == BINARY
    assert acl.from_xattr(BINARY) == entries
    assert acl.says_more_than_mode(entries)
    assert acl.mode_bits(entries) == 0o650


def test_root_is_the_one_name_whose_number_is_the_same_everywhere() -> None:
    [_, named, *_] = acl.from_text(b"user::rw-,user:root:r--,group::r--,mask::r--,other::r--").entries

    assert (named.tag, named.id) == (acl.USER, 0)


def test_a_name_without_its_number_is_the_images_or_left_out() -> None:
    text = b"user::rw-,user:lp:r--,user:ann:r--,group::r--,group:lp:r--,mask::r--,other::r--"
    ids = {(acl.USER, b"lp"): 7}

    found = acl.from_text(text, ids=lambda tag, name: ids.get((tag, name)))

    assert [(one.tag, one.id) for one in found.entries if one.id != NO_ID] == [(acl.USER, 7)]
    assert found.unknown == (b"user:ann", b"group:lp")


def test_a_list_that_says_what_the_mode_says_is_known_as_such() -> None:
    entries = acl.from_text(b"user::rwx,group::r-x,other::r--").entries

    assert not acl.says_more_than_mode(entries)
    assert acl.mode_bits(entries) == 0o754


@pytest.mark.parametrize(
    "text",
    [
        b"user::rw-",
        b"user::rw-,user::rw-,group::r--,other::r--",
        b"user::rw-,user:7:r--,group::r--,other::r--",
        b"user::rw-,user:7:r--,user:7:rw-,group::r--,mask::r--,other::r--",
        b"user::rw-,group::r--,mask:7:r--,other::r--",
        b"user::rw,group::r--,other::r--",
        b"user::rw-,group::r--,other::r--,evil::rwx",
        b"user::rw-,user:4294967295:r--,group::r--,mask::r--,other::r--",
        b"user::rw-,user:7:r--:99999999999,group::r--,mask::r--,other::r--",
    ],
)
def test_what_linux_would_not_accept_is_refused(text: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        acl.from_text(text)
    assert refused.value.rule == "xattr-value"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        BINARY[:-1],
        b"\1" + BINARY[1:],
        struct.pack("<IHHI", 2, 64, 7, 0),
        BINARY[:4] + BINARY[12:20] + BINARY[4:12] + BINARY[20:],
        BINARY.replace(struct.pack("<HHI", 32, 0, NO_ID), struct.pack("<HHI", 32, 8, NO_ID)),
    ],
    ids=["nothing", "cut", "version", "tag", "order", "permissions"],
)
def test_binary_lists_are_held_to_the_same_rules(value: bytes) -> None:
    with pytest.raises(Malformed):
        acl.from_xattr(value)


def test_names_need_no_numbers_where_the_same_list_is_given_with_them() -> None:
    """GNU tar with --acls and --xattrs writes both, and only the binary one has numbers."""
    numbered = acl.from_xattr(BINARY)
    words = b"user::rw-,user:lp:r--,user:ann:rwx,group::r--,group:staff:r-x,mask::r-x,other::---"

    assert acl.from_text(words, numbered) == (numbered, ())
    for other in (words.replace(b"lp:r--", b"lp:rwx"), words.replace(b"user:lp:r--", b"user:8:r--"), words + b",user:x:r--"):
        with pytest.raises(Malformed) as refused:
            acl.from_text(other, numbered)
        assert refused.value.rule == "pax-ambiguous"

"""How the text of a manifest's scalar becomes a value: one reader, and one JSON Schema for editors, for each kind of field.

Used by ``documents``, which ties them to fields. A reader raises ValueError with words that go on from the text they are about.
The schemas are wider than the readers in one respect: editors give ``123`` and ``no`` a type of their own, the readers never do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime

from reconciler import sizes
from reconciler.dataclass import dataclass, field
from reconciler.image.custom import FILE_BYTES
from reconciler.image.oci.platform import Platform
from reconciler.image.oci.reference import Reference
from reconciler.image.spec import GIB, KIB, MIB
from reconciler.manifests import location
from reconciler.manifests.faults import noun, quoted
from reconciler.policy.addresses import parse_allowed

BLOCK = 4096
TIB = 1 << 40


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """``secret`` keeps the text out of messages."""

    read: Callable[[str], object]
    schema: Mapping[str, object] = field(default_factory=lambda: {"type": "string"})
    secret: bool = False

    def __call__(self, text: object) -> object:
        """The value. ValueError with a whole sentence where the text is not right, or not a text."""
        if not isinstance(text, str):
            raise ValueError(f"expected text, found {noun(text)}")
        try:
            return self.read(text)
        except ValueError as error:
            raise ValueError(f"the value {error}" if self.secret else f"{quoted(text)} {error}") from None


def _word(pattern: str, what: str, longest: int) -> Scalar:
    compiled = re.compile(pattern)

    def read(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"is not {what}")
        if len(text) > longest:
            raise ValueError(f"has {len(text)} characters; {longest} is the most")
        return text

    return Scalar(read, {"type": ["string", "number", "boolean"], "pattern": f"^({pattern})$", "maxLength": longest})


def _whole(low: int, high: int) -> Scalar:
    def read(text: str) -> int:
        if not re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text):
            raise ValueError("is not a whole number (decimal digits, no leading zero)")
        return _between(int(text), low, high, str)

    return Scalar(read, {"type": ["integer", "string"], "minimum": low, "maximum": high, "pattern": "^(0|[1-9][0-9]*)$"})


def _size(low: int, high: int, multiple: int = 1) -> Scalar:
    def read(text: str) -> int:
        size = _between(sizes.parse_size(text), low, high, sizes.format_size)
        if size % multiple:
            raise ValueError(f"is not a multiple of {sizes.format_size(multiple)}")
        return size

    return Scalar(read, {"type": ["string", "integer"], "pattern": sizes.PATTERN, "minimum": low, "multipleOf": multiple})


def _between(value: int, low: int, high: int, show: Callable[[int], str]) -> int:
    if not low <= value <= high:
        raise ValueError(f"is not within {show(low)} and {show(high)}")
    return value


def _duration(text: str) -> float:
    try:
        return sizes.parse_duration(text)
    except ValueError as error:
        raise ValueError(sizes.TOO_LONG if sizes.TOO_LONG in str(error) else sizes.NO_DURATION) from None


def _instant(text: str) -> float:
    """Seconds since the epoch. Without an offset the same text would be another moment on each host."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or "T" not in text:
        raise ValueError("is not a time with its offset, such as 2026-03-01T06:00:00Z or 2026-03-01T07:00:00+01:00")
    return found.timestamp()


def _switch(text: str) -> bool:
    word = text.lower()
    if word not in ("true", "yes", "on", "false", "no", "off"):
        raise ValueError("is not true or false")
    return word in ("true", "yes", "on")


def _sha256(text: str) -> str:
    """In lower case, whichever the tool that printed it prefers: it names the same bytes."""
    if text.lower().startswith("sha256:"):
        raise ValueError("is not 64 hex digits (leave 'sha256:' out)")
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        raise ValueError(f"is not 64 hex digits ({len(text)} characters; sha256sum FILE prints what belongs here)")
    return text.lower()


def _absolute_path(text: str) -> str:
    if not text.startswith("/") or text.endswith("/") or not text.isprintable():
        raise ValueError("is not the absolute path of a file or device")
    return text


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("has characters that UTF-8 can't express") from None


def _image_path(text: str) -> str:
    """A path inside an image, which no part of it leaves."""
    if not text.startswith("/") or text.endswith("/") or "\0" in text:
        raise ValueError("is not the absolute path of a file in the image")
    parts = text[1:].split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError("has empty parts, '.' or '..' (write the path that it leads to)")
    if len(_utf8(text)) > 4095 or any(len(_utf8(part)) > 255 for part in parts):
        raise ValueError("is longer than Linux allows (4095 bytes, 255 for each name)")
    return text


def _host_file(text: str) -> str:
    """A file of the host whose content goes into a snapshot: a path, or ``file:///path``."""
    found = location.parse_source(text)
    if found.startswith("s3://"):
        raise ValueError("is not a file of the host (give its path)")
    return found


def _content(text: str) -> str:
    if len(_utf8(text)) > FILE_BYTES:
        raise ValueError(f"has more than {FILE_BYTES >> 20} MiB (put large files into a layer of the image)")
    return text


def _root(text: str) -> str:
    """A directory, or a file, that the host's policy lists; without the slash at its end."""
    if not text.startswith("/") or not text.isprintable():
        raise ValueError("is not an absolute path")
    return text.rstrip("/") or "/"


def _pattern(text: str) -> str:
    if not text.startswith("/") or text.endswith("/") or not text.isprintable():
        raise ValueError("is not the absolute path of a device, in which '*' and '?' match anything")
    return text


NAME = _word(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", "a name (a-z, 0-9 and '-', with a letter or digit at both ends)", 63)
SNAPSHOT_NAME = _word(r"[a-z0-9_][a-z0-9._-]*", "a snapshot's name (a-z, 0-9, '.', '_' and '-', with no '.' or '-' first)", 120)
LABEL_KEY = _word(
    r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
    "a label's key (letters, digits, '-', '_', '.', with a letter or digit at both ends; 'prefix/' may come first)",
    317,
)
LABEL_VALUE = _word(
    r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?",
    "a label's value (letters, digits, '-', '_', '.', with a letter or digit at both ends)",
    63,
)
REGION = _word(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?", "a region's name, as us-east-1", 63)
PERCENT = _whole(0, 90)
SHARE = _whole(0, 100)
COUNT = _whole(1, 1000)
NUMBER = _whole(1, 10**9)
BYTES = _size(1, (1 << 63) - 1)
NAME_BYTES = _whole(1, 255)
PATH_BYTES = _whole(1, 4096)
XATTR_BYTES = _size(1, MIB)
METADATA_BYTES = _size(512, 64 * MIB)
DURATION = Scalar(_duration, {"type": "string", "pattern": "^([0-9]+[smhd])+$"})
INSTANT = Scalar(_instant, {"type": "string", "format": "date-time"})
SECONDS = _whole(1, 7 * 24 * 3600)
IMAGE_SIZE = _size(16 * MIB, 64 * TIB, BLOCK)
BYTES_PER_INODE = _size(4 * KIB, 64 * KIB, KIB)
BACKING_SIZE = _size(2 * MIB, (1 << 63) - BLOCK, BLOCK)
BLOCK_SIZE = _size(64 * KIB, GIB, 64 * KIB)
SWITCH = Scalar(_switch, {"enum": [True, False, "true", "false", "yes", "no", "on", "off"]})
SHA256 = Scalar(_sha256, {"type": ["string", "number"], "pattern": "^[0-9A-Fa-f]{64}$"})
IMAGE_SOURCE = Scalar(
    lambda text: str(Reference.parse(text)),
    {"type": "string", "pattern": "^(oci://|oci-layout:|oci-archive:|docker-archive:).+$"},
)
PLATFORM = Scalar(lambda text: str(Platform.parse(text)), {"type": "string", "pattern": "^[^/]+/[^/]+(/[^/]+)?$"})
SOURCE = Scalar(location.parse_source, {"type": "string", "minLength": 1})
ENDPOINT = Scalar(location.parse_endpoint, {"type": "string", "pattern": "^https?://[^/?#@]+[^?#@]*$"}, secret=True)
ROOT = Scalar(_root, {"type": "string", "pattern": "^/.*$"})
PATTERN = Scalar(_pattern, {"type": "string", "pattern": "^/.*[^/]$"})
ADDRESS = Scalar(parse_allowed)
_HOST = r"([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]{1,5})?|\[[0-9a-fA-F:]+\](:[0-9]{1,5})?)"
REGISTRY = _word(_HOST, "the host of a registry, with or without a port", 261)
REPOSITORIES = _word(
    rf"{_HOST}(/[a-z0-9]+([._-]+[a-z0-9]+)*)*", "the host of a registry, with or without a port and a path below it", 517
)
ACCOUNT = _word(r"[a-z_][-a-z0-9_.]{0,30}\$?|0|[1-9][0-9]{0,9}", "the name or number of a user or group", 32)
ACCESS_MODE = _word(r"0[0246]{3}", "an octal mode of reading and writing, such as 0660", 4)
FILE_MODE = _word(r"0?[0-7]{3,4}", "an octal mode, such as 0644", 5)
OWNER = _whole(0, 2**32 - 2)
IMAGE_PATH = Scalar(_image_path, {"type": "string", "pattern": "^/.*[^/]$"})
HOST_FILE = Scalar(_host_file, {"type": "string", "minLength": 1})
CONTENT = Scalar(_content, {"type": ["string", "number", "boolean"]}, secret=True)
ABSOLUTE_PATH = Scalar(_absolute_path, {"type": "string", "pattern": "^/.*[^/]$"})

"""The syntax of an image's source: ``oci://host/repository:tag@sha256:…``, and layouts and archives of this host or in S3.

Read by ``manifests`` (checked, made absolute), the resolvers of this package and the command line. Asks neither network nor file
system. No state.
"""

from __future__ import annotations

import os
import re

from reconciler.dataclass import dataclass, replace

REGISTRY, LAYOUT, OCI_ARCHIVE, DOCKER_ARCHIVE = "oci", "oci-layout", "oci-archive", "docker-archive"
"""The transports. Each of the others names a path instead of a host."""

DEFAULT_TAG = "latest"
HUB = "docker.io"
HUB_API = "registry-1.docker.io"

_PREFIX = re.compile(r"oci://|(?:oci-layout|oci-archive|docker-archive):", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::(\d{{1,5}}))?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_AT_DIGEST = re.compile(r"@sha\d+:[^/]*$")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,254}")
_LONGEST_REPOSITORY = 255
_S3 = "s3://"
_FORMS = "write oci://host/repository:tag, oci-layout:PATH, oci-archive:PATH or docker-archive:PATH"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's source. ``str`` gives the text that ``parse`` reads.

    ``tag`` is the tag of a repository, or the name of an image in a layout or archive; empty where it is left out. ``digest`` is
    ``sha256:`` and 64 hex digits, of the manifest; empty where the reference is not pinned. ``host`` has the port, ``path`` may
    be ``s3://bucket/key`` of an archive.
    """

    transport: str
    host: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises ValueError, with what is wrong in words and a hint in parentheses."""
        if not (prefix := _PREFIX.match(text)):
            raise ValueError(f"is not an image's source ({_FORMS})")
        if prefix[0] != prefix[0].lower():
            raise ValueError(f"has its scheme in capitals (write {prefix[0].lower()})")
        transport = prefix[0].rstrip("/:")
        rest = text[prefix.end() :]
        if transport == REGISTRY:
            return _registry(rest)
        return _stored(transport, rest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        if self.is_registry:
            return f"oci://{self.host}/{self.repository}{tag}{digest}"
        return f"{self.transport}:{self.path}{tag}{digest}"

    @property
    def pinned(self) -> bool:
        return bool(self.digest)

    @property
    def is_registry(self) -> bool:
        return self.transport == REGISTRY

    @property
    def is_s3(self) -> bool:
        return self.path.startswith(_S3)

    @property
    def wanted(self) -> str:
        """What a registry is asked for: the digest, else the tag, else ``latest``."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def api_host(self) -> str:
        """The host that serves the repository, with the port."""
        return HUB_API if self.host == HUB else self.host

    def at(self, digest: str) -> Reference:
        """The same image, pinned."""
        return replace(self, digest=digest)

    def resolve(self, directory: str) -> Reference:
        """The same image, a relative path made absolute from ``directory``; ``..`` is resolved in the text."""
        if self.is_registry or self.is_s3:
            return self
        return replace(self, path=os.path.abspath(os.path.join(directory, self.path)))  # noqa: PTH100, PTH118


def is_reference(text: str) -> bool:
    """Whether a source is of a whole image, right or wrong: its scheme decides."""
    return _PREFIX.match(text) is not None


def _registry(rest: str) -> Reference:
    if _CONTROL.search(rest):
        raise ValueError("contains spaces or control characters")
    host, slash, named = rest.partition("/")
    if "@" in host and slash:
        raise ValueError("contains credentials (put them into an auth file; manifests are no place for secrets)")
    if not slash or not _is_host(host):
        raise ValueError(f"begins with no registry's host (write {_suggested(rest)}, or oci://host/repository:tag)")
    _check_host(host)
    named, digest = _split_digest(named)
    repository, colon, tag = named.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise ValueError("has no valid tag (1 to 128 of letters, digits, '_', '.' and '-')")
    _check_repository(repository)
    host = HUB if host.lower() in (HUB, HUB_API, f"index.{HUB}") else host.lower()
    if host == HUB and "/" not in repository:
        raise ValueError(f"has no namespace (write oci://{HUB}/library/{repository})")
    return Reference(REGISTRY, host, repository, tag, digest)


def _is_host(text: str) -> bool:
    """As container tools decide it: what is no host is the first part of a repository of Docker Hub."""
    return any(mark in text for mark in ".:[") or text.lower() == "localhost"


def _suggested(rest: str) -> str:
    """The short name of Docker Hub written out, where it is one."""
    name = rest.partition("@")[0].partition(":")[0].strip("/")
    if not name or not all(map(_COMPONENT.fullmatch, name.split("/"))):
        name = "NAME"
    return f"oci://{HUB}/{name}" if "/" in name else f"oci://{HUB}/library/{name}"


def _check_host(host: str) -> None:
    if not (match := _HOST.fullmatch(host)) or (match[1] and not 0 < int(match[1]) < 1 << 16):
        raise ValueError("has no valid host (a name or an address, and a port from 1 to 65535 where it needs one)")


def _check_repository(repository: str) -> None:
    if not repository:
        raise ValueError("names a host but no repository (oci://host/repository:tag)")
    if repository != repository.lower():
        raise ValueError("has capitals in its repository (repositories are written in lower case)")
    if len(repository) > _LONGEST_REPOSITORY:
        raise ValueError(f"has a repository of more than {_LONGEST_REPOSITORY} characters")
    if not all(map(_COMPONENT.fullmatch, repository.split("/"))):
        raise ValueError("has no valid repository (a-z and 0-9, in between '.', '_' and '-'; parts separated by '/')")


def _split_digest(text: str) -> tuple[str, str]:
    """What is before the ``@``, and the digest behind it."""
    before, at, digest = text.rpartition("@")
    if not at:
        return text, ""
    if not digest.startswith("sha256:"):
        raise ValueError("has a digest that is not sha256 (write @sha256: and 64 hex digits)")
    if not _DIGEST.fullmatch(digest):
        raise ValueError("has no valid digest (write @sha256: and 64 hex digits in lower case)")
    return before, digest


def _stored(transport: str, rest: str) -> Reference:
    if re.search(r"[\x00-\x1f\x7f]", rest):
        raise ValueError("contains control characters")
    scheme = _S3 if rest.startswith(_S3) else ""
    if not scheme and (other := re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", rest)):
        raise ValueError(f"has a path that begins with {other[0][:20]} (write {transport}:PATH, or {transport}:s3://bucket/key)")
    if scheme and transport == LAYOUT:
        raise ValueError("names a layout in S3: a layout is a directory (pack it as an oci-archive)")
    named, digest = _split_digest(rest) if _AT_DIGEST.search(rest) else (rest, "")
    path, colon, name = named.removeprefix(scheme).partition(":")
    if colon and not _NAME.fullmatch(name):
        raise ValueError(f"has no valid name behind its path ({transport}:PATH[:NAME]; a path can't contain ':')")
    _check_path(path, transport, s3=bool(scheme))
    return Reference(transport, path=f"{scheme}{path}", tag=name, digest=digest)


def _check_path(path: str, transport: str, *, s3: bool) -> None:
    if not path.strip():
        raise ValueError(f"has no path (write {transport}:PATH)")
    if s3 and (not path.partition("/")[2] or path.endswith("/")):
        raise ValueError(f"names no object (write {transport}:s3://bucket/key)")
    if path.startswith("~"):
        raise ValueError("begins with '~', which is not expanded (write the path in full)")
    if transport != LAYOUT and path.endswith("/"):
        raise ValueError("names a directory (an archive is one file; oci-layout: reads a directory)")

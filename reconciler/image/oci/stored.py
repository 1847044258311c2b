"""What a layout or an archive holds: an image's manifest, configuration and layers, as a registry's reference resolves.

``layout`` and ``archive`` find files in a directory and in a tar; what the files mean is decided here. Layers are not read: their
digests, sizes and places are known from the manifest. Called by ``resolve``. State: what archives in S3 stood for last, by ETag.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from reconciler.dataclass import dataclass
from reconciler.errors import DigestMismatch, ImageRefused
from reconciler.image.oci import config, manifest, strict_json
from reconciler.image.oci.archive import Archive, Unpacked, compression, nothing_unpacked
from reconciler.image.oci.layout import Layout
from reconciler.image.oci.manifest import Descriptor, ImageManifest, Index, digest_of
from reconciler.image.oci.platform import Platform
from reconciler.image.oci.platform import choose as choose_platform
from reconciler.image.oci.reference import DOCKER_ARCHIVE, HUB, LAYOUT, Reference
from reconciler.image.oci.strict_json import Object
from reconciler.image.spec import ImageReference, Layer, Packed, Resolved, Source

MARK, INDEX, DOCKER = "oci-layout", "index.json", "manifest.json"
MOST_KEPT = 64

Known = Callable[[ImageReference, str], Resolved | None]
"""What a reference with this digest, or of a compressed archive with this key, stands for, where that was found out before."""

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_AGAIN = "save the image again"

_kept: dict[tuple[ImageReference, str], Resolved] = {}


class Held(Protocol):
    """The files of a layout or archive. ``name`` is for errors; ``etag`` changes with the content, or is empty: read it again."""

    name: str
    etag: str

    @property
    def key(self) -> str:
        """What identifies an archive as it is now; empty of a layout."""
        ...

    @property
    def packed(self) -> Packed | None:
        """How it is compressed as a whole, where that has to be undone before it can be read."""
        ...

    def read(self, path: str, most: int) -> bytes | None:
        """A file's bytes, None where there is none. Raises ImageRefused where it has more than ``most``."""
        ...

    def place(self, path: str) -> tuple[str, int]:
        """The URL of a file's bytes and their number. Raises ImageRefused where there is none."""
        ...

    def begins(self, path: str, most: int) -> bytes:
        """The first bytes of a file."""
        ...


def look_up(
    wanted: ImageReference,
    known: Known = lambda _, __: None,
    unless: Callable[[], bool] | None = None,
    unpacked: Unpacked = nothing_unpacked,
) -> Resolved | Packed:
    """See ``resolve.look_up``. The digest is that of the manifest or index; older docker archives have the configuration's."""
    reference = Reference.parse(wanted.source.url)
    with _opened(reference, wanted.source, unless, unpacked) as held:
        key = wanted, held.etag
        found = _kept.get(key) if held.etag else None
        if found is None:
            found = known(wanted, held.key) if held.key else None
        if found is None:
            if packed := held.packed:
                return packed
            found = _Image(reference, wanted, held).resolved()
        if held.etag:
            _kept[key] = found
            while len(_kept) > MOST_KEPT:
                del _kept[next(iter(_kept))]
    if reference.digest and reference.digest != found.digest:
        message = f"{held.name} holds {found.digest}, not the declared {reference.digest}"
        raise DigestMismatch(message, hint="correct the digest, or put the right file back")
    return found


def platforms(wanted: ImageReference, unless: Callable[[], bool] | None = None) -> tuple[Platform, ...]:
    """The platforms that an image is offered for. Raises what ``resolve`` raises."""
    reference = Reference.parse(wanted.source.url)
    with _opened(reference, wanted.source, unless, nothing_unpacked) as held:
        return _Image(reference, wanted, held).platforms()


@contextmanager
def _opened(reference: Reference, source: Source, unless: Callable[[], bool] | None, unpacked: Unpacked) -> Iterator[Held]:
    if reference.transport == LAYOUT:
        yield Layout(reference.path)
        return
    with Archive(Source(reference.path, source.s3), unless, unpacked) as archive:
        yield archive


@dataclass(frozen=True, slots=True)
class _Image:
    """One image of what is held."""

    reference: Reference
    wanted: ImageReference
    held: Held

    def resolved(self) -> Resolved:
        if self.held.read(MARK, 1 << 16) is not None:
            return self._of_layout()
        if self.reference.transport != DOCKER_ARCHIVE:
            hint = f"docker save wrote it: docker-archive:{self.reference.path}" if self.held.read(DOCKER, 4 << 20) else _AGAIN
            raise ImageRefused(f"{self.held.name} is not an OCI layout: it has no file {MARK}", hint=hint)
        return self._of_docker()

    @property
    def platform(self) -> Platform:
        return Platform.parse(self.wanted.platform)

    def platforms(self) -> tuple[Platform, ...]:
        if self.held.read(MARK, 1 << 16) is None:
            return ()
        found = manifest.parse(self._required(INDEX), manifest.OCI_INDEX)
        entries = self._named(found) if isinstance(found, Index) else ()
        below = (self._manifest(one) for one in entries if one.media_type in manifest.INDEXES)
        offered = [one.platform for one in entries if one.platform] + [
            one for index in below for one in manifest.platforms(index)
        ]
        return tuple(dict.fromkeys(offered))

    # -- OCI layout

    def _of_layout(self) -> Resolved:
        found = manifest.parse(self._required(INDEX), manifest.OCI_INDEX)
        if not isinstance(found, Index):
            raise ImageRefused(f"{INDEX} of {self.held.name} is not an index", hint=_AGAIN)
        chosen = self._chosen(found)
        image, depth = self._manifest(chosen), 0
        while isinstance(image, Index):
            depth += 1
            manifest.check_nesting(depth)
            image = self._manifest(image.choose(self.platform))
        text = self._blob(image.config, "the configuration")
        layers = [(one.sha256, one.size, self._layer(one), one.compression) for one in image.layers]
        return self._made(chosen.digest, image, text, layers)

    def _chosen(self, index: Index) -> Descriptor:
        """The entry that the reference names; without a name the only image, or the one for the platform."""
        entries = self._named(index)
        if by_digest := [one for one in entries if one.digest == self.reference.digest]:
            entries = by_digest
        names = sorted({name for one in index.entries for name in one.names[-1:]})
        if not entries:
            raise _no_such(self.held.name, self.reference.tag, names)
        if len({one.digest for one in entries}) == 1:
            return entries[0]
        if any(one.platform is None for one in entries) or len({one.names for one in entries}) > 1:
            raise _several(self.held.name, self.reference, names)
        return entries[choose_platform([one.platform for one in entries], self.platform)]

    def _named(self, index: Index) -> Sequence[Descriptor]:
        entries = [one for one in index.entries if one.platform is None or not one.platform.unknown]
        wanted = _spellings(self.reference.tag)
        return [one for one in entries if wanted & set(one.names)] if self.reference.tag else entries

    def _manifest(self, of: Descriptor) -> ImageManifest | Index:
        return manifest.parse(self._blob(of, "the manifest"), of.media_type)

    def _blob(self, of: Descriptor, what: str) -> bytes:
        data = self._required(_path(of), of.size)
        if len(data) != of.size or digest_of(data) != of.digest:
            message = f"{what} {of.digest} in {self.held.name} has {len(data)} bytes with the digest {digest_of(data)}"
            raise DigestMismatch(message, hint=_AGAIN)
        return data

    def _layer(self, of: Descriptor) -> str:
        url, size = self.held.place(_path(of))
        if size != of.size:
            message = f"layer {of.digest} in {self.held.name} has {size} bytes; its manifest has {of.size}"
            raise ImageRefused(message, hint=_AGAIN)
        return url

    def _required(self, path: str, most: int = manifest.MOST_BYTES) -> bytes:
        data = self.held.read(path, most)
        if data is None:
            raise ImageRefused(f"{self.held.name} has no file {path}", hint=_AGAIN)
        return data

    # -- docker save before version 25, and what podman writes

    def _of_docker(self) -> Resolved:
        try:
            entry = self._docker_entry(strict_json.parse(b'{"images": %s}' % self._required(DOCKER)))
            path, layers = strict_json.text(entry, "Config"), strict_json.texts(entry, "Layers")
        except ValueError as error:
            raise ImageRefused(f"{DOCKER} of {self.held.name} is refused: {error}", hint=_AGAIN) from error
        text = self._required(path)
        if not 0 < len(layers) <= manifest.MOST_LAYERS:
            raise ImageRefused(f"{self.held.name} has {len(layers)} layers, not 1 to {manifest.MOST_LAYERS}", hint=_AGAIN)
        diff_ids = config.parse(text, len(layers)).diff_ids
        blobs = []
        for name, diff_id in zip(layers, diff_ids, strict=True):
            url, size = self.held.place(name)
            blobs.append((self._stored_digest(name, diff_id), size, url, ""))
        digest = digest_of(text)
        described = Descriptor("", digest, len(text))
        return self._made(digest, ImageManifest(digest, "", described, ()), text, blobs)

    def _docker_entry(self, document: Object) -> Object:
        entries = strict_json.objects(document, "images")
        if self.reference.tag:
            wanted = _spellings(self.reference.tag)
            found = [
                one
                for one in entries
                if wanted & {full for tag in strict_json.texts(one, "RepoTags") for full in _spellings(tag)}
            ]
        else:
            found = list(entries)
        names = sorted(tag for one in entries for tag in strict_json.texts(one, "RepoTags"))
        if not found:
            raise _no_such(self.held.name, self.reference.tag, names)
        if len(found) > 1:
            raise _several(self.held.name, self.reference, names)
        return found[0]

    def _stored_digest(self, name: str, diff_id: str) -> str:
        """The digest of a layer as stored: its name has it, or it is the sum of the plain tar."""
        if match := _BLOB.fullmatch(name):
            return match[1]
        if compression(self.held.begins(name, 8)):
            message = f"layer {name} of {self.held.name} is compressed, and nothing in the archive names its digest"
            raise ImageRefused(message, hint="convert it: skopeo copy docker-archive:FILE oci-archive:FILE")
        return diff_id

    # -- both

    def _made(self, digest: str, image: ImageManifest, text: bytes, blobs: Sequence[tuple[str, int, str, str]]) -> Resolved:
        found = config.parse(text, len(blobs))
        config.require_platform(found, self.platform, self.wanted.source.url)
        s3 = self.wanted.source.s3
        layers = tuple(
            Layer(Source(url, s3), sha256, size=size, diff_id=diff_id, compression=form)
            for (sha256, size, url, form), diff_id in zip(blobs, found.diff_ids, strict=True)
        )
        return Resolved(digest, image.digest, found.text, layers)


def _path(of: Descriptor) -> str:
    return f"blobs/sha256/{of.sha256}"


def _spellings(name: str) -> set[str]:
    """A name as layouts and docker write it: with and without Docker Hub's host and namespace, and the tag that is implied."""
    short = name.removeprefix(f"{HUB}/").removeprefix("library/")
    tagged = {short, f"{short}:latest"} if ":" not in short else {short, short.removesuffix(":latest")}
    return {name} | {f"{prefix}{one}" for one in tagged for prefix in ("", f"{HUB}/", f"{HUB}/library/")}


def _no_such(held: str, name: str, names: Sequence[str]) -> ImageRefused:
    there = f"it holds {', '.join(names[:20])}" if names else "its images have no names: leave the name out"
    return ImageRefused(f"{held} has no image {name}" if name else f"{held} holds no image", hint=there)


def _several(held: str, reference: Reference, names: Sequence[str]) -> ImageRefused:
    there = f"name one of them: {reference.transport}:{reference.path}:NAME, of {', '.join(names[:20])}"
    return ImageRefused(f"{held} holds several images", hint=there if names else "name one by its digest: @sha256:…")

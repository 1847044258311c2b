"""An image's configuration: what it runs, for which platform, and the sums of its decompressed layers.

Its text is kept as it is: what this version does not read is there for users and later versions. Called by the resolvers. No
state.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.dataclass import dataclass, field
from reconciler.errors import ImageRefused
from reconciler.image.oci import strict_json
from reconciler.image.oci.manifest import check_digest
from reconciler.image.oci.platform import Platform
from reconciler.image.oci.strict_json import Object

_HINT = "build and push the image again"


@dataclass(frozen=True, slots=True)
class Runtime:
    """How the image is run. ``env`` has ``NAME=value`` in the image's order."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """``text`` is all of it; ``diff_ids`` are hex digits, one for each layer; ``platform`` is None where it has none."""

    text: str
    diff_ids: tuple[str, ...]
    platform: Platform | None
    runtime: Runtime


def parse(data: bytes, layers: int) -> ImageConfig:
    """Read the configuration of an image with so many layers. Raises ImageRefused."""
    try:
        document = strict_json.parse(data)
        return ImageConfig(data.decode(), _diff_ids(document, layers), _platform(document), _runtime(document))
    except ValueError as error:
        raise ImageRefused(f"the image's configuration is refused: {error}", hint=_HINT) from error


def require_platform(found: ImageConfig, platform: Platform, name: str) -> None:
    """Raises ImageRefused where the image ``name`` does not run on a platform."""
    if found.platform is not None and not platform.runs(found.platform):
        hint = f"set platform: {found.platform}, or name an image for {platform}"
        raise ImageRefused(f"{name} is for {found.platform}, not for {platform}", hint=hint)


def _diff_ids(document: Object, layers: int) -> tuple[str, ...]:
    rootfs = strict_json.member(document, "rootfs")
    if not rootfs:
        raise ValueError("it has no rootfs")
    if strict_json.text(rootfs, "type") != "layers":
        raise ValueError("its rootfs is not made of layers")
    found = strict_json.texts(rootfs, "diff_ids")
    if len(found) != layers:
        raise ValueError(f"it lists {len(found)} layers (rootfs.diff_ids), and the manifest {layers}")
    for number, one in enumerate(found, 1):
        check_digest(one, f"the decompressed layer {number}")
    return tuple(one.removeprefix("sha256:") for one in found)


def _platform(document: Object) -> Platform | None:
    os, architecture = strict_json.text(document, "os", ""), strict_json.text(document, "architecture", "")
    if not os or not architecture:
        return None
    return Platform.of(os, architecture, strict_json.text(document, "variant", ""))


def _runtime(document: Object) -> Runtime:
    of = strict_json.member(document, "config")
    labels = strict_json.member(of, "Labels")
    if not all(isinstance(value, str) for value in labels.values()):
        raise ValueError("Labels has a value that is not a text")
    return Runtime(
        strict_json.texts(of, "Env"),
        strict_json.texts(of, "Entrypoint"),
        strict_json.texts(of, "Cmd"),
        strict_json.text(of, "User", ""),
        strict_json.text(of, "WorkingDir", ""),
        tuple(sorted(strict_json.member(of, "ExposedPorts"))),
        tuple(sorted(strict_json.member(of, "Volumes"))),
        dict(labels),
        strict_json.text(of, "StopSignal", ""),
    )

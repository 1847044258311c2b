"""Platforms: ``os/architecture[/variant]``, and which entry of an index a host is given.

Called by ``manifest`` and ``config``, by ``manifests`` for the field ``platform``, and by the resolvers. No state.
"""

from __future__ import annotations

import platform as machine
import re
from collections.abc import Iterable, Sequence
from functools import cache

from reconciler.dataclass import dataclass
from reconciler.errors import ImageRefused

_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
}
"""Other names of architectures, with the variant that each means."""

_DEFAULT_VARIANT = {"amd64": 1, "arm64": 8, "arm": 7}
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_VARIANT = re.compile(r"v?(\d{1,2})(?:\.\d)?")


@dataclass(frozen=True, slots=True)
class Platform:
    """``str`` gives the text that ``parse`` reads. Architectures have the names that Go gives them."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Raises ValueError, with a hint in parentheses."""
        parts = text.lower().split("/")
        if len(parts) not in (2, 3) or not all(map(_WORD.fullmatch, parts)):
            raise ValueError("is not a platform (write os/architecture or os/architecture/variant, as linux/arm64)")
        return cls.of(*parts)

    @classmethod
    def of(cls, os: str, architecture: str, variant: str = "") -> Platform:
        """A platform with its architecture's usual name."""
        name, implied = _ALIASES.get(architecture.lower(), (architecture.lower(), ""))
        return cls(os.lower(), name, variant.lower() or implied)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    @property
    def unknown(self) -> bool:
        """Whether an entry of an index is no image: attestations have ``unknown/unknown``."""
        return "unknown" in (self.os, self.architecture)

    @property
    def level(self) -> int | None:
        """The variant as a number, the architecture's default where it has none; None where it is no number."""
        if not self.variant:
            return _DEFAULT_VARIANT.get(self.architecture, 0)
        match = _VARIANT.fullmatch(self.variant)
        return int(match[1]) if match else None

    def runs(self, other: Platform) -> bool:
        """Whether an image for ``other`` runs on this platform: the same variant, or an older one."""
        if (self.os, self.architecture) != (other.os, other.architecture):
            return False
        if self.variant == other.variant:
            return True
        own, its = self.level, other.level
        return own is not None and its is not None and its <= own


@cache
def host() -> Platform:
    """The platform of this host."""
    return Platform.of("linux", machine.machine())


def choose(offered: Sequence[Platform | None], wanted: Platform) -> int:
    """The position of what suits best: the newest variant that runs, the first of equals.

    A single entry without a platform is taken: its configuration has one. Raises ImageRefused, which lists what there is.
    """
    images = [(at, one) for at, one in enumerate(offered) if one is None or not one.unknown]
    if len(images) == 1 and images[0][1] is None:
        return images[0][0]
    running = [(one.level or 0, -at) for at, one in images if one is not None and wanted.runs(one)]
    if running:
        return -max(running)[1]
    raise ImageRefused(f"there is no image for {wanted}", hint=_there_are(one for _, one in images))


def _there_are(found: Iterable[Platform | None]) -> str:
    names = sorted({str(one) for one in found if one is not None})
    return f"set platform to one of those that are there: {', '.join(names[:20])}" if names else "its index names no platform"

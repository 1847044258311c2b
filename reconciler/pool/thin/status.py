"""Tables, status lines and messages of device-mapper's thin targets. Each value parses and prints.

Called by ``pool.thin``. Pure. Formats: Documentation/admin-guide/device-mapper/thin-provisioning.rst, and what
``pool_status`` and ``thin_status`` in drivers/md/dm-thin.c print. Kernels have added words at the ends of the status lines: what
comes after the known ones is ignored.
"""

from __future__ import annotations

from enum import StrEnum

from reconciler.dataclass import dataclass

FAILED = ("Fail", "Error")
"""The status of a target whose metadata can't be read: after a failed commit that could not be undone, or now."""


class Mode(StrEnum):
    """Read-only covers a pool whose metadata ran full as well: the kernel reports both alike."""

    RW = "rw"
    RO = "ro"
    OUT_OF_DATA_SPACE = "out_of_data_space"
    FAIL = "Fail"


WORKING = {str(mode): mode for mode in Mode if mode is not Mode.FAIL}


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Metadata is counted in blocks of 4 KiB, data in the pool's blocks. Nothing but ``mode`` means anything in a failed pool.

    ``held_root`` is the block of a metadata snapshot that is reserved now. Below ``metadata_low_water`` free blocks the kernel
    raises an event (None: an older kernel, which does not report it).
    """

    transaction: int = 0
    used_metadata: int = 0
    total_metadata: int = 0
    used_data: int = 0
    total_data: int = 0
    held_root: int | None = None
    mode: Mode = Mode.FAIL
    discard: str = ""
    error_if_no_space: bool = False
    needs_check: bool = False
    metadata_low_water: int | None = None

    @property
    def writable(self) -> bool:
        """Whether the kernel changes the pool's metadata: a full one's, too, and not where that was given up."""
        return self.mode in (Mode.RW, Mode.OUT_OF_DATA_SPACE) and not self.needs_check

    @classmethod
    def parse(cls, params: str) -> PoolStatus:
        """Raises ValueError with the text that is no status of a pool."""
        words = params.split()
        if words and words[0] in FAILED:
            return cls()
        try:
            transaction, meta, data, held, mode, discard, full, check, *more = words
            return cls(
                int(transaction), *_fraction(meta), *_fraction(data), _optional(held), WORKING[mode], discard,
                {"error_if_no_space": True, "queue_if_no_space": False}[full], {"needs_check": True, "-": False}[check],
                int(more[0]) if more else None,
            )  # fmt: skip
        except (ValueError, KeyError):
            raise ValueError(f"not the status of a thin pool: {params!r}") from None

    def __str__(self) -> str:
        if self.mode is Mode.FAIL:
            return str(Mode.FAIL)
        meta, data = f"{self.used_metadata}/{self.total_metadata}", f"{self.used_data}/{self.total_data}"
        full = "error_if_no_space" if self.error_if_no_space else "queue_if_no_space"
        check = "needs_check" if self.needs_check else "-"
        low_water = "" if self.metadata_low_water is None else f" {self.metadata_low_water}"
        held = _dash(self.held_root)
        return f"{self.transaction} {meta} {data} {held} {self.mode} {self.discard} {full} {check}{low_water}"


@dataclass(frozen=True, slots=True)
class ThinStatus:
    """In 512-byte sectors. ``highest`` is the last mapped one, None where nothing is. If it ``failed``, both are unknown."""

    mapped: int = 0
    highest: int | None = None
    failed: bool = False

    @classmethod
    def parse(cls, params: str) -> ThinStatus:
        """Raises ValueError with the text that is no status of a thin device."""
        words = params.split()
        if words and words[0] in FAILED:
            return cls(failed=True)
        try:
            mapped, highest, *_ = words
            return cls(int(mapped), _optional(highest))
        except ValueError:
            raise ValueError(f"not the status of a thin device: {params!r}") from None

    def __str__(self) -> str:
        return FAILED[0] if self.failed else f"{self.mapped} {_dash(self.highest)}"


@dataclass(frozen=True, slots=True)
class PoolTable:
    """``metadata`` and ``data`` are ``major:minor`` (or paths, in what is loaded). ``block_size`` in sectors of 512 bytes.

    The kernel raises an event when fewer than ``low_water`` blocks are free. ``features`` is what differs from the default.
    """

    metadata: str
    data: str
    block_size: int
    low_water: int
    features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, params: str) -> PoolTable:
        """Raises ValueError with the text that is no table of a pool."""
        try:
            metadata, data, block_size, low_water, *rest = params.split()
            count, features = (int(rest[0]), tuple(rest[1:])) if rest else (0, ())
            if count != len(features):
                raise ValueError
            return cls(metadata, data, int(block_size), int(low_water), features)
        except ValueError:
            raise ValueError(f"not the table of a thin pool: {params!r}") from None

    def __str__(self) -> str:
        numbers = (self.block_size, self.low_water, len(self.features))
        return " ".join((self.metadata, self.data, *map(str, numbers), *self.features))


@dataclass(frozen=True, slots=True)
class ThinTable:
    """``pool`` is ``major:minor`` (or a path, in what is loaded); ``origin`` a read-only device outside of the pool, if any."""

    pool: str
    id: int
    origin: str | None = None

    @classmethod
    def parse(cls, params: str) -> ThinTable:
        """Raises ValueError with the text that is no table of a thin device."""
        try:
            pool, thin_id, *rest = params.split()
            (origin,) = rest or (None,)
            return cls(pool, int(thin_id), origin)
        except ValueError:
            raise ValueError(f"not the table of a thin device: {params!r}") from None

    def __str__(self) -> str:
        return f"{self.pool} {self.id}" + (f" {self.origin}" if self.origin else "")


# ---------------------------------------------------------------------------------------------------------- messages


def create_thin(thin_id: int) -> str:
    """An empty thin device. EEXIST where the pool holds the id already, EINVAL where it is wider than 24 bits."""
    return f"create_thin {thin_id}"


def create_snap(thin_id: int, origin: int) -> str:
    """A copy of ``origin``, which must be inactive or suspended. ENODATA where there is no origin, EEXIST as above."""
    return f"create_snap {thin_id} {origin}"


def delete(thin_id: int) -> str:
    """ENODATA where it is not there, EBUSY where it is active."""
    return f"delete {thin_id}"


def set_transaction_id(old: int, new: int) -> str:
    """Compare and set; EINVAL where the pool's transaction id is not ``old``."""
    return f"set_transaction_id {old} {new}"


def release_metadata_snap() -> str:
    """EINVAL where none is reserved."""
    return "release_metadata_snap"


def _fraction(text: str) -> tuple[int, int]:
    used, total = text.split("/")
    return int(used), int(total)


def _optional(text: str) -> int | None:
    return None if text == "-" else int(text)


def _dash(value: int | None) -> str:
    return "-" if value is None else str(value)

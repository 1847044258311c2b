"""The digests of one layer's bytes, taken in one go: sha256, and MD5 where the ETag may be one.

Used by ``reading``, ``download`` and ``arrival``. State: in memory.
"""

from __future__ import annotations

from hashlib import md5, sha256


class Sums:
    """``with_md5`` costs as much again as sha256 alone."""

    def __init__(self, *, with_md5: bool) -> None:
        self._sha256 = sha256()
        self._md5 = md5(usedforsecurity=False) if with_md5 else None

    def update(self, data: memoryview, /) -> None:
        self._sha256.update(data)
        if self._md5 is not None:
            self._md5.update(data)

    def copy(self) -> Sums:
        other = Sums(with_md5=False)
        other._sha256 = self._sha256.copy()
        other._md5 = self._md5.copy() if self._md5 is not None else None
        return other

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        """Empty where it was not asked for."""
        return self._md5.hexdigest() if self._md5 is not None else ""

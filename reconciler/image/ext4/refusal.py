"""What ext4 cannot hold. Raised where the limit applies, turned into a ``LayerRefused`` that names the member by ``inodes``."""

from __future__ import annotations


class NotRepresentable(Exception):
    """``rule`` is the short name of the limit, ``message`` what goes beyond it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message

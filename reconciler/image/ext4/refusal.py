"""What ext4 cannot hold. Raised where the limit applies, turned into a ``LayerRefused`` that names the member by ``refused``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import LayerRefused

if TYPE_CHECKING:
    from reconciler.image.ext4.numbering import Numbering
    from reconciler.image.tree.inode import Inode


class NotRepresentable(Exception):
    """``rule`` is the short name of the limit, ``message`` what goes beyond it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message


def refused(refusal: NotRepresentable, names: Numbering, inode: Inode) -> LayerRefused:
    """The error that names one of the inode's names."""
    path = _path(names, inode)
    message = f"{path.decode(errors='backslashreplace')}: {refusal.message}"
    return LayerRefused(message, rule=refusal.rule, member=path)


def _path(names: Numbering, wanted: Inode) -> bytes:
    """One name of an inode, from the root; b"." for the root itself."""
    parts = []
    for parent in reversed(list(names.parents)):
        for name, child in (parent.children or {}).items():
            if child is wanted:
                parts.append(name)
                wanted = parent
                break
    return b"/".join(reversed(parts)) or b"."

"""ext4 in user space. ``Writer`` is all that the rest of the package needs; the format's parts have a module each."""

from reconciler.image.ext4.writer import Summary, Writer

__all__ = ["Summary", "Writer"]

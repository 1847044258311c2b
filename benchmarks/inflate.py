"""Decompresses a file and drops the bytes, with the libraries that the builder uses: ``python -m benchmarks.inflate FILE``."""

from __future__ import annotations

import sys
from pathlib import Path

MIB = 1 << 20


def main(path: Path) -> None:
    buffer = bytearray(MIB)
    with path.open("rb") as source:
        if path.suffix == ".gz":
            from isal import igzip

            stream = igzip.IGzipFile(fileobj=source)
        else:
            import zstandard

            stream = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
        while stream.readinto(buffer):
            pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))

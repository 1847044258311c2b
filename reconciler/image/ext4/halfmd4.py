"""The hash of names in indexed directories: half MD4, of many names at once.

Called by ``hashtree``. The algorithm is that of ``fs/ext4/hash.c``, with bytes taken as unsigned. Python computes with long
integers at the speed of C: one word of a thousand names is one integer, in lanes of 64 bits. No state.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

BATCH = 1024
"""Names at once: their lanes stay within the processor's caches."""
WORD_COUNT = 8
PART = 4 * WORD_COUNT
WORDS = struct.Struct(">8I")
MASK = 0xFFFF_FFFF
DEFAULT_SEED = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
END = 0xFFFF_FFFE
"""The highest hash means the end of a directory."""

# the word that each operation of a round takes, and by how much it rotates
FIRST_ROUND = tuple(zip((0, 1, 2, 3, 4, 5, 6, 7), (3, 7, 11, 19) * 2, strict=True))
SECOND_ROUND = tuple(zip((1, 3, 5, 7, 0, 2, 4, 6), (3, 5, 9, 13) * 2, strict=True))
THIRD_ROUND = tuple(zip((3, 7, 2, 6, 1, 5, 0, 4), (3, 9, 11, 15) * 2, strict=True))
SECOND_CONSTANT, THIRD_CONSTANT = 0x5A827999, 0x6ED9EBA1

State = tuple[int, int, int, int]


def half_md4(names: Sequence[bytes], seed: Sequence[int]) -> list[int]:
    """The major hash of each name, its lowest bit zero."""
    found: list[int] = []
    for at in range(0, len(names), BATCH):
        found += _batch(names[at : at + BATCH], seed if any(seed) else DEFAULT_SEED)
    return found


def _batch(names: Sequence[bytes], seed: Sequence[int]) -> list[int]:
    """Names of as many parts as each other go through the rounds together."""
    found = [0] * len(names)
    by_parts: dict[int, list[int]] = {}
    for at, name in enumerate(names):
        by_parts.setdefault(-(-len(name) // PART), []).append(at)
    for parts, members in by_parts.items():
        for at, hashed in zip(members, _equal([names[at] for at in members], parts, seed), strict=True):
            found[at] = hashed if hashed != END else END - 2
    return found


def _equal(names: Sequence[bytes], parts: int, seed: Sequence[int]) -> list[int]:
    form = struct.Struct(f"<{len(names)}Q")
    ones = int.from_bytes(form.pack(*[1] * len(names)), "little")
    a, b, c, d = (ones * word for word in seed)
    state = a, b, c, d
    for part in range(parts):
        words = zip(*(_words(name[PART * part : PART * part + PART], len(name) - PART * part) for name in names), strict=True)
        state = _transform(state, [int.from_bytes(form.pack(*column), "little") for column in words], ones)
    return [lane & MASK & ~1 for lane in form.unpack(state[1].to_bytes(form.size, "little"))]


def _words(part: bytes, left: int) -> tuple[int, ...]:
    """Eight big-endian words of the name; unused bytes, which come first in the last word, hold its length."""
    whole, filler = len(part) & ~3, bytes((left,))
    filled = part[:whole] + filler * (4 - len(part) + whole) + part[whole:]
    return WORDS.unpack(filled.ljust(PART, filler)[:PART])


def _transform(state: State, words: list[int], ones: int) -> State:
    """Three rounds of the state; what a lane's rotation leaves in its upper half is cut off with the sum's carry."""
    a, b, c, d = state
    low = ones * MASK
    for index, shift in FIRST_ROUND:
        total = a + (d ^ b & (c ^ d)) + words[index] & low
        a, b, c, d = d, (total << shift | total >> 32 - shift) & low, b, c
    second = ones * SECOND_CONSTANT
    for index, shift in SECOND_ROUND:
        total = a + (b & c) + ((b ^ c) & d) + words[index] + second & low
        a, b, c, d = d, (total << shift | total >> 32 - shift) & low, b, c
    third = ones * THIRD_CONSTANT
    for index, shift in THIRD_ROUND:
        total = a + (b ^ c ^ d) + words[index] + third & low
        a, b, c, d = d, (total << shift | total >> 32 - shift) & low, b, c
    a, b, c, d = (old + new & low for old, new in zip(state, (a, b, c, d), strict=True))
    return a, b, c, d

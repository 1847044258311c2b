"""Hypothesis strategies for cases: chains that are legal, archives put together from any parts, and changes to either.

What is legal comes from ``tests.support.trees``, in every dialect, sparse format and compression; there the verdict is known. The
parts are members, headers and records that may contradict each other in any way; what they amount to is for the oracle to judge.
"""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz import mutate, seeds, tarball
from tests.fuzz.tarball import Archive, Item
from tests.support import layers
from tests.support.trees import DIALECTS, chains

SEEDS = seeds.everything()


@st.composite
def legal(draw: st.DrawFn) -> bytes:
    """A chain of layers that means one thing."""
    dialect = draw(st.sampled_from(sorted(DIALECTS)))
    form, compression = draw(st.sampled_from(layers.SPARSE_FORMATS)), draw(st.sampled_from(layers.COMPRESSIONS))
    chain = draw(chains(DIALECTS[dialect], most_entries=10))
    return tarball.case([layers.compress(layers.pack(layer, dialect, sparse_format=form), compression) for layer in chain])


_small = st.binary(max_size=12)
_names = st.one_of(
    st.sampled_from(mutate.NAMES),
    st.lists(st.sampled_from([b"a", b"b", b"l", b"..", b".", b"", b".wh.a", b".wh..wh..opq"]), min_size=1, max_size=5).map(
        b"/".join
    ),
    _small,
)
_targets = st.one_of(st.sampled_from(mutate.TARGETS), _names)
_numbers = st.one_of(st.sampled_from(mutate.NUMBERS), st.integers(0, 2**33))
_contents = st.one_of(st.sampled_from([b"", b"x", b"x" * 512, b"y" * 5000]), _small)


def _field(value: int, width: int) -> bytes:
    fits = -(2 ** (8 * width - 9)) <= value < 2 ** (8 * width - 9)
    return tarball.numeric(value, width) if fits else b"7" * (width - 1) + b"\0"


@st.composite
def _members(draw: st.DrawFn) -> list[Item]:
    flag = bytes([draw(st.sampled_from(mutate.FLAGS))])
    fields = draw(st.dictionaries(st.sampled_from(["uid", "gid", "mtime", "devmajor", "devminor", "mode"]), _numbers, max_size=2))
    made = tarball.item(
        draw(_names),
        flag,
        draw(_contents) if flag in b"0\x007LKxg" or draw(st.booleans()) else b"",
        magic=draw(st.sampled_from(tarball.MAGICS)),
        link=draw(_targets) if flag in b"12" else b"",
        size=draw(st.one_of(st.none(), st.none(), st.none(), st.integers(0, 2048))),
        fields={name: _field(value, tarball.FIELDS[name][1]) for name, value in fields.items()},
    )
    return [made]


_values = st.one_of(st.sampled_from(mutate.VALUES), _names, _numbers.map(lambda number: b"%d" % number))
_records = st.lists(st.tuples(st.sampled_from(mutate.KEYS), _values), min_size=1, max_size=4)
_headers = st.one_of(
    st.builds(tarball.extended, _records, st.sampled_from([b"x", b"x", b"x", b"g"])),
    st.builds(tarball.long_name, _names, st.sampled_from([b"L", b"K"])),
).map(lambda header: [header])


@st.composite
def _sparse(draw: st.DrawFn) -> list[Item]:
    """A sparse file whose map mostly makes sense."""
    parts = draw(st.lists(st.tuples(st.sampled_from([0, 512, 1000, 4096]), st.sampled_from([0, 1, 512, 700])), max_size=6))
    segments, at = [], 0
    for gap, length in parts:
        segments.append((at + gap, length))
        at += gap + length
    size = at + draw(st.sampled_from([0, 0, 1, 5000, -1]))
    data = b"s" * (sum(length for _, length in segments) + draw(st.sampled_from([0, 0, 0, 1, 512])))
    return tarball.sparse(draw(_names)[:100], max(0, size), segments, data, draw(st.sampled_from(tarball.SPARSE_FORMATS)))


_tails = st.sampled_from([tarball.END] * 8 + [b"", bytes(512), tarball.END + b"x", bytes(512) + b"x" * 512])


@st.composite
def _archives(draw: st.DrawFn) -> bytes:
    """A plain tar of any parts, most of them members that could stand for themselves."""
    plain = st.builds(lambda name, data: [tarball.item(name, data=data)], _names, _contents)
    links = st.builds(lambda name, flag, to: [tarball.item(name, flag, link=to)], _names, st.sampled_from([b"1", b"2"]), _targets)
    folders = _names.map(lambda name: [tarball.item(name, b"5", mode=0o755)])
    parts = draw(st.lists(st.one_of(plain, links, folders, _members(), _headers, _sparse()), max_size=8))
    return Archive([item for part in parts for item in part], draw(_tails)).join()


def hostile() -> st.SearchStrategy[bytes]:
    """One or two layers of any parts, under any policies."""
    return st.builds(tarball.case, st.lists(_archives(), min_size=1, max_size=2), st.one_of(st.just(0), st.integers(0, 31)))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A seed, or something legal, changed once or a few times."""
    case = draw(st.one_of(st.sampled_from(sorted(SEEDS)).map(SEEDS.__getitem__), legal()))
    for seed in draw(st.lists(st.integers(0, 2**32), min_size=1, max_size=4)):
        case = mutate.mutate(case, seed)
    return case


def anything() -> st.SearchStrategy[bytes]:
    """Bytes, with and without the magic of a compression in front."""
    magics = st.sampled_from([b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"layers:\x40"])
    return st.builds(bytes.__add__, magics, st.binary(max_size=2000))


KINDS = {"legal": legal(), "hostile": hostile(), "mutated": mutated(), "anything": anything()}

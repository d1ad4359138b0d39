"""C2SP tlog-tiles: names and contents of a log's files."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.errors import Malformed, Misuse
from brakeline.core.tlog.merkle import leaf_hash, reader, root
from brakeline.core.tlog.tile import (
    ENTRIES,
    WIDTH,
    Tile,
    decode_bundle,
    decode_hashes,
    encode_bundle,
    parse_path,
    tile_hashes,
    tiles_for,
)
from vector import Vector, load

TILES = st.builds(Tile, st.integers(ENTRIES, 63), st.integers(0, 2**63 - 1), st.integers(1, WIDTH))


@load("tile", 27, "path-")
def test_path_vectors(v: Vector) -> None:
    with v.expected():
        tile = parse_path(v.input["path"])
        assert {"level": tile.level, "index": tile.index, "width": tile.width} == v.output
        assert tile.path == v.input["path"]


@load("tile", 9, "growth-")
def test_growth_vectors(v: Vector) -> None:
    assert [t.path for t in tiles_for(v.input["old"], v.input["new"])] == v.output["tiles"]


@load("tile", 7, "bundle-")
def test_bundle_vectors(v: Vector) -> None:
    with v.expected():
        entries = decode_bundle(v.bytes("data"), v.input["width"])
        assert [e.hex() for e in entries] == v.output["entries_hex"]
        assert encode_bundle(entries) == v.bytes("data")


@given(TILES)
def test_every_path_is_read_back(tile: Tile) -> None:
    assert parse_path(tile.path) == tile


@given(st.text() | st.from_regex(r"\Atile/(entries|\d{1,3})(/x\d{3}){0,7}/\d{3}(\.p/\d{1,3})?\Z"))
def test_every_path_is_malformed_or_read_back(path: str) -> None:
    try:
        tile = parse_path(path)
    except Malformed:
        return
    assert tile.path == path


@pytest.mark.parametrize(
    ("level", "index", "width"), [(-2, 0, 1), (64, 0, 1), (0, -1, 1), (0, 2**63, 1), (0, 0, 0), (0, 0, 257)]
)
def test_there_is_no_such_tile(level: int, index: int, width: int) -> None:
    with pytest.raises(Malformed):
        Tile(level, index, width)


def present(size: int) -> set[Tile]:
    """Every file a log of `size` entries has, by the specification's formula for the widths."""
    tiles: set[Tile] = set()
    for level in range(64):
        count = size // 256**level
        tiles |= {Tile(level, i) for i in range(count // 256)}
        if count % 256:
            tiles.add(Tile(level, count // 256, count % 256))
    return tiles | {Tile(ENTRIES, t.index, t.width) for t in tiles if t.level == 0}


@given(st.integers(0, 200_000), st.integers(0, 1500))
def test_growth_writes_what_is_not_there_yet(old: int, more: int) -> None:
    written = list(tiles_for(old, old + more))
    assert len(set(written)) == len(written)
    assert set(written) == present(old + more) - present(old)
    levels = [t.level for t in written]
    assert levels == sorted(levels)  # a hash is never on disk before what it hashes


@pytest.mark.parametrize(
    ("size", "full", "partial"),
    [
        (256, {0: 1}, {1: 1}),
        (300, {0: 1}, {0: 44, 1: 1}),
        (70_000, {0: 273, 1: 1}, {0: 112, 1: 17, 2: 1}),
    ],
)
def test_published_widths(size: int, full: dict[int, int], partial: dict[int, int]) -> None:
    tiles = [t for t in tiles_for(0, size) if t.level != ENTRIES]
    assert Counter(t.level for t in tiles if t.width == WIDTH) == full
    assert {t.level: t.width for t in tiles if t.width < WIDTH} == partial


def test_growth_of_huge_logs_is_not_a_walk_over_them() -> None:
    assert len(list(tiles_for(2**62, 2**62 + 1))) == 2
    assert Tile(7, 2**54 // 2**48, 1) not in tiles_for(2**62, 2**62 + 1)


def test_tiles_hold_the_hashes_of_their_level() -> None:
    leaves = [leaf_hash(b"%d" % i) for i in range(66_000)]
    read = reader(leaves)
    partial = Tile(0, 257, 66_000 % 256)
    assert decode_hashes(tile_hashes(partial, read), partial.width) == tuple(leaves[257 * 256 :])
    # A full tile hashes to one hash of the tile above it: nothing in a tile counts until that is checked.
    for index in (0, 1, 256):
        hashes = decode_hashes(tile_hashes(Tile(0, index), read), WIDTH)
        assert hashes == tuple(leaves[256 * index : 256 * index + 256])
        above = decode_hashes(tile_hashes(Tile(1, index // 256, 1 + index % 256), read), 1 + index % 256)
        assert root(hashes) == above[index % 256]
    top = decode_hashes(tile_hashes(Tile(2, 0, 1), read), 1)
    assert top[0] == root(leaves[:65_536])


def test_hash_tiles_have_one_length() -> None:
    for data, width in ((b"", 1), (bytes(31), 1), (bytes(33), 1), (bytes(64), 1), (bytes(32), 2)):
        with pytest.raises(Malformed):
            decode_hashes(data, width)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=WIDTH))
def test_every_bundle_is_read_back(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries), len(entries)) == tuple(entries)


@given(st.binary(max_size=40), st.integers(1, 5))
def test_every_bundle_is_malformed_or_read_back(data: bytes, width: int) -> None:
    try:
        entries = decode_bundle(data, width)
    except Malformed:
        return
    assert encode_bundle(entries) == data
    assert len(entries) == width


def test_a_bundle_holds_the_longest_entry() -> None:
    assert decode_bundle(encode_bundle([bytes(65_535)] * WIDTH), WIDTH) == (bytes(65_535),) * WIDTH


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: encode_bundle([]),
        lambda: encode_bundle([b""] * 257),
        lambda: encode_bundle([bytes(65_536)]),
        lambda: tile_hashes(Tile(ENTRIES, 0), lambda level, index: bytes(32)),
        lambda: list(tiles_for(2, 1)),
        lambda: list(tiles_for(-1, 1)),
    ],
)
def test_misuse(wrong) -> None:
    with pytest.raises(Misuse):
        wrong()

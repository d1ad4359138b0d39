"""C2SP tlog-tiles: which files a log consists of, what they are called and what stands in them.

A hash tile (level L, index N) holds the hashes of level 8 * L from 256 * N on, 256 of them when full. An
entry bundle holds the entries below the level-0 tile of the same index.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from brakeline.core.errors import Malformed, Misuse
from brakeline.core.tlog.merkle import HASH_BYTES, HashReader

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
ENTRIES: Final = -1  # the level of an entry bundle
MAX_ENTRY: Final = 65_535  # bytes: its length is a u16
MAX_INDEX: Final = 2**63 - 1

_PATH: Final = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([0-9]{1,3}))?")


@dataclass(frozen=True, slots=True)
class Tile:
    """One file of the log. `level` is 0..63, or `ENTRIES`; `width` counts its hashes or entries, 1..256."""

    level: int
    index: int
    width: int = WIDTH

    def __post_init__(self) -> None:
        if not (ENTRIES <= self.level <= 63 and 0 <= self.index <= MAX_INDEX and 1 <= self.width <= WIDTH):
            raise Malformed(f"no such tile: level {self.level}, index {self.index}, width {self.width}")

    @property
    def path(self) -> str:
        """`tile/0/x001/x234/067`, with `.p/<width>` when partial (C2SP tlog-tiles §Merkle Tree)."""
        level = "entries" if self.level == ENTRIES else str(self.level)
        digits = f"{self.index:,}".split(",")
        groups = [f"x{int(g):03d}" for g in digits[:-1]] + [f"{int(digits[-1]):03d}"]
        return f"tile/{level}/{'/'.join(groups)}" + (f".p/{self.width}" if self.width < WIDTH else "")


def parse_path(path: str) -> Tile:
    """The tile at a path.

    Raises:
        Malformed: not the path `Tile.path` writes.
    """
    match = _PATH.fullmatch(path)
    if not match:
        raise Malformed(f"not a tile path: {path[:80]!r}")
    level, groups, width = match.groups()
    tile = Tile(
        level=ENTRIES if level == "entries" else int(level),
        index=int(groups.replace("x", "").replace("/", "")),
        width=int(width) if width else WIDTH,
    )
    if tile.path != path:
        raise Malformed(f"not the canonical path of a tile: {path[:80]!r}")
    return tile


def tiles_for(old_size: int, new_size: int) -> Iterator[Tile]:
    """Every file to write when the tree grows: entry bundles first, then hash tiles from the lowest level up.

    Raises:
        Misuse: the tree shrinks.
    """
    if not 0 <= old_size <= new_size:
        raise Misuse(f"a log of {old_size} entries cannot become one of {new_size}")
    yield from _grown(ENTRIES, old_size, new_size)
    level = 0
    while new_size >> HEIGHT * level:
        yield from _grown(level, old_size >> HEIGHT * level, new_size >> HEIGHT * level)
        level += 1


def _grown(level: int, old: int, new: int) -> Iterator[Tile]:
    if old == new:
        return
    for index in range(old // WIDTH, new // WIDTH):
        yield Tile(level, index)
    if new % WIDTH:  # never an empty tile
        yield Tile(level, new // WIDTH, new % WIDTH)


def tile_hashes(tile: Tile, read: HashReader) -> bytes:
    """Content of a hash tile: `width` hashes of 32 bytes."""
    if tile.level == ENTRIES:
        raise Misuse("an entry bundle holds entries, not hashes")
    first = tile.index * WIDTH
    return b"".join(read(HEIGHT * tile.level, first + i) for i in range(tile.width))


def decode_hashes(data: bytes, width: int) -> tuple[bytes, ...]:
    """The hashes of a hash tile. They count for nothing until their root is their parent's hash.

    Raises:
        Malformed: not exactly `width` hashes.
    """
    if len(data) != width * HASH_BYTES:
        raise Malformed(f"a tile of {width} hashes has {width * HASH_BYTES} bytes, not {len(data)}")
    return tuple(data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES))


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Content of an entry bundle: u16be length ‖ entry, for 1..256 entries of at most 65,535 bytes.

    Raises:
        Misuse: other sizes.
    """
    if not 1 <= len(entries) <= WIDTH or max(map(len, entries)) > MAX_ENTRY:
        raise Misuse(f"an entry bundle holds 1..{WIDTH} entries of at most {MAX_ENTRY} bytes")
    return b"".join([len(e).to_bytes(2, "big") + e for e in entries])


def decode_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """The entries of a bundle.

    Raises:
        Malformed: not exactly `width` entries and nothing after them.
    """
    entries: list[bytes] = []
    at = 0
    for _ in range(width):
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        entries.append(data[start:at])
    if at != len(data):  # `at` never goes back: beyond the end once, beyond it here
        raise Malformed(f"a bundle of {len(data)} bytes does not hold exactly {width} entries")
    return tuple(entries)

"""Claims against the diff: a note can attest only lines that its commit added.

Blame already sees to it that a claim is worth no more than that: it is looked up only for lines which blame traces to
the very commit. This module finds out how much more was claimed, because somebody who over-attests is worth knowing.
"""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from brakeline.gauges.authorship.notes import Note
from brakeline.gauges.git.blame import Span, union, unquote
from brakeline.gauges.git.repository import Repository

Added = dict[str, dict[str, list[Span]]]  # commit, path in it, lines that it adds to its only parent

_HUNK: Final = re.compile(rb"@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_ID: Final = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
CHUNK: Final = 100


def added_lines(repo: Repository, ids: list[str]) -> Added:
    """The lines that each commit adds (merges: none). Renamed files are compared with what they were renamed from."""
    chunks = [ids[i : i + CHUNK] for i in range(0, len(ids), CHUNK)]
    found: Added = {}
    with ThreadPoolExecutor() as pool:
        for part in pool.map(lambda chunk: _added(repo, chunk), chunks):
            found |= part
    return found


def _added(repo: Repository, ids: list[str]) -> Added:
    options = ("-r", "-p", "-U0", "-M", "--root", "--text", "--no-textconv", "--no-ext-diff", "--no-color")
    out = repo.git("diff-tree", "--stdin", *options, stdin="".join(f"{oid}\n" for oid in ids).encode())
    return read_patches(out)


def read_patches(out: bytes) -> Added:
    """Read context-free patches, each after its commit's id. Content is skipped by count: it can look like headers."""
    rows = iter(out.split(b"\n"))
    found: Added = {}
    files: dict[str, list[Span]] = {}
    path = ""
    for row in rows:
        if match := _HUNK.match(row):
            gone, first, new = int(match[1] or b"1"), int(match[2]), int(match[3] or b"1")
            if new:
                files.setdefault(path, []).append((first, first + new - 1))
            for _ in range(gone + new):
                next(rows)
        elif row.startswith(b"+++ "):
            path = unquote(row[4:].removesuffix(b"\t")).removeprefix("b/")
        elif _ID.fullmatch(row):
            files = found.setdefault(row.decode(), {})
    return found


def size(spans: Iterable[Span]) -> int:
    return sum(last - first + 1 for first, last in spans)


def beyond(note: Note, added: dict[str, list[Span]]) -> tuple[int, int]:
    """How many lines a note attests to AI, and how many of these the commit does not add."""
    attested = outside = 0
    for path, claims in note.claims.items():
        ours = list(union((c.first, c.last) for c in claims if c.agent))
        theirs = list(union(added.get(path, ())))
        # |A - B| = |A or B| - |B|
        attested += size(ours)
        outside += size(union(ours + theirs)) - size(theirs)
    return attested, outside

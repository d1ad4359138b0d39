"""Files that a commit brought back as they once were. Their lines are not its own, though blame says so.

Blame follows a line back until it is not in the parents, so whoever takes a file out and puts it back, as the revert of
a revert does, would be the author of all of it. Only whole files are recognised: one changed line makes another file.
"""

from brakeline.gauges.git.repository import Repository


def restored(repo: Repository, end: str) -> frozenset[tuple[str, str]]:
    """Commit and path of every file with the content of one that an earlier commit removed or replaced.

    Earlier is earlier in topological order, in the history of `end`. Merges are left out: they restore nothing that one
    of their sides does not.
    """
    ids = repo.git("rev-list", "--topo-order", "--reverse", end, "--")
    out = repo.git("diff-tree", "--stdin", "-r", "--root", "--no-renames", "--raw", "--no-abbrev", "-z", stdin=ids)
    words = iter(out.split(b"\0"))
    found: set[tuple[str, str]] = set()
    gone: set[bytes] = set()
    leaving: set[bytes] = set()  # by the commit at hand: a file that it moves is not brought back
    commit = ""
    for word in words:
        if not word.startswith(b":"):
            gone |= leaving
            leaving, commit = set(), word.decode()
            continue
        path = next(words).decode("utf-8", "surrogateescape")
        old, new = word.split(b" ")[2:4]
        leaving.add(old)
        if new in gone:
            found.add((commit, path))
    return frozenset(found)

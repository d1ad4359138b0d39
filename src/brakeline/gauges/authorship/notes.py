"""Line-level evidence: git-ai notes (Git AI Standard v3.0.0, `refs/notes/ai`) and Agent Trace records (0.1.0).

Both say which lines of a file, as it stood in one commit, an agent or a known human wrote. Neither is signed. What
parses is a claim; whether the commit wrote those lines at all is for the diff to say (`attest.py`).
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.gauges.git.repository import Repository

NOTES_REF: Final = "refs/notes/ai"
_RANGE: Final = re.compile(r"([1-9]\d{0,8})(?:-([1-9]\d{0,8}))?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
NAME: Final = 80  # characters of an agent's name


@dataclass(frozen=True)
class Claim:
    """Lines `first` to `last` (from 1, inclusive) of a file are by `agent`; by a known human when it is empty."""

    first: int
    last: int
    agent: str


@dataclass
class Note:
    """What is said about one commit: claims by path. `base` is the commit that the note says it was computed for."""

    claims: dict[str, list[Claim]] = field(default_factory=dict)
    base: str = ""

    def add(self, path: str, claims: Iterable[Claim]) -> None:
        self.claims.setdefault(path, []).extend(claims)


def parse_note(data: bytes) -> Note:
    """Read one authorship log of the Git AI Standard, §1.2. Keys that the metadata does not describe attest nothing.

    Raises:
        Malformed: not the format, or another schema version.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        raise Malformed("a note is not UTF-8") from e
    attested, divider, metadata = f"\n{text}".partition("\n---\n")
    if not divider:
        raise Malformed("a note without its divider")
    described = _metadata(metadata)
    note, path = Note(base=described["base"]), None
    for row in attested.split("\n")[1:]:
        if not row.startswith("  "):
            path = row[1:-1] if row.startswith('"') and row.endswith('"') and len(row) > 1 else row
            continue
        key, _, ranges = row[2:].partition(" ")
        if path is None:
            raise Malformed("a note attests lines of no file")
        agent = described["keys"].get(key.split("::")[0])
        if agent is not None:
            note.add(path, (Claim(a, b, agent) for a, b in _ranges(ranges)))
    return note


def _metadata(text: str) -> dict[str, Any]:
    """The commit that the note was computed for, and the agent behind each key ("" for a known human)."""
    data = _json(text)
    if not isinstance(data, dict) or data.get("schema_version") != "authorship/3.0.0":
        raise Malformed("a note of another schema")
    keys = {key: "" for key in _mapping(data.get("humans")) if key.startswith("h_")}
    for section in ("prompts", "sessions"):
        for key, record in _mapping(data.get(section)).items():
            keys[key] = _agent_name(_mapping(_mapping(record).get("agent_id")).get("tool"))
    return {"base": str(data.get("base_commit_sha", "")), "keys": keys}


def _agent_name(value: object) -> str:
    """A name that can be printed and encoded: it is counted by, and comes from whoever wrote the note."""
    name = str(value or "")
    return name if name and len(name) <= NAME and name.isprintable() else "unnamed"


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise Malformed(f"not JSON: {e}") from e


def _mapping(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed("a note's metadata is not an object")
    return value


def _ranges(text: str) -> Iterable[tuple[int, int]]:
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise Malformed(f"not a range of lines: {part[:40]!r}")
        yield first, last


def notes_tree(repo: Repository) -> str:
    """The id of the tree of notes, which stands for all of them; empty where there are none."""
    name = f"{NOTES_REF}^{{tree}}"
    return repo.text("rev-parse", "--verify", name) if repo.asks("rev-parse", "--verify", "--quiet", name) else ""


def read_notes(repo: Repository, tree: str, wanted: Iterable[str]) -> tuple[dict[str, Note], int]:
    """The notes on the wanted commits, and how many of these do not parse. The fan-out of the notes tree is ignored."""
    listed = {}
    for row in repo.git("ls-tree", "-r", "-z", "--full-tree", tree).split(b"\0")[:-1]:
        meta, _, name = row.partition(b"\t")
        listed[name.decode("ascii", "replace").replace("/", "")] = meta.split()[2].decode()
    pairs = [(commit, listed[commit]) for commit in wanted if commit in listed]
    notes, malformed = {}, 0
    bodies = read_blobs(repo, [blob for _, blob in pairs])
    for (commit, _), body in zip(pairs, bodies, strict=True):
        try:
            notes[commit] = parse_note(body)
        except Malformed:
            malformed += 1
    return notes, malformed


def read_blobs(repo: Repository, ids: list[str]) -> list[bytes]:
    """The contents of blobs, in order.

    Raises:
        Refused: one is missing (reason `missing`).
    """
    out = repo.git("cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in ids).encode()) if ids else b""
    bodies, at = [], 0
    for oid in ids:
        end = out.index(b"\n", at)
        words = out[at:end].split()
        if len(words) != 3 or words[0].decode() != oid:
            raise Refused(Reason.MISSING, f"{repo.path.name} lacks the blob {oid}")
        size = int(words[2])
        bodies.append(out[end + 1 : end + 1 + size])
        at = end + 1 + size + 1
    return bodies


def parse_traces(data: bytes) -> dict[str, Note]:
    """Read Agent Trace records (§6.1): one JSON record, a JSON array of them, or one record a line. By git commit.

    `mixed` and `unknown` contributors attest nothing. Records without a git revision are about no commit, and skipped.

    Raises:
        Malformed: not this format.
    """
    try:
        value = _json(data)
    except Malformed:
        value = [_json(row) for row in data.splitlines() if row.strip()]
    notes: dict[str, Note] = {}
    for record in value if isinstance(value, list) else [value]:
        try:
            if not str(record["version"]).startswith("0."):
                raise Malformed(f"an Agent Trace of version {record['version']}")
            vcs = record.get("vcs") or {}
            if vcs.get("type") != "git" or not _COMMIT.fullmatch(vcs.get("revision", "")):
                continue
            note = notes.setdefault(vcs["revision"], Note(base=vcs["revision"]))
            for file in record["files"]:
                for talk in file["conversations"]:
                    note.add(file["path"], _trace_claims(talk))
        except (KeyError, TypeError, AttributeError) as e:
            raise Malformed(f"not an Agent Trace record: {e!r}") from e
    return notes


def _trace_claims(talk: Mapping[str, Any]) -> Iterable[Claim]:
    for span in talk["ranges"]:
        by = span.get("contributor") or talk.get("contributor") or {}
        first, last = span["start_line"], span["end_line"]
        if not (type(first) is int and type(last) is int and 1 <= first <= last < 10**9):
            raise Malformed(f"not a range of lines: {first}-{last}")
        if by.get("type") in ("ai", "human"):
            yield Claim(first, last, _agent_name(by.get("model_id")) if by["type"] == "ai" else "")

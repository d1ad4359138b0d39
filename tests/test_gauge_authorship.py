"""G1: exact on histories with planted truth, not fooled by an incomplete clone, open about what nobody attests."""

import json
import os
import sqlite3
import subprocess
import zlib
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from brakeline.cli.gauge.authorship import command
from brakeline.core.encoding import canonical
from brakeline.core.errors import Malformed, Misuse, Refused
from brakeline.core.measurement import Measurement, read_measurement
from brakeline.gauges.authorship.agents import agent_of_identity, agent_of_trailers
from brakeline.gauges.authorship.attest import read_patches, size
from brakeline.gauges.authorship.measure import measure
from brakeline.gauges.authorship.notes import parse_note, parse_traces
from brakeline.gauges.authorship.plot import figure
from brakeline.gauges.git.blame import RULE, Rule, blame_all, files_at, open_cache, touched, union, unquote
from brakeline.gauges.git.files import kind, marked_generated
from brakeline.gauges.git.history import Mainline, Window, commits, in_order, resolve, window_of
from brakeline.gauges.git.repository import open_repository
from planted import ADA, Planted, git, lines, when

AIDER = ("aider (gpt-5)", "aider@aider.chat")
COPILOT = ("copilot-swe-agent[bot]", "198982749+Copilot@users.noreply.github.com")
CLAUDE = "work\n\nCo-Authored-By: Claude Opus 4.6 <noreply@anthropic.com>\n"
KEY, HUMAN = "d9978a8723e02b52", "h_31dce776f88375"


def note(base: str, *rows: str, **changes: object) -> str:
    agent = {"agent_id": {"tool": "cursor", "id": "1", "model": "m"}, "total_additions": 1}
    meta = {"schema_version": "authorship/3.0.0", "base_commit_sha": base, "prompts": {KEY: agent}}
    meta |= {"humans": {HUMAN: {"author": "Ada <a@example.org>"}}} | changes
    return "\n".join([*rows, "---", json.dumps(meta)])


def gauge(planted: Planted, window: str = "..", **options: object) -> Measurement:
    repo = open_repository(planted.path)
    return measure(repo, window_of(repo, window), **options)  # type: ignore[arg-type]


def classes(m: Measurement) -> dict[str, int]:
    return {name: n for name, n in m.details["classes"].items() if n}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Every kind of evidence, and everything that may happen to a line. `docs` in `test_planted_truth` counts it."""
    p = Planted(tmp_path_factory.mktemp("world") / "world.git")
    p.commit({"base.py": lines("base", 50), "README.md": "words\n" * 40})
    p.commit({"a.py": lines("a", 30)})
    side = p.commit({"b.py": lines("b", 20) + "\n\n   \n" + lines("b", 20, 20)}, author=AIDER)
    p.commit({"c.py": lines("c", 20)}, CLAUDE)
    noted = p.commit({"d.py": lines("d", 25)})
    p.commit({"a.py": None, "pkg/a b.py": lines("a", 30)}, "rename", author=AIDER)
    p.commit({"copy.py": lines("base", 40)}, "copy", author=AIDER)
    p.commit({"b.py": "".join(f"    {row}\n" for row in lines("b", 40).splitlines())}, "indent")
    main = p.commit({"c.py": lines("c", 10)}, "delete")
    branch = p.commit({"f.py": lines("f", 12)}, author=COPILOT, parent=side, branch="side")
    p.commit({"f.py": lines("f", 12)}, "merge", parent=main, merge=branch)
    p.commit({"base.py": lines("base", 25) + lines("new", 5) + lines("base", 25, 25)}, "in the middle")
    p.write()
    p.note({noted: note(p.ids[noted], "d.py", f"  {KEY} 1-8,10,12", f"  {HUMAN} 9,13-16")})
    return p


def test_planted_truth(world: Planted) -> None:
    m = gauge(world, f"{world.ids[1]}..")
    # a.py renamed: 30 nobody's. b.py re-indented: 40 aider's. copy.py: 40 old lines. base.py: 5 new. d.py: 10 unsaid.
    assert classes(m) == {"note": 10, "identity": 40 + 12, "trailer": 10, "known-human": 5, "unknown": 30 + 5 + 10}
    assert m.details["agents"] == {"aider": 40, "claude": 10, "copilot": 12, "cursor": 10}
    assert (m.lower, m.value) == (72 / 122, 72 / 122)
    assert m.upper == 1 - 5 / 122
    assert m.verdict == "inconclusive"
    assert m.details["notes"]["over_attested_lines"] == 0
    assert read_measurement(canonical(m)) == m


def test_the_whole_history_counts_the_root_too(world: Planted) -> None:
    assert classes(gauge(world))["unknown"] == 30 + 5 + 10 + 50


def test_people_alone_are_no_evidence_of_people(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 80)}, "work\n\nCo-authored-by: Grace <grace@example.org>\n")
    p.commit({"b.py": lines("b", 20)}, author=("dependabot[bot]", "49699333+dependabot[bot]@users.noreply.github.com"))
    m = gauge(p.write())
    assert (m.value, m.lower, m.upper, m.verdict) == (0, 0, 1, "inconclusive")


# --- evidence


@pytest.mark.parametrize(
    ("name", "email", "agent"),
    [
        (*AIDER, "aider"),
        ("Paul Gauthier (aider)", "paul@aider.chat", "aider"),
        ("Paul Gauthier", "paul@aider.chat", None),  # the maker's own code is a person's
        (*COPILOT, "copilot"),
        ("Devin AI", "158243242+devin-ai-integration[bot]@users.noreply.github.com", "devin"),
        ("google-labs-jules[bot]", "161369871+google-labs-jules[bot]@users.noreply.github.com", "jules"),
        ("Claude", "noreply@anthropic.com", "claude"),
        ("Claude Monet", "claude@giverny.fr", None),
        ("Claude", "claude@giverny.fr", None),
        ("An Engineer", "engineer@anthropic.com", None),
        ("Devin Smith", "devin@example.org", None),
        ("Jules Verne", "jules@nantes.fr", None),
        ("dependabot[bot]", "49699333+dependabot[bot]@users.noreply.github.com", None),
        ("octocat", "1+octocat@users.noreply.github.com", None),
    ],
)
def test_identities(name: str, email: str, agent: str | None) -> None:
    assert agent_of_identity(name, email) == agent


@pytest.mark.parametrize(
    ("message", "agent"),
    [
        (CLAUDE, "claude"),
        ("squash (#1)\n\n* one\n\nCo-authored-by: Cursor <cursoragent@cursor.com>\n\n* two\n", "cursor"),
        ("x\n\nCo-authored-by: Codex <noreply@openai.com>", "codex"),
        ("x\n\nAssisted-by: NewAgent:model-3 coccinelle\nSigned-off-by: A <a@b.c>", "newagent"),
        ("x\n\nCo-authored-by: Grace <grace@anthropic.com>", None),
        ("explain Co-authored-by: Claude <noreply@anthropic.com> in the docs", None),
        ("x\n\nReviewed-by: Claude <noreply@anthropic.com>", None),
        ("x\n\nCO-AUTHORED-BY : Claude\n <noreply@anthropic.com>\n", "claude"),  # folded
        ("x\r\n\r\nCo-authored-by: Claude <noreply@anthropic.com>\r\n", "claude"),
        ("x\n\nCo-authored-by: Grace\nCo-authored-by: Claude <noreply@anthropic.com>", "claude"),
        ("x\n\nAssisted-by: https://github.com/octocat", None),
    ],
)
def test_trailers(message: str, agent: str | None) -> None:
    assert agent_of_trailers(message) == agent


@pytest.mark.parametrize("token", ["co-authored-by:", "assisted-by:", "", "co-authored-by:\n", "co-authored-by: <"])
def test_a_message_made_to_take_for_ever_does_not(token: str) -> None:
    assert agent_of_trailers(f"x\n\n{token}" + " " * 20_000) is None


def test_stripping_trailers_widens_the_interval_and_makes_nobody_human(tmp_path: Path) -> None:
    honest, stripped = Planted(tmp_path / "honest"), Planted(tmp_path / "stripped")
    for p, message in ((honest, CLAUDE), (stripped, "work")):
        p.commit({"a.py": lines("a", 90)}, message)
        p.commit({"b.py": lines("b", 10)})
        p.write()
    assert gauge(honest).verdict == "reached"
    m = gauge(stripped)
    assert (m.lower, m.upper, m.details["classes"]["known-human"]) == (0, 1, 0)
    assert m.verdict == "inconclusive"  # and so no pass


def test_a_note_is_worth_no_more_than_what_its_commit_added(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 190)})
    boast = p.commit({"a.py": lines("a", 190) + lines("z", 10)})
    p.write()
    p.note({boast: note(p.ids[boast], "a.py", f"  {KEY} 1-200", "elsewhere.py", f"  {KEY} 1-800")})
    claimed = parse_note(git(p.path, "notes", "--ref=ai", "show", p.ids[boast]).encode())
    assert sum(c.last - c.first + 1 for cs in claimed.claims.values() for c in cs) == 1000  # would be 100 %
    m = gauge(p)
    assert classes(m) == {"note": 10, "unknown": 190}
    assert m.details["notes"] | {"commits": 1} == {
        "commits": 1,
        "malformed": 0,
        "foreign": 0,
        "attested_lines": 1000,
        "over_attested_lines": 990,
        "over_attesting_commits": 1,
    }


def test_a_note_for_another_commit_is_no_evidence(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    real = p.commit({"a.py": lines("a", 20)})
    p.commit({"spacer.py": lines("s", 10)})
    other = p.commit({"a.py": lines("b", 20)})
    p.write()
    text = note(p.ids[real], "a.py", f"  {KEY} 1-20")
    p.note({other: note(p.ids[other], "a.py", f"  {KEY} 1-20")})
    assert classes(gauge(p))["note"] == 20
    p.note({other: text})  # the note of one commit, attached to another
    m = gauge(p)
    assert classes(m) == {"unknown": 30}
    assert m.details["notes"]["foreign"] == 1


def test_claims_of_being_human_never_outdo_evidence_of_an_agent(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    agent = p.commit({"a.py": lines("a", 20)}, author=AIDER)
    both = p.commit({"b.py": lines("b", 20)})
    p.write()
    rows = ("b.py", f"  {KEY} 1-10", f"  {HUMAN} 1-20")
    p.note({agent: note(p.ids[agent], "a.py", f"  {HUMAN} 1-20"), both: note(p.ids[both], *rows)})
    assert classes(gauge(p)) == {"note": 10, "identity": 20, "known-human": 10}
    twice = {HUMAN: {"agent_id": {"tool": "cursor"}}}  # the same key for a person and an agent
    p.note({both: note(p.ids[both], "b.py", f"  {HUMAN} 1-20", sessions=twice)})
    assert classes(gauge(p)) == {"note": 20, "identity": 20}


def test_notes_that_do_not_parse_and_keys_without_a_record_attest_nothing(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    one, two = p.commit({"a.py": lines("a", 10)}), p.commit({"b.py": lines("b", 10)})
    p.write()
    p.note({one: "a.py\n  nonsense", two: note(p.ids[two], "b.py", "  ffffffffffffffff 1-10")})
    m = gauge(p)
    assert classes(m) == {"unknown": 20}
    assert m.details["notes"]["malformed"] == 1


@pytest.mark.parametrize("tool", ["\ud800", "\x1b[2J", "a" * 1000])
def test_an_agents_name_that_nobody_can_write_is_no_name(tmp_path: Path, tool: str) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 10)})
    p.write()
    p.note({1: note(p.ids[1], "a.py", f"  {KEY} 1-999999999", prompts={KEY: {"agent_id": {"tool": tool}}})})
    m = gauge(p)
    assert m.details["agents"] == {"unnamed": 10}
    assert read_measurement(canonical(m)) == m


def test_a_repository_of_sha256_ids(tmp_path: Path) -> None:
    work = tmp_path / "work"
    git(tmp_path, "init", "-q", "--object-format=sha256", str(work))
    (work / "a.py").write_text(lines("a", 20))
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "one")
    oid = git(work, "rev-parse", "HEAD")
    git(work, "notes", "--ref=ai", "add", "-m", note(oid, "a.py", f"  {KEY} 1-30"))
    repo = open_repository(work)
    m = measure(repo, window_of(repo, ".."))
    assert classes(m) == {"note": 20}
    assert m.details["notes"]["over_attested_lines"] == 10
    blob = git(work, "rev-parse", "HEAD:a.py")
    (work / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(Refused, match=f"lacks 1 objects, such as {blob}"):
        measure(repo, window_of(repo, ".."))


def test_agent_trace(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 40)})
    p.write()

    def record(revision: str, **changes: object) -> dict[str, object]:
        def talk(by: str, first: int, last: int) -> dict[str, object]:
            return {"contributor": {"type": by}, "ranges": [{"start_line": first, "end_line": last}]}

        talks = [talk("ai", 1, 10), talk("human", 11, 15), talk("mixed", 16, 20), talk("unknown", 21, 40)]
        vcs = {"type": "git", "revision": revision}
        files = [{"path": "a.py", "conversations": talks}]
        return {"version": "0.1.0", "id": "1", "timestamp": "t", "vcs": vcs, "files": files} | changes

    rows = [record(p.ids[1]), record("0" * 40), record(p.ids[1], vcs={"type": "jj", "revision": "kk"})]
    expected = {"note": 10, "known-human": 5, "unknown": 25}
    for data in (json.dumps(rows), "\n".join(json.dumps(row) for row in rows)):
        m = gauge(p, traces=data.encode())
        assert classes(m) == expected
        assert m.details["notes"]["foreign"] == 1
    assert gauge(p).inputs_digest != m.inputs_digest
    for bad in ({"files": 3}, {"version": "7.0"}, {"files": [{"path": "a", "conversations": [{"ranges": [{}]}]}]}):
        with pytest.raises(Malformed):
            parse_traces(json.dumps(record(p.ids[1], **bad)).encode())
    with pytest.raises(Malformed):
        parse_traces(b"{")


def test_notes_in_the_forms_of_the_standard() -> None:
    session = {"s_c9883b05a2487d": {"agent_id": {"tool": "claude", "id": "c", "model": "m"}}}
    rows = ('"src/my file.rs"', "  s_c9883b05a2487d::t_9f8e7d6c5b4a32 1-3,7", f"  {HUMAN} 4", f"  {KEY} 9")
    found = parse_note(note("b", *rows, sessions=session).encode())
    assert found.base == "b"
    assert [(c.first, c.last, c.agent) for c in found.claims["src/my file.rs"]] == [
        (1, 3, "claude"),
        (7, 7, "claude"),
        (4, 4, ""),
        (9, 9, "cursor"),
    ]
    assert parse_note(note("b").encode()).claims == {}


@given(st.text(max_size=60), st.sampled_from(["a.py", f"  {KEY} ", "", "---", "  "]), st.binary(max_size=40))
def test_a_note_parses_or_is_malformed(text: str, row: str, raw: bytes) -> None:
    for data in (raw, text.encode(), note("b", row, row + text).encode(), note("b", text, row).encode()):
        try:
            found = parse_note(data)
        except Malformed:
            continue
        assert all(1 <= c.first <= c.last for cs in found.claims.values() for c in cs)


# --- what must not fool it


def lose(p: Planted, path: str) -> str:
    """Remove the blob behind a path from the repository, as an incomplete mirror has it."""
    blob = git(p.path, "rev-parse", f"HEAD:{path}")
    (p.path / "objects" / blob[:2] / blob[2:]).unlink()
    return blob


def test_missing_objects_are_refused_not_skipped(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 90), "data.bin": "x" * 50}, author=AIDER)
    p.commit({"b.py": lines("b", 10)})
    p.write()
    assert gauge(p).verdict == "reached"
    lose(p, "a.py")
    # A tool that goes on with the files it can read would now find 0 %.
    done = [
        subprocess.run(["git", "-C", p.path, "blame", "HEAD", "--", f], capture_output=True) for f in ("a.py", "b.py")
    ]
    assert [d.returncode for d in done] == [128, 0]
    with pytest.raises(Refused, match="lacks 1 objects"):
        gauge(p)


def test_a_missing_object_that_no_file_of_the_window_needs_is_refused_too(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 20), "picture.png": "pixels" * 30})
    p.write()
    blob = lose(p, "picture.png")
    with pytest.raises(Refused, match="lacks 1 objects"):
        gauge(p)
    # For replaying a published table only: a stand-in, honoured on request and disclosed.
    empty = git(p.path, "hash-object", "-w", "-t", "blob", "--stdin", stdin=b"")
    git(p.path, "update-ref", f"refs/replace/{blob}", empty)
    with pytest.raises(Refused, match="lacks 1 objects"):
        gauge(p)
    repo = open_repository(p.path, replacements=True)
    m = measure(repo, window_of(repo, ".."))
    assert m.inputs["replaced"] == m.details["replaced_objects"] == [blob]


@pytest.mark.parametrize("options", [("--depth=1",), ("--filter=blob:none",)])
def test_partial_clones_are_refused(tmp_path: Path, world: Planted, options: tuple[str, ...]) -> None:
    git(world.path, "config", "uploadpack.allowFilter", "true")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--bare", *options, f"file://{world.path}", str(clone))
    with pytest.raises(Refused, match=r"shallow|lacks \d+ objects"):
        measure(repo := open_repository(clone), window_of(repo, ".."))


def test_damaged_objects_are_refused(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 90)})
    p.write()
    blob = git(p.path, "rev-parse", "HEAD:a.py")
    path = p.path / "objects" / blob[:2] / blob[2:]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Refused, match="something else under the object id"):
        gauge(p)


@pytest.mark.parametrize("what", ["commit", "tree", "blob", "note"])
def test_forged_objects_are_refused(tmp_path: Path, what: str) -> None:
    """git reads an object without hashing it: a true id may lead to another author, folder, file or note."""
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 10)})
    p.commit({"b.py": lines("b", 20)}, author=AIDER)
    p.commit({"c.py": lines("c", 10)})
    p.write()
    p.note({3: note(p.ids[3], "c.py", f"  {KEY} 1-10")})
    assert gauge(p).lower == 0.75
    ours = {
        "commit": (p.ids[2], f"{AIDER[0]} <{AIDER[1]}>", "Ada <ada@example.org>"),
        "tree": (git(p.path, "rev-parse", f"{p.ids[2]}^{{tree}}"), "b.py", "b.md"),
        "blob": (git(p.path, "rev-parse", "HEAD:b.py"), lines("b", 20), lines("b", 2)),
        "note": (git(p.path, "rev-parse", f"refs/notes/ai:{p.ids[3]}"), "1-10", "1-2"),
    }
    oid, true, false = ours[what]
    path = p.path / "objects" / oid[:2] / oid[2:]
    head, _, content = zlib.decompress(path.read_bytes()).partition(b"\0")
    content = content.replace(true.encode(), false.encode())
    path.chmod(0o600)
    path.write_bytes(zlib.compress(head.split()[0] + b" %d\0" % len(content) + content))
    # git itself is fooled: the ids are the same, and what it reads is not.
    assert false.encode() in subprocess.check_output(["git", "-C", p.path, "cat-file", head.split()[0].decode(), oid])
    with pytest.raises(Refused, match=f"something else under the object id {oid}"):
        gauge(p)


def test_answers_from_inside_the_measured_repository_are_refused(tmp_path: Path) -> None:
    """Who owns the repository could ship a `blame.sqlite` with it."""
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 90)}, author=AIDER)
    p.write()
    out = p.path / "gauge-authorship"
    with open_cache(out / "blame.sqlite") as cache:
        honest = gauge(p, cache=cache)
    with closing(sqlite3.connect(out / "blame.sqlite")) as db, db:
        db.execute("UPDATE blame SET answer = '[[], false]'")
    with open_cache(out / "blame.sqlite") as cache, pytest.raises(Refused, match="no code line"):
        gauge(p, cache=cache)  # it would be believed
    done = CliRunner().invoke(command, [str(p.path), "--out", str(out)])
    assert isinstance(done.exception, Misuse)
    assert "lies in the repository" in str(done.exception)
    assert honest.lower == 1


def test_the_owner_cannot_steer_git(tmp_path: Path, world: Planted) -> None:
    """Configuration, replaced commits, grafts and a mailmap: none of it changes what is counted."""
    clone = tmp_path / "clone.git"
    git(tmp_path, "clone", "-q", "--bare", str(world.path), str(clone))
    git(clone, "fetch", "-q", str(world.path), "refs/notes/ai:refs/notes/ai")
    honest = gauge(world)
    (tmp_path / "ignore").write_text(f"{world.ids[3]}\n")
    git(clone, "config", "blame.ignoreRevsFile", str(tmp_path / "ignore"))
    git(clone, "config", "diff.evil.textconv", "echo nothing;:")
    (clone / "info").mkdir(exist_ok=True)
    (clone / "info" / "attributes").write_text("*.py diff=evil\n")
    (clone / "info" / "grafts").write_text(f"{world.ids[4]}\n")
    commit = git(world.path, "cat-file", "commit", world.ids[3]).replace(*AIDER[:1], "Ada").replace(AIDER[1], "a@b.c")
    forged = git(clone, "hash-object", "-w", "-t", "commit", "--stdin", stdin=f"{commit}\n".encode())
    git(clone, "replace", world.ids[3], forged)
    assert "Ada <a@b.c>" in git(clone, "log", "--format=%an <%ae>", world.ids[3])  # git itself is fooled
    repo = open_repository(clone)
    m = measure(repo, window_of(repo, ".."))
    assert m.details == honest.details
    assert m.inputs == honest.inputs


def test_the_owner_cannot_set_when_git_sees_a_rename(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({f"{i}.py": lines(f"f{i}", 20) for i in range(3)})
    moved = {f"n{i}.py": lines(f"f{i}", 20) + lines(f"g{i}", 2) for i in range(3)}
    boast = p.commit(moved | {f"{i}.py": None for i in range(3)})
    p.write()
    p.note({boast: note(p.ids[boast], "n0.py", f"  {KEY} 1-22")})
    assert gauge(p).details["notes"]["over_attested_lines"] == 20
    git(p.path, "config", "diff.renameLimit", "1")
    assert gauge(p).details["notes"]["over_attested_lines"] == 20


def test_a_mailmap_does_not_make_an_agent_a_person(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 9), ".mailmap": f"Ada Lovelace <ada@example.org> <{AIDER[1]}>\n"}, author=AIDER)
    p.write()
    assert git(p.path, "log", "--format=%aN") == "Ada Lovelace"
    assert classes(gauge(p)) == {"identity": 9}


def test_vendored_and_generated_bulk_does_not_dilute(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 90)}, author=AIDER)
    bulk = lines("bulk", 2500)
    p.commit({"vendor/lib/big.py": bulk, "x.min.js": bulk, "api_pb2.py": bulk, "data.csv": bulk})
    p.commit({"gen.go": "// Code generated by tool. DO NOT EDIT.\n" + lines("gen", 99)}, author=AIDER)
    p.write()
    m = gauge(p)
    assert classes(m) == {"identity": 90}  # 3 % of all lines
    assert m.details["left_out"] == {
        "vendored_files": 1,
        "generated_files": 3,
        "other_files": 1,
        "marked_generated_lines": 100,
        "marked_generated_ai_lines": 100,
    }


def test_an_import_under_another_name_dilutes_and_shows(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 900)}, author=AIDER)
    p.commit({"ours.py": lines("bulk", 2600)})
    m = gauge(p.write())
    assert m.details["bulk_lines"] == 600
    assert m.verdict == "inconclusive"  # nobody says that people wrote it


def test_whitespace_and_moved_code_are_nobodys_new_lines(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 60), "m.py": lines("m", 60)})
    churn = "".join(f"\t{row}   \n\n" for row in lines("a", 60).splitlines())
    p.commit({"a.py": churn, "m.py": None, "n/m2.py": lines("m", 30, 30) + lines("m", 30)}, author=AIDER)
    p.commit({"n/own.py": lines("own", 3)}, author=AIDER)
    p.write()
    plain = git(p.path, "blame", "--line-porcelain", "HEAD", "--", "a.py").count(f"author-mail <{AIDER[1]}>")
    assert plain >= 60  # what a plain blame would credit for the tabs alone
    assert classes(gauge(p, f"{p.ids[1]}..")) == {"identity": 3}
    assert classes(gauge(p)) == {"identity": 3, "unknown": 120}


def test_who_brings_a_file_back_has_not_written_it(tmp_path: Path) -> None:
    """The revert of a revert: blame gives all of it to the commit that reverts last."""
    p = Planted(tmp_path / "r")
    files = {f"pkg {i}.py": lines(f"h{i}", 30) for i in range(3)}
    p.commit(files)
    p.commit(dict.fromkeys(files), "Revert work")
    last = p.commit(files | {"own.py": lines("own", 10)}, "Reapply work", author=AIDER)
    p.write()
    p.note({last: note(p.ids[last], '"pkg 0.py"', f"  {KEY} 1-30", '"pkg 1.py"', f"  {HUMAN} 1-30")})
    assert git(p.path, "blame", "--line-porcelain", "HEAD", "--", "pkg 0.py").count(AIDER[1]) == 2 * 30
    m = gauge(p)
    assert classes(m) == {"identity": 10, "unknown": 90}  # not 100 %
    assert m.details["restored_lines"] == 90
    moved = p.commit({"pkg 2.py": None, "there.py": lines("h2", 30)}, author=AIDER)
    p.commit({"pkg 2.py": lines("h2", 30), "there.py": None}, author=AIDER, parent=moved)
    p.write()
    assert classes(gauge(p)) == {"identity": 10, "unknown": 90}


def test_copies_of_a_line_count_once(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"human.py": lines("h", 50)})
    p.commit({"agent.py": lines("a", 50)}, author=AIDER)
    for i in range(10):
        p.commit({f"copy{i}.py": lines("a", 50)}, author=AIDER)
    p.write()
    assert (
        sum(len(git(p.path, "show", f"HEAD:{f}").splitlines()) for f in ("agent.py", "copy9.py")) == 100
    )  # they are there
    assert classes(gauge(p)) == {"identity": 50, "unknown": 50}  # and would make it 92 %


# --- windows, files, git's output


def test_windows(world: Planted) -> None:
    repo = open_repository(world.path)
    head = world.ids[12]
    assert window_of(repo, "..") == Window(None, head) == window_of(repo, "1999-01-01..")
    assert window_of(repo, None) == Window(None, head)  # all of it is younger than a year
    assert window_of(repo, f"{world.ids[2]}..main") == Window(world.ids[2], head)
    assert window_of(repo, "..2025-01-03").end == head
    for bad in (
        "main",
        "a...b",
        "..nowhere",
        "..2024-01-01",
        "main..main",
        "2025-13-01..",
        "main..--help",
        f"side..{world.ids[5]}",
    ):
        with pytest.raises(Misuse):
            window_of(repo, bad)


def test_a_day_is_the_newest_commit_before_it_even_when_clocks_lie(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    days = ["2025-01-01", "2025-03-01", "2025-02-01", "2025-02-10", "2025-04-01"]
    for i, day in enumerate(days):
        p.commit({"a.py": lines("a", i + 1)}, at=when(day))
    p.write()
    line = Mainline(open_repository(p.path), p.ids[5])
    for t in (when(day) + d for day in days for d in (-1, 0, 1)):
        below = [p.ids[i + 1] for i, day in enumerate(days) if when(day) < t]
        assert line.before(t) == (below[-1] if below else None)


def test_one_clock_that_lies_moves_nobody_else(tmp_path: Path) -> None:
    for i, lie in enumerate([0, when("2021-01-01"), when("2199-01-01"), 10**13]):
        p = Planted(tmp_path / str(i))
        for year in (2023, 2024, 2025):
            p.commit({f"{year}.py": lines(f"y{year}", 10)}, at=when(f"{year}-01-01"))
        p.commit({"lie.py": lines("lie", 3)}, at=lie)
        p.commit({"2026.py": lines("y2026", 10)}, at=when("2026-01-01"))
        p.write()
        assert gauge(p, "2023-06-01..2024-06-01").details["lines"] == 10
        assert gauge(p, "2024-06-01..").details["lines"] == 23


@given(st.lists(st.integers(-50, 50)))
def test_times_in_order_never_fall(times: list[int]) -> None:
    found = in_order(times)
    assert len(found) == len(times)
    assert found == sorted(found)
    assert in_order(sorted(times)) == sorted(times)


@given(st.sets(st.integers(0, 50), min_size=5), st.integers(-9, 59), st.data())
def test_a_lie_among_true_times_moves_its_own(truth: set[int], lie: int, data: st.DataObject) -> None:
    times = sorted(truth)
    at = data.draw(st.integers(2, len(times) - 3))
    found = in_order([*times[:at], lie, *times[at + 1 :]])
    moved = sum(a != b for a, b in zip(found, times, strict=True))
    assert moved <= (2 if 0 <= lie <= 50 else 1)  # a small lie may pass for the truth against one neighbour


def test_no_window_without_code_and_no_repository_without_one(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"README.md": "words\n"})
    with pytest.raises(Refused, match="no code line"):
        gauge(p.write())
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(Misuse):
            open_repository(path)
    git(tmp_path, "init", "-q", "unborn")
    with pytest.raises(Misuse, match="unborn has no commit"):
        window_of(open_repository(tmp_path / "unborn"), None)


def test_a_folder_inside_a_repository_is_not_taken_for_one(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"pkg/a.py": lines("a", 9)}, author=AIDER)
    p.write()
    git(tmp_path, "clone", "-q", str(p.path), "work")
    git(tmp_path / "work", "worktree", "add", "-q", "--detach", "../second")
    with pytest.raises(Misuse, match="inside a repository"):
        open_repository(tmp_path / "work" / "pkg")
    repo = open_repository(tmp_path / "second")
    assert classes(measure(repo, window_of(repo, None))) == {"identity": 9}


def test_git_says_what_is_wrong(world: Planted) -> None:
    with pytest.raises(Refused, match=r"fatal: no such path nowhere\.py"):
        open_repository(world.path).git("blame", "HEAD", "--", "nowhere.py")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.py", "code"),
        ("A.PY", "code"),
        ("deep/Dockerfile", "code"),
        ("notes.md", "other"),
        ("py", "other"),
        ("third_party/x/a.c", "vendored"),
        ("vendor.py", "code"),
        ("app.min.js", "generated"),
        ("api_pb2.py", "generated"),
        ("view/dist/assets/bundle.js", "generated"),
        ("dist.py", "code"),
    ],
)
def test_the_filter(path: str, expected: str) -> None:
    assert kind(path) == expected


def test_generators_marks() -> None:
    assert marked_generated([b"# @generated by x"])
    assert marked_generated([b"", b"// Code generated by y. DO NOT EDIT."])
    assert not marked_generated([b""] * 5 + [b"# @generated"])
    assert not marked_generated([b"generated = 3"])


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(str.encode) | st.binary(min_size=1)
)
def test_quoted_paths_are_read_back(name: bytes) -> None:
    names = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}  # quote.c of git
    quoted = "".join(f"\\{names[b]}" if b in names else chr(b) if 32 <= b < 127 else f"\\{b:03o}" for b in name)
    assert unquote(f'"{quoted}"'.encode()) == name.decode("utf-8", "surrogateescape")


def test_odd_paths_survive_git(tmp_path: Path) -> None:
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 1)})
    p.write()
    work = tmp_path / "work"
    git(tmp_path, "clone", "-q", str(p.path), str(work))
    odd = ['qu"ote.py', "back\\slash.py", "tab\there.py", "ünïcode.py", "sp ace.py"]
    for name in odd:
        (work / name).write_text(lines(str(odd.index(name)) + "x", 3))
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "odd", "--author", f"{AIDER[0]} <{AIDER[1]}>")
    repo = open_repository(work)
    window = window_of(repo, "..")
    found = blame_all(repo, RULE, window, commits(repo, window), files_at(repo, window.end), None, lambda d, t: None)
    assert {run.path for b in found.values() for run in b.runs} == {"a.py", *odd}
    assert classes(measure(repo, window)) == {"identity": 15, "unknown": 1}


def test_content_that_looks_like_a_patch_is_content() -> None:
    oid = "ab" * 20
    header = f"{oid}\ndiff --git a/x b/x\n--- a/x\n+++ b/x\n"
    hunk = f"@@ -1,2 +1,3 @@\n---- a/y\n-{oid}\n++++ b/y\n+@@ -1 +1 @@\n+{oid}\n"
    assert read_patches((header + hunk + "@@ -9 +10 @@\n-q\n+r\n").encode()) == {oid: {"x": [(1, 3), (10, 10)]}}


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)).map(lambda p: (p[0], p[0] + p[1]))))
def test_union_of_spans(spans: list[tuple[int, int]]) -> None:
    joined = list(union(spans))
    assert size(joined) == len({i for a, b in spans for i in range(a, b + 1)})
    assert all(a[1] + 1 < b[0] for a, b in pairwise(joined))


def test_only_touched_files_hold_lines_of_the_window(tmp_path: Path) -> None:
    """Also a line that was taken out and put back, which comparing the window's ends would not show."""
    p = Planted(tmp_path / "r")
    p.commit({"a.py": lines("a", 20), "b.py": lines("b", 20)})
    p.commit({"a.py": lines("a", 10)})
    p.commit({"a.py": lines("a", 20)}, "back again", author=AIDER)
    p.write()
    repo = open_repository(p.path)
    window = window_of(repo, f"{p.ids[1]}..")
    assert not git(p.path, "diff", "--name-only", window.start or "", window.end)
    assert touched(repo, window) == {"a.py"}
    assert classes(measure(repo, window)) == {"unknown": 10}


# --- resuming


def test_interrupted_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p = Planted(tmp_path / "r")
    for i in range(12):
        p.commit({f"{i}.py": lines(f"f{i}", 5)}, author=AIDER if i % 2 else ADA)
    p.write()
    straight = gauge(p)

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    def blamed(**options: object) -> tuple[int, Measurement]:
        seen = []
        with open_cache(tmp_path / "out" / "blame.sqlite") as cache:
            m = gauge(p, cache=cache, progress=lambda done, total: seen.append(done), **options)
        return m.details["lines"] // 5 - seen[0], m

    with open_cache(tmp_path / "out" / "blame.sqlite") as cache, pytest.raises(KeyboardInterrupt):
        gauge(p, cache=cache, progress=stop)
    left, resumed = blamed()
    assert resumed == straight
    assert left == 5
    assert blamed() == (0, straight)
    p.commit({"3.py": lines("f3", 5) + lines("more", 5)}, author=AIDER)  # a newer end: one file of it is new
    p.write()
    left, newer = blamed()
    assert newer == gauge(p)
    assert left == 1 + 1  # the file, and its five more lines


# --- the command


def test_the_command(tmp_path: Path, world: Planted) -> None:
    arguments = [str(world.path), "--window", f"{world.ids[1]}..", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "authorship of world" in done.output
    assert "reference threshold 0.8: inconclusive" in done.output
    m = read_measurement((tmp_path / "out" / "measurement.json").read_bytes())
    assert classes(m)["note"] == 10
    assert b"<svg" in (tmp_path / "out" / "plot.svg").read_bytes()
    again = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert read_measurement(again.output.strip().encode()) == m
    assert isinstance(CliRunner().invoke(command, [str(tmp_path)]).exception, Misuse)


def test_the_figure_needs_the_measurement_alone(world: Planted) -> None:
    drawn = figure(read_measurement(canonical(gauge(world))))
    assert next(text.get_text() for text in drawn.axes[1].get_legend().get_texts()) == "note"


# --- the reference


TABLE = json.loads((Path(__file__).parent / "data" / "aider-blame-extract.json").read_text())
TABLE_RULE = Rule(("-M100", "-C100", "-C", "-C"), blanks=True)
WEBSITE = {
    "index.html",
    "share/index.md",
    "_includes/head_custom.html",
    "_includes/home.css",
    "docs/leaderboards/index.md",
}


def in_table(path: str) -> bool:
    """The file filter of the published table."""
    if path.endswith("prompts.py") or path.startswith("tests/fixtures/watch"):
        return False
    if path in ("aider/website/install.ps1", "aider/website/install.sh"):
        return False
    return (
        path.endswith((".js", ".py", ".scm", ".sh", "Dockerfile", "Gemfile"))
        or (path.startswith((".github/workflows/", "aider/resources/")) and path.endswith(".yml"))
        or path.removeprefix("aider/website/") in WEBSITE
        or (path.startswith("tests/fixtures/languages/") and "/test." in path)
    )


def test_the_reference_adds_up() -> None:
    assert len(TABLE) == 8
    for row in TABLE:
        totals = sum((Counter(counts) for counts in row["file_counts"].values()), Counter())
        assert totals == row["grand_total"]
        assert totals.total() == row["total_lines"]
        assert sum(n for author, n in totals.items() if "(aider)" in author) == row["aider_total"]


@pytest.fixture(scope="session")
def aider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private clone in which empty blobs stand in for the objects that the given one lacks, if any."""
    source = os.environ.get("BRAKELINE_AIDER_REPO")
    if not source:
        pytest.skip("BRAKELINE_AIDER_REPO names no clone of Aider-AI/aider")
    clone = tmp_path_factory.mktemp("aider") / "aider.git"
    git(clone.parent, "clone", "-q", "--bare", "--shared", source, str(clone))
    empty = git(clone, "hash-object", "-w", "-t", "blob", "--stdin", stdin=b"")
    for row in git(clone, "rev-list", "--objects", "--all", "--missing=print").splitlines():
        if row.startswith("?"):
            git(clone, "update-ref", f"refs/replace/{row[1:]}", empty)
    return clone


@pytest.mark.parametrize("row", TABLE, ids=[row["end_tag"] for row in TABLE])
def test_the_published_table_line_for_line(aider: Path, row: dict[str, object]) -> None:
    repo = open_repository(aider, replacements=True)
    window = Window(resolve(repo, str(row["start_tag"])), resolve(repo, str(row["end_tag"])))
    found = commits(repo, window)
    changed = touched(repo, window) or frozenset()
    wanted = [e for e in files_at(repo, window.end) if in_table(e.path) and e.path in changed]
    counts: dict[str, Counter[str]] = {}
    for path, blamed in blame_all(repo, TABLE_RULE, window, found, wanted, None, lambda d, t: None).items():
        for run in blamed.runs:
            commit = found[run.commit]
            text = commit.message.lower()
            marked = text.startswith("aider:") or "co-authored-by: aider" in text
            author = commit.author[0] + (" (aider)" if marked else "")
            counts.setdefault(path, Counter())[author] += run.length
    assert counts == row["file_counts"]

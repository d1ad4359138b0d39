"""The vectors of the second half: this core gives what they say, and they say what their scenes show.

What is done here with each noun is what another implementation must do: see vectors/README.md.
"""

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brakeline.core.bundle import verify_bundle
from brakeline.core.encoding import canonical, parse_json, unhex32
from brakeline.core.errors import Malformed, Reason
from brakeline.core.finding import Fault, Finding
from brakeline.core.grant import check_request, limit_of
from brakeline.core.judge import Openings, judge
from brakeline.core.kinds import known
from brakeline.core.permit import Permit, open_permit
from brakeline.core.sampling import draw, draws_needed
from brakeline.core.state import State, apply, begin, replay
from brakeline.core.state import events as e
from brakeline.core.state.audits import find_head, required_sample
from brakeline.core.state.codec import decode, digest, encode
from brakeline.core.state.said import check_depth
from brakeline.core.statement import open_envelope, seal
from brakeline.core.transcript import Likeness, SegmentReplay, decode_leaf
from brakeline.core.treaty import parse_treaty
from vector import FOLDER, Vector, load

sys.path.insert(0, str(FOLDER.parent / "tools"))

import vectors
from scenes import golden
from scenes.bundles import proved
from scenes.decisions import activated
from scenes.made import folded, plain
from scenes.verdicts import found


def state_of(v: Vector) -> tuple[State, list[e.Event]]:
    return replay(parse_treaty(v.bytes("treaty")), v.entries())


# --- logs


def check_log(v: Vector) -> list[tuple[e.Event, ...]]:
    output, events = folded(parse_treaty(v.bytes("treaty")), v.entries())
    for entry, (got, want) in enumerate(zip(output["events"], v.output["events"], strict=True)):
        assert got == want, f"entry {entry}"
    assert output["digests"] == v.output["digests"]
    return events


@load("log", 220)
def test_log_vectors(v: Vector) -> None:
    last = check_log(v)[-1]
    came = next((str(x.reason) for x in last if isinstance(x, e.Void)), "ok")
    assert came == v.expect


@load("golden/1", 10)
def test_golden_logs(v: Vector) -> None:
    """Logs of rules 1 have the digests that they had, in this build and in every later one."""
    check_log(v)


@load("golden/2", 18)
def test_golden_logs_of_rules_2(v: Vector) -> None:
    check_log(v)


@load("golden/2", 18)
def test_a_log_of_rules_2_goes_on_from_a_state_as_from_its_first_entry(v: Vector) -> None:
    check_goes_on(v)


@load("golden/2", 18)
def test_a_state_of_rules_2_is_canonical_json_and_is_read_back_after_every_entry(v: Vector) -> None:
    check_read_back(v)


@load("golden/1", 10)
def test_a_state_is_canonical_json_and_is_read_back_after_every_entry(v: Vector) -> None:
    check_read_back(v)


def check_read_back(v: Vector) -> None:
    treaty = parse_treaty(v.bytes("treaty"))
    state = begin(treaty)
    for entry in v.entries():
        state, _ = apply(state, entry)
        written = encode(state)
        assert canonical(parse_json(written)) == written
        assert encode(decode(written, treaty)) == written


@load("golden/1", 10)
def test_a_log_goes_on_from_a_state_as_from_its_first_entry(v: Vector) -> None:
    check_goes_on(v)


def check_goes_on(v: Vector) -> None:
    treaty, entries = parse_treaty(v.bytes("treaty")), v.entries()
    half = len(entries) // 2
    state = decode(encode(replay(treaty, entries[:half])[0]), treaty)
    digests, events = v.output["digests"], v.output["events"]
    for at in range(half, len(entries)):
        state, new = apply(state, entries[at])
        assert plain(new) == events[at]
        assert digest(state) == digests[at]


@load("envelope", 60)
def test_envelope_vectors(v: Vector) -> None:
    with v.expected():
        data = v.bytes("envelope")
        envelope = open_envelope(data)
        check_depth(envelope.payload)
        envelope.statement.check()
        assert seal(envelope.kind, envelope.payload, envelope.signatures) == data
        assert v.output == {
            "kind": envelope.kind,
            "payload": envelope.payload.decode(),
            "digest": envelope.digest,
            "signatures": [[k, s.hex()] for k, s in envelope.signatures],
        }


# --- decisions


@load("pledge", 24)
def test_pledge_vectors(v: Vector) -> None:
    with v.expected():
        assert activated(v.input["pledges"], frozenset(v.input["parties"])) == v.output


@load("permit", 28, "grant-")
def test_grant_vectors(v: Vector) -> None:
    state, _ = state_of(v)
    permit = Permit(**v.input["permit"])
    with v.expected():
        check_request(permit, state, view_time=v.input["view_time"], now=v.input["now"])
        assert v.output == {"largest": str(limit_of(state, state.run(permit.run)))}


@load("permit", 7, "sealed-")
def test_sealed_permit_vectors(v: Vector) -> None:
    with v.expected():
        treaty = parse_treaty(v.bytes("treaty"))
        permit, _ = open_permit(v.bytes("permit"), treaty, treaty.signer_keys)
        assert {"permit": plain(permit)} == v.output


@load("sample", 5, "draw-")
def test_draw_vectors(v: Vector) -> None:
    assert list(draw(v.bytes("seed"), v.input["count"], v.input["population"])) == v.output["drawn"]


@load("sample", 7, "needed-")
def test_needed_vectors(v: Vector) -> None:
    needed = draws_needed(v.input["segments"], Decimal(v.input["p_catch"]), Decimal(v.input["f_cheat"]))
    assert needed == v.output["draws"]


@load("sample", 10, "log-")
def test_sample_vectors(v: Vector) -> None:
    state, _ = state_of(v)
    run = state.run(v.input["run"])
    with v.expected():
        logged = find_head(run, v.input["head"])
        who = v.input["inspector"]
        sample = required_sample(state.treaty, run, logged, who, v.bytes("ticket"), state.key_of(who))
        assert plain(sample) == v.output["segments"]


@load("verdict", 38)
def test_verdict_vectors(v: Vector) -> None:
    state, events = state_of(v)
    run, x = state.run(v.input["run"]), v.input
    leaves = tuple(map(decode_leaf, v.hexes("leaves_hex")))
    openings = Openings(leaves, tuple(p.encode() for p in x["permits"]), x["recipe"], x["dataset"])
    heads = [h for h in events if isinstance(h, e.Committed) and h.head.run == run.id]
    replays = {(r["segment"][0], r["segment"][1]): replayed(r) for r in x["replays"]}
    required = [(a, b) for a, b in x["required"]]
    findings = judge(state, run, heads, openings, required, replays, environment=x["environment"])
    assert found(findings) == v.output


def replayed(r: dict[str, Any]) -> SegmentReplay | Finding:
    if f := r.get("finding"):
        start, end = f["segment"]
        return Finding(fault=Fault(f["fault"]), severity=f["severity"], segment=(start, end), detail=f["detail"])
    leaves = tuple(decode_leaf(bytes.fromhex(leaf)) for leaf in r["leaves_hex"])
    start = unhex32(r["start_state"])
    likeness = Likeness(r["likeness"], "") if r["likeness"] else None
    return SegmentReplay(r["start"], r["end"], start, leaves, r["environment"], likeness)


@load("bundle", 13)
def test_bundle_vectors(v: Vector) -> None:
    with v.expected():
        proven = verify_bundle(v.bytes("bundle"), treaty_digest=v.input["treaty"])
        assert proved(proven) == v.output


# --- the vectors themselves


def test_vectors_are_what_their_scenes_make() -> None:
    assert vectors.stale() == [], "run: python tools/vectors.py"


def test_a_vector_that_is_missing_bent_or_nobodys_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "FOLDER", tmp_path)
    monkeypatch.setattr(vectors, "made", lambda: iter(list(vectors.decisions.made())[:30]))
    monkeypatch.setattr(sys, "argv", ["vectors.py"])
    assert vectors.main() == 0
    assert vectors.stale() == []
    (tmp_path / "pledge/circle.json").write_text("{}\n")
    (tmp_path / "pledge/stray.json").write_text("{}\n")
    (tmp_path / "pledge/nested.json").unlink()
    assert vectors.stale() == ["pledge/circle.json", "pledge/nested.json", "pledge/stray.json"]
    for option, code, left in (("--check", 1, 3), ("", 1, 1), ("--prune", 0, 0)):
        monkeypatch.setattr(sys, "argv", ["vectors.py", option])
        assert vectors.main() == code
        assert len(vectors.stale()) == left
    assert not (tmp_path / "pledge/stray.json").exists()


def test_golden_logs_of_published_rules_are_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "FROZEN", frozenset({golden.RULES}))
    assert list(golden.made()) == []
    assert not any("golden" in path.parts for path in vectors.owned())


def all_events(noun: str) -> list[dict[str, Any]]:
    files = sorted((FOLDER / noun).glob("*.json"))
    return [x for f in files for entry in json.loads(f.read_bytes())["output"]["events"] for x in entry]


# What came with rules 2.
LATER_EVENTS = {"Proposed", "Adopted", "Unadopted", "Turned", "Closed", "Rekeyed", "Revoked", "Asked", "Reopened"}
LATER_EVENTS |= {"Shifted"}


@pytest.mark.parametrize(("noun", "rules"), [("log", 2), ("golden/1", 1), ("golden/2", 2)])
def test_every_kind_reason_and_event_has_a_vector(noun: str, rules: int) -> None:
    events, first = all_events(noun), rules == 1
    # A reopening is signed by many, and no kind of statement.
    many = set() if first else {"reopen"}
    assert {x["kind"] for x in events if x["type"] == "Entered"} == set(known(rules)) | many
    reasons = set(Reason) - golden.ELSEWHERE - (golden.SUCCESSION if first else set())
    assert {x["reason"] for x in events if x["type"] == "Void"} == reasons
    kinds = {kind.__name__ for kind in e.Event.__subclasses__()}
    assert {x["type"] for x in events} == kinds - (LATER_EVENTS if first else set())


def test_every_fault_has_a_verdict_and_every_reason_a_vector() -> None:
    files = sorted(FOLDER.rglob("*.json"))
    loaded = [json.loads(f.read_bytes()) for f in files if f.name != "schema.json"]
    faults = {f["fault"] for v in loaded for f in v.get("output", {}).get("findings", ())}
    # A judge of these rules calls a checkpoint that is not the record one that was not shown; what a machine lacks is
    # said by the inspector, beside the judge.
    assert faults == set(Fault) - {Fault.OPENING_MISMATCH, Fault.EXPOSED}
    assert {v["expect"] for v in loaded} == {"ok", *Reason}


def test_no_sentence_is_in_a_vector() -> None:
    """What is for people may be said better, and no vector changes with it."""
    nouns = ("log", "golden/1", "golden/2")
    assert all("text" not in x for noun in nouns for x in all_events(noun) if x["type"] == "Void")


SCHEMA = json.loads((FOLDER / "schema.json").read_bytes())
FILES = sorted(p for p in FOLDER.rglob("*.json") if p != FOLDER / "schema.json")
DEFINED = {"log", "golden", "envelope", "pledge", "permit", "sample", "verdict", "bundle"}


def definition(path: Path) -> str:
    """The name of the schema's definition for a file, or the empty string."""
    noun = path.relative_to(FOLDER).parts[0]
    return "" if noun not in DEFINED else "permit-file" if noun == "permit" else noun


def test_every_vector_has_the_form_that_the_schema_gives() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    of = jsonschema.Draft202012Validator
    of.check_schema(SCHEMA)
    plainly = of(SCHEMA)
    strictly = {
        name: of({**SCHEMA, "allOf": [{"$ref": f"#/$defs/{name}"}]}) for name in {*map(definition, FILES)} - {""}
    }
    assert len(strictly) == len(DEFINED)
    for path in FILES:
        value, name = json.loads(path.read_bytes()), definition(path)
        wrong = [x.message for x in (strictly[name] if name else plainly).iter_errors(value)]
        assert wrong == [], path


def test_the_schema_notices_a_vector_of_another_form() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    good = json.loads((FOLDER / "log/vote.json").read_bytes())
    of = jsonschema.Draft202012Validator({**SCHEMA, "allOf": [{"$ref": "#/$defs/log"}]})
    assert list(of.iter_errors(good)) == []
    for bad in (
        {k: x for k, x in good.items() if k != "about"},
        {**good, "more": 0},
        {**good, "expect": "perhaps"},
        {**good, "input": {**good["input"], "entries": [7]}},
        {**good, "output": {**good["output"], "digests": ["AB"]}},
    ):
        assert list(of.iter_errors(bad)), bad.keys()


def test_every_vector_has_its_fields() -> None:
    """What the schema asks of every file, for whoever has no jsonschema."""
    reasons = set(SCHEMA["properties"]["expect"]["enum"])
    assert reasons == {"ok", *Reason}
    assert len(FILES) > 900
    for path in FILES:
        v = json.loads(path.read_bytes())
        assert {"about", "expect", "source", "input"} <= v.keys() <= SCHEMA["properties"].keys(), path
        assert v["about"], path
        assert v["expect"] in reasons, path
        assert v["source"] in ("published", "derived"), path
        assert "output" not in v or v["expect"] == "ok" or path.parts[-2] == "log", path


def test_every_noun_is_in_the_contract() -> None:
    text = (FOLDER / "README.md").read_text()
    nouns = {path.relative_to(FOLDER).parts[0] for path in FILES}
    assert {noun for noun in nouns if f"\n| `{noun}`" not in text and f"\n| `{noun}/" not in text} == set()


def test_an_entry_is_text_or_hex() -> None:
    v = Vector("log", "x", "ok", {"entries": ["ä", {"hex": "ff00"}]}, {})
    assert v.entries() == ["ä".encode(), b"\xff\x00"]
    with pytest.raises(Malformed):
        parse_json(b"[1,2,]")

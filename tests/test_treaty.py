"""The treaty: what it says is read exactly, and every refusal names the line and the rule."""

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core import units
from brakeline.core.errors import BrakelineError, Malformed
from brakeline.core.legal import ARTICLES, PEOPLE, render, rules
from brakeline.core.tlog.note import COSIGNATURE, ED25519, VerifierKey
from brakeline.core.tlog.policy import Group
from brakeline.core.treaty import draft_roles, missing_keys, parse_treaty
from vector import Vector, load
from world import DAY, EXAMPLE, PARTIES, STEP_FLOP, World, edited, enrolled, key, log_key, treaty, treaty_text

TEXT = treaty_text()
NEUTRAL = "AQEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"  # the point anybody can sign for


def line_of(old: str, new: str) -> int:
    """The first line in which two texts differ."""
    pairs = zip(old.split("\n"), new.split("\n"), strict=False)
    return next(i for i, (a, b) in enumerate(pairs, 1) if a != b)


def setting(text: str, name: str) -> int:
    return next(i for i, x in enumerate(text.split("\n"), 1) if re.match(rf"{name}\s*=", x))


def refusal(text: str) -> str:
    with pytest.raises(Malformed) as e:
        parse_treaty(text.encode())
    return str(e.value)


def check(text: str, line: int, *words: str) -> None:
    message = refusal(text)
    assert message.startswith(f"treaty line {line}: "), message
    for word in words:
        assert word in message


# --- what is read


@load("treaty", 18)
def test_treaty_vectors(v: Vector) -> None:
    with v.expected():
        t = parse_treaty(v.bytes("text"))
        assert v.output == {
            "digest": t.digest,
            "parties": list(t.parties),
            "permit_allowance": str(t.permit_allowance),
            "lift_delay": t.lift_delay,
        }


def test_the_example_parses_once_the_parties_have_entered_their_keys() -> None:
    draft = EXAMPLE.read_bytes()
    assert missing_keys(draft) == PARTIES
    assert draft_roles(draft, "delta") == {"log", "witness", "permit-signer", "inspector"}
    with pytest.raises(Malformed, match=r"^treaty line \d+: party.alpha.key: no key entered") as e:
        parse_treaty(draft)
    assert "keygen alpha" in e.value.hint
    full = enrolled(draft.decode()).encode()
    t = parse_treaty(full)
    assert missing_keys(full) == ()
    assert tuple(t.parties) == PARTIES
    assert (t.text, len(t.digest)) == (full, 64)
    with pytest.raises(Malformed, match="entered its keys already"):
        draft_roles(full, "delta")
    with pytest.raises(Malformed, match="no party 'omega'"):
        draft_roles(draft, "omega")


def test_values_are_read_exactly() -> None:
    t = treaty()
    assert (t.name, t.version, t.faults, t.trip, t.permit, t.lift, t.witnesses) == ("demo", 1, 1, 2, 3, 3, 3)
    assert (t.covered_above, t.prohibited_above, t.permit_allowance) == (10**10, 10**18, 6 * 10**9)
    assert (t.permit_lifetime, t.heartbeat, t.stale_after, t.lift_delay) == (10, 1, 5, 2)
    assert (t.p_catch, t.f_cheat, t.residual) == (Decimal("0.95"), Decimal("0.5"), Decimal("0.05"))
    clocks = (t.incident_clock, t.notification_clock, t.report_clock, t.amendment_notice, t.withdrawal_notice)
    assert clocks == (3 * DAY, 14 * DAY, 15 * DAY, 30 * DAY, 180 * DAY)
    assert t.effective == 1_767_225_600
    assert [x.gauge_class for x in t.triggers] == ["activity", "capability", "safety"]
    assert t.signer_keys == {key(p, "signer").public: p for p in PARTIES}
    assert t.policy.quorum == Group(3, PARTIES)
    assert [k for k, _ in t.policy.logs] == [log_key("delta")]


def test_no_float_stands_between_text_and_compute() -> None:
    assert units.flop("123456789012345678901234567890123 FLOP") == 123456789012345678901234567890123
    assert units.flop("1e25 FLOP") == 10**25
    for text in ("1.0000000000000000000000000000001 TFLOP", "0.5 FLOP", "1e61 FLOP", "1 flop", "1FLOP", "-1 FLOP"):
        with pytest.raises(Malformed):
            units.flop(text)


def test_the_digest_is_that_of_the_exact_bytes() -> None:
    assert parse_treaty(TEXT.encode() + b"# a remark\n").digest != treaty().digest


def test_the_legal_text_shows_every_rule_and_value() -> None:
    t = treaty()
    text = render(t)
    found = rules(t)
    assert {id_.split(".")[0] for id_ in found} == set(ARTICLES)
    assert set(found) >= PEOPLE
    for id_, sentence in found.items():
        assert f"{id_:>4} {sentence}\n" in text
    assert [line.split(".")[0] for line in text.split("\n") if line.startswith("Article")] == [
        f"Article {i}" for i in ARTICLES
    ]
    for shown in ("180 days", "3 days", "1.00e+10 FLOP", "95 %", t.digest, "2026-01-01 00:00 UTC"):
        assert shown in text


def test_thresholds_are_crossed_above_and_not_at() -> None:
    # Treaty 3.1, 3.3: "exceeds" and "above", at the value, one below and one beyond.
    world = World(scope_prohibited_above='"20 GFLOP"')
    world.bind()
    for name, steps, covered in (("below", 9, False), ("at", 10, False), ("above", 11, True)):
        assert world.declare("alpha", name=name, steps=steps, flop_per_step=str(STEP_FLOP)).covered is covered
    for name, steps, allowed in (("below-2", 19, True), ("at-2", 20, True), ("above-2", 21, False)):
        run = world.opened("beta", name=name, steps=steps)
        if allowed:
            world.permit(run)
        else:
            with pytest.raises(BrakelineError, match=r"Treaty 3.3|limit"):
                world.permit(run)
    world.check()


# --- the schema


@pytest.mark.parametrize(
    ("path", "value", "number"),
    [
        ("treaty.version", '"1"', 0),
        ("treaty.effective", '"2026-01-01T00:00:00Z"x', 0),
        ("treaty.effective", "2026-01-01", 0),
        ("quorum.trip", "2.0", 0),
        ("scope.covered_above", "10", 0),
        ("scope.exempt", '"inference"', 0),
        ("brake.findings_trip", "1", 0),
        ("brake.trigger.class", '"capabilities"', 1),
        ("brake.trigger.at_least", '"4"', 1),
        ("brake.trigger.unit", "4", 2),
        ("lift.conditions", '["stopped", "forgiven"]', 0),
        ("audit.update_error", '"5 %"', 0),
        ("party.beta.roles", '["lab", "king"]', 0),
        ("party.gamma.represents", "3", 0),
    ],
)
def test_a_wrong_type_names_its_line(path: str, value: str, number: int) -> None:
    text = edited(TEXT, path, value, number=number)
    if value.endswith("x"):
        assert re.search(rf"not TOML.*line {line_of(TEXT, text)}\b", refusal(text))
    else:
        check(text, line_of(TEXT, text), path.rpartition(".")[2])


def settings() -> list[tuple[int, int, str]]:
    """Of every key in the treaty: the line of its table, its own line, its name."""
    found, opened = [], 0
    for number, line in enumerate(TEXT.split("\n"), 1):
        if line.startswith("["):
            opened = number
        elif match := re.match(r"(\w+)\s*=", line):
            found.append((opened, number, match[1]))
    return found


def test_every_key_must_be_there_and_no_other() -> None:
    lines = TEXT.split("\n")
    assert len(settings()) > 50
    for table, line, name in settings():
        before, own, after = lines[: line - 1], lines[line - 1], lines[line:]
        misspelt = own.replace(name, name + "x", 1)
        check("\n".join([*before, misspelt, *after]), line, f"unknown field `{name}x`")
        if name not in ("represents", "growth", "lineage_gate"):  # without them, nobody is bound to anything more
            check("\n".join(before + after), table, name)


@pytest.mark.parametrize(
    "table", ["treaty", "quorum", "scope", "lift", "permit", "log", "audit", "clocks", "party", "brake"]
)
def test_every_table_must_be_there(table: str) -> None:
    kept, here = [], False
    for line in TEXT.split("\n"):
        if line.startswith("["):
            here = line.strip("[] ").split(".")[0] == table
        if not here:
            kept.append(line)
    assert f"`{table}`" in refusal("\n".join(kept))


def test_text_that_is_no_treaty() -> None:
    assert refusal("") == "treaty line 1: treaty: Object missing required field `treaty`"
    assert "not TOML" in refusal("[treaty]\n[treaty]\n")
    assert "not TOML" in refusal("x = " + "9" * 5000)
    with pytest.raises(Malformed):
        parse_treaty(b"x = " + b"[" * 5000)
    with pytest.raises(Malformed, match="not UTF-8 at byte 5"):
        parse_treaty(b'x = "\xff"')
    check(TEXT.replace("[party.alpha]", "[[party.alpha]]"), TEXT[: TEXT.index("[party.alpha]")].count("\n") + 1)


# --- the rules


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("treaty.name", '"Demo"', "lowercase"),
        ("treaty.title", '""', "not empty"),
        ("treaty.title", '"Agreement\\n 4.1 The brake never trips."', "printable"),
        ("treaty.version", "0", "count from 1"),
        ("treaty.effective", "2026-01-01T00:00:00", "time zone"),
        ("treaty.effective", "0001-01-01T00:00:00+14:00", "between 1970"),
        ("treaty.effective", "9999-12-31T23:59:59-14:00", "between 1970"),
        ("quorum.faults", "-1", "negative"),
        ("quorum.faults", "2", "n >= 3f+1 (Treaty 1.3)"),
        ("quorum.faults", "18446744073709551616", "(Treaty 1.3)"),
        ("quorum.trip", "1", "2..3: f+1 to n-f (Treaty 4.1)"),
        ("quorum.trip", "4", "2..3: f+1 to n-f (Treaty 4.1)"),
        ("quorum.permit", "2", "3..3: ⌊(n+f)/2⌋+1 to n-f (Treaty 5.2)"),
        ("quorum.permit", "4", "3..3: ⌊(n+f)/2⌋+1 to n-f (Treaty 5.2)"),
        ("quorum.lift", "2", "3..3 (Treaty 8.1)"),
        ("quorum.lift", "4", "3..3 (Treaty 8.1)"),
        ("quorum.witnesses", "2", "3..3: ⌊(n+f)/2⌋+1 to n-f (Treaty 6.1)"),
        ("quorum.witnesses", "4", "3..3: ⌊(n+f)/2⌋+1 to n-f (Treaty 6.1)"),
        ("scope.covered_above", '"10GFLOP"', "not a quantity"),
        ("scope.covered_above", '"10 GiB"', "not an amount of compute"),
        ("scope.covered_above", '"10 h"', "not an amount of compute"),
        ("scope.covered_above", '"٣ GFLOP"', "not a quantity"),
        ("scope.covered_above", '"1e-3 GFLOP"', "not a quantity"),
        ("scope.prohibited_above", '"10 GFLOP"', "greater than scope.covered_above (Treaty 3.3)"),
        ("scope.prohibited_above", '"9 GFLOP"', "greater than scope.covered_above (Treaty 3.3)"),
        ("scope.exempt", '["inference", ""]', "not empty"),
        ("lift.conditions", '["stopped", "stopped"]', "once"),
        ("lift.delay", '"2 FLOP"', "not a duration"),
        ("permit.lifetime", '"0 s"', "(Treaty 5.3)"),
        ("permit.lifetime", '"0.5 s"', "not a whole number of seconds"),
        ("permit.allowance", '"0 FLOP"', "(Treaty 5.4)"),
        ("log.heartbeat", '"1 fortnight"', "not a duration"),
        ("log.stale_after", '"1 s"', "(Treaty 6.3)"),
        ("audit.p_catch", '"100 %"', "(Treaty 7.4)"),
        ("audit.p_catch", '"0 %"', "(Treaty 7.4)"),
        ("audit.p_catch", '"0.95"', "not a quantity"),
        ("audit.f_cheat", '"0 %"', "(Treaty 7.4)"),
        ("audit.f_cheat", '"101 %"', "not a share"),
        ("audit.segment_steps", "0", "at least one step"),
        ("audit.head_every", "0", "head"),
        ("audit.update_error", "nan", "(Treaty 7.5)"),
        ("audit.update_error", "1.0", "(Treaty 7.5)"),
        ("audit.inspectors", "1", "2..3: f+1, and a lab never inspects itself (Treaty 7.7)"),
        ("audit.inspectors", "4", "(Treaty 7.7)"),
        ("audit.adjudicators", "1", "(Treaty 7.7)"),
        ("clocks.withdrawal", '"180 days"', "not a duration"),
        ("party.beta.roles", '["lab", "lab", "witness", "permit-signer", "inspector"]', "once (Treaty 1.2)"),
        ("party.beta.roles", '["lab", "witness", "inspector"]', "3 parties are permit-signer"),
        ("party.beta.represents", '"a lab\\u2028x"', "printable"),
        ("party.beta.key", '""', "no key entered"),
        ("party.beta.key", f'"{NEUTRAL}"', "small order"),
        ("party.beta.key", '"AQ=="', "32 bytes"),
        ("party.beta.witness_key", f'"{log_key("delta").text}"', "type 04, not 01"),
        ("party.beta.witness_key", '"beta"', "not a verifier key"),
    ],
)
def test_a_broken_rule_names_its_line(path: str, value: str, rule: str) -> None:
    text = edited(TEXT, path, value)
    line = line_of(TEXT, text)
    if "permit-signer" in rule:  # then the key that the role no longer needs is what is wrong first
        check(text, line + 3, "a key for a role the party does not have (Treaty 1.2)")
        signer = f'signer_key = "{key("beta", "signer").public.text}"\n'
        text = text.replace(signer, "")
        line = setting(text, "permit")
    check(text, line, rule)


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("brake.trigger.gauge", '"authorship"', "one trigger a gauge (Treaty 4.2)"),
        ("brake.trigger.gauge", '""', "not empty"),
        ("brake.trigger.unit", '"ratio\\n"', "printable"),
        ("brake.trigger.at_least", "nan", "finite"),
        ("brake.trigger.at_least", "inf", "finite"),
    ],
)
def test_a_broken_trigger_names_its_line(path: str, value: str, rule: str) -> None:
    text = edited(TEXT, path, value, number=1)
    check(text, line_of(TEXT, text), "brake.trigger[1].", rule)


def test_keys_serve_one_party_and_one_purpose() -> None:
    # Treaty 1.1: a cosignature covers no name, so one key under two names would be one party counted twice.
    raw = key("alpha").public
    for path, text in {
        "party.beta.key": raw.text,
        "party.alpha.signer_key": raw.text,
        "party.gamma.signer_key": key("beta", "signer").public.text,
        "party.beta.witness_key": VerifierKey("other.example", COSIGNATURE, key("alpha", "witness").public).text,
        "party.alpha.witness_key": VerifierKey("alpha.example", COSIGNATURE, raw).text,
        "party.delta.log_key": VerifierKey("log.example/demo", ED25519, key("beta", "witness").public).text,
    }.items():
        changed = edited(TEXT, path, f'"{text}"')
        check(changed, line_of(TEXT, changed), "the same key as party.", "(Treaty 1.1)")


def test_a_key_comes_with_its_role() -> None:
    text = TEXT.replace("[party.beta]\n", f'[party.beta]\nlog_key = "{log_key("beta").text}"\n')
    check(text, line_of(TEXT, text), "a key for a role the party does not have (Treaty 1.2)")


def test_one_party_keeps_the_log() -> None:
    assert "exactly one party keeps the log, not 0" in refusal(
        edited(TEXT, "party.delta.roles", '["witness", "permit-signer", "inspector"]').replace(
            f'log_key = "{log_key("delta").text}"\n', ""
        )
    )


@pytest.mark.parametrize("name", ["Beta", "beta beta", "2beta", "bêta", "a.b", "none", "b" * 42])
def test_names_of_parties(name: str) -> None:
    text = TEXT.replace("[party.beta]", f'[party."{name}"]')
    check(text, line_of(TEXT, text), "name")


def test_urls_are_one_word() -> None:
    for field in ("log_url", "witness_url", "signer_url"):
        text = TEXT.replace("[party.delta]\n", f'[party.delta]\n{field} = "http://a b"\n')
        check(text, line_of(TEXT, text), field, "one word")


def test_seven_parties_with_two_faults() -> None:
    # The sheet's figures: n=7, f=2 gives 3 and 5; every other value is refused.
    names = [f"p{i}" for i in range(7)]
    draft = EXAMPLE.read_text()
    draft = draft[: draft.index("[party.alpha]")]
    for i, name in enumerate(names):
        roles = '"log", ' if i == 0 else ""
        draft += f'[party.{name}]\nroles = [{roles}"witness", "permit-signer", "inspector"]\n'
    text = enrolled(draft)
    for path, value in {
        "quorum.faults": 2,
        "quorum.trip": 3,
        "quorum.permit": 5,
        "quorum.lift": 5,
        "quorum.witnesses": 5,
        "audit.inspectors": 3,
        "audit.adjudicators": 3,
    }.items():
        text = edited(text, path, str(value))
    assert len(parse_treaty(text.encode()).parties) == 7
    ok = {"trip": {3, 4, 5}, "permit": {5}, "lift": {5}, "witnesses": {5}}
    for name, good in ok.items():
        for value in range(9):
            changed = edited(text, f"quorum.{name}", str(value))
            if value in good:
                parse_treaty(changed.encode())
            else:
                check(changed, setting(changed, name), "Treaty")


def test_a_policy_has_at_most_128_witnesses() -> None:
    # What only the policy of the log refuses is refused at once, not when the first checkpoint comes.
    extra = "".join(f'[party.w{i}]\nroles = ["witness"]\n' for i in range(125))
    text = enrolled(EXAMPLE.read_text() + extra)
    for path, value in {"quorum.witnesses": 66, "quorum.lift": 66}.items():
        text = edited(text, path, str(value))
    assert "at most 128 witness" in refusal(text)


def test_values_at_their_limits() -> None:
    for path, value in {"audit.f_cheat": '"100 %"', "audit.segment_steps": "1", "audit.head_every": "1"}.items():
        assert parse_treaty(edited(TEXT, path, value).encode())


# --- nothing else comes out


@given(st.binary(max_size=200))
def test_random_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_treaty(data)


SCRAPS = [b"", b"\n", b'"', b"[", b"]", b"= nan", b"\xff", b"[[party.x]]", b"'''", b"1e999 FLOP", b"= -1 #", b"."]


def outcome(text: bytes) -> str:
    """What a reader is told; a treaty that is accepted can be rendered and has a policy."""
    try:
        t = parse_treaty(text)
    except Malformed as e:
        return str(e)
    assert t.policy
    assert t.digest in render(t)
    return "ok"


@given(st.data())
def test_a_bent_treaty_is_read_or_malformed(data: st.DataObject) -> None:
    text = TEXT.encode()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.sampled_from(SCRAPS)) + text[at + cut :]
    assert re.match(r"ok$|treaty (line \d+: |is )", outcome(text))


LINES = TEXT.split("\n")
VALUES = ["0", "-1", "2", "4.0", "nan", "inf", "true", '""', '"x"', '"0 s"', '"1e60 FLOP"', "[]", "{}", '["lab"]']


@given(st.lists(st.tuples(st.integers(0, len(LINES) - 1), st.sampled_from(VALUES)), min_size=1, max_size=2))
def test_a_treaty_with_other_values_is_read_or_malformed(changes: list[tuple[int, str]]) -> None:
    lines = list(LINES)
    for at, value in changes:
        if match := re.match(r"(\w+)\s*=", lines[at]):
            lines[at] = f"{match[1]} = {value}"
    message = outcome("\n".join(lines).encode())
    if message != "ok":
        match = re.match(r"treaty line (\d+): (.*)", message)
        assert match
        # The line is one of those changed, or the rule relates it to another.
        assert int(match[1]) - 1 in {at for at, _ in changes} or "Treaty" in match[2] or "key" in match[2]

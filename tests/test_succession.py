"""Articles 11 and 12: texts that follow one another, keys that change, and what attacks make of them (S-01 ff.)."""

import pytest

from brakeline.core.brake import Phase
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.grant import open_past
from brakeline.core.permit import open_permit
from brakeline.core.pledge import Assent
from brakeline.core.state import apply
from brakeline.core.state import events as e
from brakeline.core.state.codec import digest
from brakeline.core.state.said import authenticate
from brakeline.core.treaty import articles_digest, parse_treaty, rules
from brakeline.core.treaty.parties import digest_of
from succession import (
    NOTICE,
    adopted,
    assent,
    joining,
    next_text,
    propose,
    revoke,
    rotate,
    succeeding,
    turned,
)
from world import DAY, LABS, PARTIES, World, edited, key, violation

FOUR = ("alpha", "beta", "gamma", "delta")
VOTE = {"motion": "trip", "epoch": 0, "reason": "x"}


def replaced(world: World, **changes: str):
    """The next text with gamma out and epsilon in: one of four witnesses changes."""
    return next_text(world.treaty, drop="gamma", join="epsilon", **changes)


# --- Treaty 11.1: adoption


def test_a_text_is_adopted_where_enough_have_assented_and_not_before() -> None:
    world = succeeding()
    next_ = next_text(world.treaty, **{"quorum.trip": "3"})
    assert propose(world, next_).reason is None
    for party in ("alpha", "beta", "gamma"):
        assert world.state.chain.coming is None
        assert assent(world, next_, party)[0].reason is None
    assert world.state.chain.coming is None, "delta is in force, and is kept: it must assent"
    outcome = assent(world, next_, "delta")[0]
    assert any(isinstance(x, e.Adopted) for x in outcome.events)
    assert world.treaty.version == 1
    world.check()


def test_a_refuser_is_left_out_and_has_no_veto() -> None:
    world = succeeding()
    turned(world, replaced(world))
    assert world.state.members.seats == {"alpha", "beta", "delta", "epsilon"}
    world.check()


def test_signatures_alone_adopt_nothing() -> None:
    """Assents that are not in the log are nothing: S-04 begins here."""
    world = succeeding()
    next_ = next_text(world.treaty)
    outcome = assent(world, next_, "alpha")[0]
    assert outcome.reason is Reason.FOREIGN


def test_two_rivals_the_first_adopted_goes() -> None:
    # S-04
    world = succeeding()
    one, two = next_text(world.treaty, **{"quorum.trip": "3"}), next_text(world.treaty, **{"lift.delay": '"9 s"'})
    assert propose(world, one, "alpha").reason is None
    assert propose(world, two, "beta").reason is None
    assent(world, two, *FOUR)
    assert world.state.chain.coming is not None
    assert world.state.chain.coming.ground.digest == two.digest
    assert [o.reason for o in assent(world, one, *FOUR)] == [Reason.REPLAYED] * 4
    assert propose(world, one, "gamma").reason is Reason.PENDING
    world.check()


@pytest.mark.parametrize("version", ["1", "3", "7"])
def test_versions_follow_one_another(version: str) -> None:
    # S-05
    world = succeeding()
    odd = next_text(world.treaty, **{"treaty.version": version})
    assert propose(world, odd).reason is Reason.ROLLBACK


def test_rules_never_fall() -> None:
    # S-32
    world = succeeding()
    text = next_text(world.treaty).text.decode().replace("rules = 2 ", "rules = 1 ")
    text = "\n".join(x for x in text.split("\n") if not x.startswith(("next =", "signer_next =")))
    outcome = world.log("alpha", "amend", {"amends": world.treaty.digest, "text": text, "joining": []})
    assert outcome.reason is Reason.ROLLBACK
    world.check()


def test_rules_that_nobody_has_are_no_next_text() -> None:
    # S-32
    world = succeeding()
    text = next_text(world.treaty).text.decode().replace("rules = 2 ", "rules = 9 ")
    outcome = world.log("alpha", "amend", {"amends": world.treaty.digest, "text": text, "joining": []})
    assert outcome.reason is Reason.MALFORMED


def test_what_is_not_counted_adopts_nothing() -> None:
    # S-06: q-1 and a revoked, an expired, an equivocating, a foreign, a doubled assent
    world = succeeding()
    next_ = replaced(world)
    propose(world, next_)
    assent(world, next_, "alpha", "beta")
    assert world.state.chain.coming is None
    assert assent(world, next_, "beta")[0].reason is None  # twice
    world.log("delta", "assent", {"text": next_.digest, "articles": articles_digest(world.treaty)})  # other articles
    world.append(world.statement("delta", "vote", {"motion": "trip", "epoch": 9, "reason": "a"}, seq=77))
    world.append(world.statement("delta", "vote", {"motion": "trip", "epoch": 9, "reason": "b"}, seq=77))
    assert world.state.members.equivocators == {"delta"}
    assert assent(world, next_, "delta", seq=90)[0].reason is Reason.EQUIVOCATION
    assert world.state.chain.coming is None
    world.check()


def test_an_assent_expires() -> None:
    # S-06
    world = succeeding()
    next_ = replaced(world)
    propose(world, next_)
    assent(world, next_, "alpha", expires=world.now + 2)
    world.stamp(3)
    assent(world, next_, "beta", "delta")
    assert world.state.chain.coming is None
    assent(world, next_, "alpha")
    assert world.state.chain.coming is not None
    world.check()


def test_a_revoked_assent_falls() -> None:
    # S-06, S-19
    world = succeeding()
    next_ = replaced(world)
    propose(world, next_, "beta")
    assent(world, next_, "alpha")
    revoke(world, "alpha", "beta", "gamma", "delta", since=world.state.size - 1)
    assent(world, next_, "beta", "delta")
    assert world.state.chain.coming is None
    assert rotate(world, "alpha").reason is None
    assent(world, next_, "alpha")
    assert world.state.chain.coming is not None
    world.check()


def test_keys_are_unique_over_the_chain() -> None:
    # S-07
    world = succeeding()
    turned(world, replaced(world))
    back = next_text(world.treaty, drop="epsilon", join="gamma")  # with the keys that it had
    assert propose(world, back).reason is Reason.REUSED_KEY
    back = next_text(world.treaty, drop="epsilon", join="gamma", generation=1)
    world.generation["gamma"] = 10
    turned(world, back)
    world.log("gamma", "pledge", {"condition": "quorum none\n"})
    assert world.vote("trip", "gamma", "alpha")[-1].reason is None
    assert world.phase in (Phase.TRIPPED, Phase.PAUSED)
    world.check()


def test_a_text_cannot_change_a_key_that_its_party_did_not() -> None:
    # S-07
    world = succeeding()
    text = next_text(world.treaty).text.decode()
    stolen = text.replace(key("beta").public.text, key("mallory").public.text)
    outcome = world.log("alpha", "amend", {"amends": world.treaty.digest, "text": stolen, "joining": []})
    assert outcome.reason is Reason.TAMPERED


def test_an_amendment_keeps_the_keeper() -> None:
    world = succeeding()
    text = next_text(world.treaty).text.decode()
    lab = '"lab", "witness", "permit-signer", "inspector"]'
    other = text.replace(f"roles = [{lab}", "ROLES", 1).replace('roles = ["log",', "roles = [")
    other = other.replace("ROLES", f'roles = ["log", {lab}')
    line = next(x for x in text.split("\n") if x.startswith("log_key"))
    other = other.replace(line + "\n", "").replace("[party.alpha]\n", f"[party.alpha]\n{line}\n")
    outcome = world.log("beta", "amend", {"amends": world.treaty.digest, "text": other, "joining": []})
    assert outcome.reason is Reason.PROHIBITED, outcome.text


def test_who_joins_assents_with_its_own_key() -> None:
    world = succeeding()
    next_ = replaced(world)
    good = joining(world, next_, "epsilon")
    for wrong, reason in (
        ([], Reason.MISSING),
        ([good, good], Reason.MISSING),
        ([joining(world, next_, "epsilon", by=key("mallory"))], Reason.UNKNOWN_ISSUER),
        ([joining(world, next_, "epsilon", issuer="zeta")], Reason.FOREIGN),
        ([joining(world, next_, "epsilon", treaty=next_.digest)], Reason.FOREIGN),
        ([joining(world, next_, "epsilon", body={"text": world.treaty.digest, "articles": "ab" * 32})], Reason.FOREIGN),
    ):
        assert propose(world, next_, joining=wrong).reason is reason
    assert propose(world, next_, joining=[good]).reason is None
    world.check()


# --- Treaty 11.2, 11.3: turn and close


def test_a_turn_takes_notice_and_both_quorums() -> None:
    # S-01, S-02, S-09
    world = succeeding()
    next_ = replaced(world)
    adopted(world, next_)
    old = ("alpha", "beta", "gamma", "delta")
    world.now += 1
    world.append(world.checkpoint(by=FOUR))
    assert world.treaty.version == 1, "the notice runs"
    world.now += NOTICE
    world.append(world.checkpoint(by=old[:3]))
    assert world.treaty.version == 1, "the next text's witnesses are not there: two of three"
    assert not world.state.chain.open
    world.append(world.checkpoint(by=("alpha", "beta", "delta", "epsilon")))
    assert world.treaty.version == 2
    assert world.state.chain.open
    turn = world.state.size - 1
    # Between turn and close, a checkpoint needs both.
    for by in (("alpha", "beta", "gamma"), ("alpha", "beta", "epsilon"), ("beta", "delta", "epsilon")):
        outcome = world.append(world.checkpoint(by=by))
        assert outcome.reason is Reason.NO_QUORUM
    world.append(world.checkpoint(by=("alpha", "beta", "delta")))  # q of the old and q of the new
    assert world.state.chain.now.closed == world.state.size - 1 > turn
    outcome = world.append(world.checkpoint(by=("alpha", "beta", "gamma")))
    assert outcome.reason is Reason.NO_QUORUM, "of the next text alone"
    world.append(world.checkpoint(by=("beta", "delta", "epsilon")))
    assert world.state.clock.last is not None
    assert world.state.clock.last.index == world.state.size - 1
    world.check()


def test_new_witnesses_that_never_come_let_the_adoption_lapse() -> None:
    # S-09
    world = succeeding()
    adopted(world, replaced(world))
    world.now += 2 * NOTICE
    outcome = world.append(world.checkpoint(by=("alpha", "gamma", "delta")))
    assert any(isinstance(x, e.Unadopted) for x in outcome.events)
    assert world.state.chain.coming is None
    assert world.treaty.version == 1
    turned(world, next_text(world.treaty))
    world.check()


def test_no_amendment_while_another_is_under_way() -> None:
    # S-10
    world = succeeding()
    adopted(world, replaced(world))
    assert propose(world, next_text(world.treaty)).reason is Reason.PENDING
    world.stamp(NOTICE)
    assert propose(world, next_text(world.treaty)).reason is Reason.PENDING
    world.stamp()
    assert propose(world, next_text(world.treaty)).reason is None
    world.check()


def test_effects_are_by_entry_and_the_text_of_an_entry_follows_from_those_before() -> None:
    # I2, I7
    world = succeeding()
    turned(world, replaced(world))
    turn = world.state.chain.now.turned
    assert world.state.chain.at(turn).treaty.version == 1
    assert world.state.chain.at(turn + 1).treaty.version == 2
    close = world.state.chain.now.closed
    assert [len(world.state.chain.need(k)) for k in (turn, turn + 1, close, close + 1)] == [1, 2, 2, 1]


# --- Treaty 11.4: what goes over


def test_phase_epoch_and_runs_go_over() -> None:
    world = succeeding()
    run = world.finished("alpha")
    world.audit("beta", run, violation())
    world.audit("delta", run, violation())
    assert run.bar is not None
    assert world.phase in (Phase.TRIPPED, Phase.PAUSED)
    epoch, phase = world.state.epoch, world.phase
    turned(world, replaced(world))
    assert (world.state.epoch, run.bar is not None, run.steps) == (epoch, True, 12)
    assert phase in (Phase.TRIPPED, Phase.PAUSED)
    world.check()


def test_a_turn_lifts_nothing() -> None:
    # S-13: votes to lift stand, and the next text asks for fewer of them, and for no condition
    world = succeeding(**{"lift.conditions": '["stopped", "audited"]'})
    world.opened("alpha")
    world.trip()
    for _ in range(70):
        world.stamp()
    assert world.phase is Phase.PAUSED
    next_ = next_text(world.treaty, **{"lift.conditions": "[]", "lift.delay": '"0 s"'})
    world.vote("lift", *LABS)
    before = world.phase
    adopted(world, next_)
    world.stamp(NOTICE)
    assert world.treaty.version == 2
    assert world.phase is Phase.PAUSED
    assert before in (Phase.PAUSED, Phase.LIFTING)
    assert world.voters("lift") == frozenset()
    world.stamp()
    assert world.phase is Phase.PAUSED
    outcome = world.vote("lift", "alpha", treaty=next_.digest)[0]
    assert outcome.reason is None
    world.vote("lift", "beta", "gamma")
    assert world.phase is Phase.CLEAR
    world.check()


def test_a_vote_to_lift_under_the_old_text_is_none() -> None:
    world = succeeding()
    first = world.treaty.digest
    world.trip()
    for _ in range(70):
        world.stamp()
    turned(world, next_text(world.treaty))
    assert world.vote("lift", "alpha", treaty=first)[0].reason is Reason.SUPERSEDED
    world.check()


def test_lifting_falls_back_where_a_text_turns() -> None:
    # S-13, while lifting
    world = succeeding(**{"lift.conditions": "[]", "lift.delay": '"60 s"'})
    world.trip()
    for _ in range(70):
        world.stamp()
    world.vote("lift", *LABS)
    assert world.phase is Phase.LIFTING
    adopted(world, next_text(world.treaty))
    world.stamp(NOTICE)
    assert world.treaty.version == 2
    assert world.phase is Phase.PAUSED
    world.check()


def test_votes_to_trip_count_across_a_turn() -> None:
    # S-14: before and after it, under either text; a leaver's and a joiner's
    world = succeeding()
    first = world.treaty.digest
    world.vote("trip", "beta")
    next_ = replaced(world)
    adopted(world, next_)
    joiner = world.statement("epsilon", "vote", {"motion": "trip", "epoch": 0, "reason": "x"})
    with pytest.raises(Refused) as caught:
        authenticate(world.state, joiner)
    assert caught.value.reason is Reason.NOT_YET_VALID
    assert caught.value.later
    world.said[("epsilon", "brake")].pop()
    world.stamp(NOTICE)
    assert world.voters("trip") == {"beta"}
    assert world.vote("trip", "gamma")[0].reason is Reason.LEFT
    assert world.phase is Phase.CLEAR
    assert world.vote("trip", "delta", treaty=first)[0].reason is None
    assert world.phase in (Phase.TRIPPED, Phase.PAUSED)
    world.check()


def test_a_turn_may_trip() -> None:
    """Votes that were one too few are enough under the next text."""
    world = succeeding(**{"quorum.trip": "3"})
    world.vote("trip", "alpha", "beta")
    assert world.phase is Phase.CLEAR
    adopted(world, next_text(world.treaty, **{"quorum.trip": "2"}))
    world.stamp(NOTICE)
    assert world.treaty.version == 2
    assert world.phase is Phase.TRIPPED
    assert world.of(e.Tripped)[-1].entry == world.state.chain.now.turned
    world.check()


def test_a_joiner_votes_after_the_turn() -> None:
    world = succeeding()
    turned(world, replaced(world))
    world.log("epsilon", "pledge", {"condition": "quorum none\n"})
    assert world.vote("trip", "epsilon", "alpha")[-1].reason is None
    assert world.phase in (Phase.TRIPPED, Phase.PAUSED)
    world.check()


def test_old_permits_hold_up_the_pause_until_they_have_lapsed() -> None:
    # S-12: the next text shortens permits, and a trip follows
    world = succeeding(**{"permit.lifetime": '"60 s"'})
    run = world.opened("alpha")
    permit = world.sealed(world.request(run))
    old = world.lapse
    turned(world, next_text(world.treaty, **{"permit.lifetime": '"2 s"', "log.stale_after": '"3 s"'}))
    end = world.state.chain.now.since
    world.trip()
    world.stamp()
    assert world.state.ballot.lapse == end + old
    assert world.state.ballot.lapse > world.now + world.lapse
    # The permit of the old text is still one, for what was trained under it.
    text = world.state.chain.texts[0].treaty
    open_permit(permit, text, world.state.keyring.signers_at(text, 5))
    world.check()


def test_a_text_that_frees_nobody() -> None:
    """What was covered when it was declared stays so, whatever the next text's thresholds."""
    world = succeeding()
    run = world.opened("alpha")
    assert run.covered
    turned(world, next_text(world.treaty, **{"scope.tier.above": '"1 PFLOP"'}))
    assert run.covered
    assert not world.declare("alpha", name="later").covered
    world.check()


def test_a_gauge_that_is_gone_and_a_threshold_that_falls() -> None:
    world = succeeding()
    world.read("lineage", 0.001, "alpha", "beta")
    world.read("speedup", 2.0, "alpha", "beta")
    assert world.phase is Phase.CLEAR
    adopted(world, next_text(world.treaty, **{"brake.trigger.at_least": "0.1"}))  # of authorship, which nobody read
    world.stamp(NOTICE)
    assert {k[0] for k in world.state.readings.shown} == {"lineage", "speedup"}
    text = world.treaty.text.decode()
    cut = text.index("[[brake.trigger]]\ngauge = \"speedup\"")
    less = text[:cut] + text[text.index("[[brake.trigger]]", cut + 5) :]
    world.stamp()
    turned(world, parse_treaty(edited(less, "treaty.version", "3").encode()))
    assert {k[0] for k in world.state.readings.shown} == {"lineage"}
    world.check()


# --- Treaty 11.5: who leaves


def test_a_leaver_keeps_its_duties_and_its_place() -> None:
    # S-22
    world = World(**{"clocks.amendment": f'"{NOTICE} s"', "clocks.withdrawal": '"180 d"'})
    end = world.now + 400 * DAY
    world.bind("alpha", "delta", expires=end)
    world.bind("beta", condition="group g all gamma alpha\nquorum g\n", expires=end)
    world.bind("gamma", condition="group g all beta alpha\nquorum g\n", expires=end)
    world.stamp()
    assert world.state.active == set(PARTIES)
    run = world.opened("gamma")
    adoption = world.now
    turned(world, replaced(world, **{"clocks.withdrawal": '"1 d"'}))
    assert world.state.active == set(PARTIES), "no text shortens a notice"
    assert world.state.voice == {"alpha", "beta", "delta"}
    assert world.state.concerned(run.now)
    assert world.head(run, "stopped").reason is None
    assert world.log("gamma", "declaration", world.declaration(name="more")).reason is None
    assert world.read("speedup", 9.0, "gamma")[0].reason is Reason.LEFT
    said = world.log("gamma", "amend", {"amends": world.treaty.digest, "text": "x", "joining": []})
    assert said.reason is Reason.LEFT
    world.stamp(179 * DAY)
    assert {"beta", "gamma"} <= world.state.active
    world.stamp(adoption + 180 * DAY - world.now + 10)
    assert world.state.active & {"beta", "gamma"} == set(), "beta's condition named one that is gone"
    assert world.log("beta", "pledge", {"condition": "group g all gamma\nquorum g\n"}).reason is Reason.MALFORMED
    world.check()


# --- Treaty 11.6: who is re-admitted


def test_an_equivocator_comes_back_by_name_with_a_new_key() -> None:
    # S-21
    world = succeeding()
    for text in ("a", "b"):
        world.append(world.statement("gamma", "vote", {"motion": "trip", "epoch": 9, "reason": text}, seq=50))
    assert world.state.members.equivocators == {"gamma"}
    same = next_text(world.treaty)
    assert propose(world, same).reason is Reason.EQUIVOCATION
    fresh = next_text(world.treaty, drop="gamma", join="gamma", generation=1)
    turned(world, fresh)
    assert world.state.members.equivocators == frozenset()
    world.generation["gamma"] = 10
    old = world.append(world.statement("gamma", "vote", VOTE, by=key("gamma"), seq=60))
    assert old.reason is Reason.RETIRED_KEY
    world.log("gamma", "pledge", {"condition": "quorum none\n"})
    assert world.vote("trip", "gamma")[0].reason is None
    assert world.voters("trip") == {"gamma"}
    world.check()


# --- Treaty 12.1: keys change


def test_a_key_changes_by_the_one_that_was_committed_to() -> None:
    # S-15, S-16
    world = succeeding()
    far = world.append(world.statement("alpha", "vote", {**VOTE, "epoch": 9}, seq=2**53 - 2))
    assert far.reason is Reason.REPLAYED  # for its epoch; its number is spent, and the owner muted
    assert world.append(world.statement("alpha", "vote", VOTE, seq=9)).reason is Reason.REPLAYED
    assert rotate(world, "alpha").reason is None
    assert world.vote("trip", "alpha")[0].reason is None
    assert world.voters("trip") == {"alpha"}
    assert world.state.members.equivocators == frozenset()
    late = world.append(world.statement("alpha", "vote", VOTE, by=key("alpha"), seq=9))
    assert late.reason is Reason.RETIRED_KEY
    assert rotate(world, "alpha").reason is None
    world.check()


def test_a_thief_cannot_rotate() -> None:
    # S-17
    world = succeeding()
    mine = key("mallory").public.text
    body = {"purpose": "statement", "key": mine, "next": "ab" * 32}
    assert world.append(world.statement("alpha", "key", body)).reason is Reason.TAMPERED  # with the stolen key
    assert world.append(world.statement("alpha", "key", body, by=key("mallory"))).reason is Reason.UNKNOWN_ISSUER
    right = {"purpose": "statement", "key": key("alpha", "statement 1").public.text, "next": "ab" * 32}
    assert world.append(world.statement("alpha", "key", right, by=key("mallory"))).reason is Reason.UNKNOWN_ISSUER
    assert rotate(world, "alpha").reason is None
    world.check()


def test_what_is_dated_before_a_change_and_logged_after_it_is_nothing() -> None:
    # S-18
    world = succeeding()
    early = world.statement("alpha", "vote", {"motion": "trip", "epoch": 0, "reason": "x"}, by=key("alpha"), seq=40)
    rotate(world, "alpha")
    assert world.append(early).reason is Reason.RETIRED_KEY
    revoke(world, "beta", "alpha", "gamma", "delta")
    early = world.statement("beta", "vote", {"motion": "trip", "epoch": 0, "reason": "x"}, by=key("beta"), seq=40)
    assert world.append(early).reason is Reason.RETIRED_KEY
    world.check()


def test_evidence_by_an_old_key_is_none() -> None:
    """Whoever has an old key can sign two things with it: that is no word of its owner."""
    # I9
    world = succeeding()
    two = [world.statement("alpha", "vote", {"motion": "trip", "epoch": 9, "reason": r}, seq=40) for r in "ab"]
    rotate(world, "alpha")
    first, second = sorted(x.decode() for x in two)
    assert world.log("beta", "evidence", {"first": first, "second": second}).reason is Reason.UNKNOWN_ISSUER
    assert world.state.members.equivocators == frozenset()
    world.check()


def test_a_permit_key_changes_too() -> None:
    world = succeeding()
    run = world.opened("beta")
    permit = world.request(run)
    old = world.sealed(permit)
    new = key("alpha", "signer 1")
    body = {"purpose": "signer", "key": new.public.text, "next": "cd" * 32}
    assert world.log("alpha", "key", {**body, "key": key("mallory").public.text}).reason is Reason.TAMPERED
    assert world.log("alpha", "key", body).reason is None
    with pytest.raises(Refused) as caught:
        open_permit(old, world.treaty, world.state.signers)
    assert caught.value.reason is Reason.NO_QUORUM
    assert new.public in world.state.signers
    open_permit(old, world.treaty, world.state.keyring.signers_at(world.treaty, permit.size))
    world.check()


def test_a_key_that_is_known_is_no_next_key() -> None:
    # S-07
    world = succeeding()
    for known in (key("beta"), key("alpha"), key("alpha", "statement 1")):
        assert rotate(world, "alpha", next=digest_of(known.public)).reason is Reason.REUSED_KEY
    assert rotate(world, "alpha", next="xyz").reason is Reason.MALFORMED
    assert rotate(world, "alpha").reason is None
    world.check()


# --- Treaty 12.2: keys are revoked


def test_a_revocation_undoes_nothing_and_ends_what_stands() -> None:
    # S-19
    world = succeeding(**{"quorum.trip": "3"})
    run = world.opened("alpha")
    world.read("speedup", 2.0, "alpha", "beta")
    since = world.state.size
    world.vote("trip", "alpha")
    world.read("authorship", 0.1, "alpha", "beta")
    before = digest(world.state)
    epoch, phase, bars = world.state.epoch, world.phase, run.bar
    *_, last = revoke(world, "alpha", "beta", "gamma", "delta", since=since)
    assert any(isinstance(x, e.Revoked) for x in last.events)
    assert world.voters("trip") == frozenset()
    left = {k[0]: set(shown.by) for k, shown in world.state.readings.shown.items()}
    assert left == {"speedup": {"alpha", "beta"}, "authorship": {"beta"}}
    assert (world.state.epoch, world.phase, run.bar) == (epoch, phase, bars)
    assert before != digest(world.state)
    assert world.vote("trip", "alpha")[0].reason is Reason.RETIRED_KEY
    world.said[("alpha", "brake")].pop()
    assert rotate(world, "alpha").reason is None  # the owner comes back
    assert world.vote("trip", "alpha")[0].reason is None
    world.check()


def test_an_earlier_vote_stands() -> None:
    world = succeeding(**{"quorum.trip": "3"})
    world.vote("trip", "alpha")
    revoke(world, "alpha", "beta", "gamma", "delta", since=world.state.size)
    assert world.voters("trip") == {"alpha"}
    world.check()


def test_a_revocation_takes_a_quorum_that_says_the_same() -> None:
    # S-20
    world = succeeding()
    revoke(world, "alpha", "beta", "gamma", since=4)
    assert revoke(world, "alpha", "gamma", since=4)[0].reason is Reason.DUPLICATE
    revoke(world, "alpha", "delta", since=5)
    assert world.state.keyring.of["alpha"].statement.key
    revoke(world, "alpha", "delta", since=4)
    assert not world.state.keyring.of["alpha"].statement.key
    assert revoke(world, "beta", "gamma", "delta")[0].reason is Reason.NO_QUORUM, "three decide, three can speak"
    world.check()


def test_a_party_revokes_its_own_key_alone() -> None:
    world = succeeding()
    assert revoke(world, "alpha", "alpha")[0].reason is None
    assert world.vote("trip", "alpha")[0].reason is Reason.RETIRED_KEY
    world.said[("alpha", "brake")].pop()
    assert rotate(world, "alpha").reason is None
    world.check()


def test_a_revoked_pledge_binds_until_its_notice_has_passed() -> None:
    world = succeeding()
    world.log("alpha", "pledge", {"condition": "quorum none\n"})
    revoke(world, "alpha", "beta", "gamma", "delta", since=world.state.size - 1)
    assert "alpha" in world.state.active
    world.stamp(179)
    assert "alpha" in world.state.active
    world.stamp(5)
    assert "alpha" not in world.state.active
    world.check()


# --- rules


def test_under_rules_1_there_is_no_succession() -> None:
    text = World().treaty.text.decode().replace("rules = 2 ", "rules = 1 ")
    text = "\n".join(x for x in text.split("\n") if not x.startswith(("next =", "signer_next =")))
    old = parse_treaty(text.encode())
    assert "12.1" not in rules(old)
    assert "signed by all that were bound" in rules(old)["11.1"]
    world = World(treaty=old)
    world.bind()
    outcome = world.log("alpha", "amend", {"amends": old.digest, "text": "", "joining": []})
    assert outcome.reason is Reason.UNKNOWN_KIND
    assert world.log("alpha", "assent", Assent(text="ab" * 32, articles="ab" * 32)).reason is Reason.FOREIGN
    world.check()


def test_a_pledge_that_names_one_that_has_gone_does_not_stop_the_fold() -> None:
    # S-22
    world = succeeding()
    world.log("alpha", "pledge", {"condition": "quorum none\n"})
    turned(world, replaced(world))
    again = world.state
    for entry in world.entries[-3:]:
        again, _ = apply(again, entry)


def test_malformed_amendments() -> None:
    world = succeeding()
    for text in ("", "x", world.treaty.text.decode()[:-40]):
        outcome = world.log("alpha", "amend", {"amends": world.treaty.digest, "text": text, "joining": []})
        assert outcome.reason is Reason.MALFORMED


def test_no_permit_of_a_lab_stops_an_inspector() -> None:
    """A permit that says it was asked for before the log began is no permit, and nothing else."""
    world = succeeding()
    run = world.opened("alpha")
    for size in (-1, -(2**53) + 1):
        with pytest.raises(Malformed):
            open_past(world.state, world.sealed(world.request(run, size=size)))
    assert open_past(world.state, world.sealed(world.request(run)))[0].run == run.id


# --- what a turn decides by itself: nothing


def test_a_turn_upholds_no_old_allegation() -> None:
    """Two have accused where three were needed, and by the next text two suffice. S-23"""
    world = succeeding(**{"audit.adjudicators": "3"})
    run = world.finished("alpha", steps=12)
    for inspector in ("beta", "gamma"):
        assert world.audit(inspector, run, violation()).reason is None
    assert run.bar is None
    turned(world, next_text(world.treaty, **{"audit.adjudicators": "2"}))
    assert run.bar is None, "the turn itself bars nobody"
    assert world.phase is Phase.CLEAR
    world.stamp(5)
    assert run.bar is None, "nor does time"
    world.check()


TUF = [
    # who assents (of alpha, beta, gamma, delta; epsilon joins in delta's place), version, and whether it is adopted
    ("all of both", ("alpha", "beta", "gamma"), 2, True, True),
    ("no joiner", ("alpha", "beta", "gamma"), 2, False, False),
    ("one too few of the old", ("alpha", "beta"), 2, True, False),
    ("none of the old", (), 2, True, False),
    ("a version skipped", ("alpha", "beta", "gamma"), 3, True, False),
    ("the same version", ("alpha", "beta", "gamma"), 1, True, False),
]


@pytest.mark.parametrize(("assenting", "version", "joins", "adopted_"), [x[1:] for x in TUF], ids=[x[0] for x in TUF])
def test_a_text_is_followed_as_a_root_is_rotated(
    assenting: tuple[str, ...], version: int, joins: bool, adopted_: bool
) -> None:
    """What TUF asks of a new root, each to be signed by enough of the old one and of itself. S-08"""
    world = succeeding()
    next_ = next_text(world.treaty, drop="beta", join="epsilon", **{"treaty.version": str(version)})
    assenting = tuple(p.replace("beta", "delta") for p in assenting)
    changes = {} if joins else {"joining": ()}
    outcome = propose(world, next_, by="alpha", **changes)
    for party in assenting:
        assent(world, next_, party)
    assert (world.state.chain.coming is not None) == adopted_, outcome.text


def test_many_texts_in_a_row_each_replace_one() -> None:
    """A chain that ends with nobody who began it, step by step, and an old text that is brought again. S-05, S-08"""
    world = succeeding()
    first = next_text(world.treaty, drop="gamma", join="epsilon")
    turned(world, first)
    turned(world, next_text(world.treaty, drop="alpha", join="zeta"))
    turned(world, next_text(world.treaty, drop="beta", join="eta"), by="epsilon")
    assert world.treaty.version == 4
    assert propose(world, first, by="epsilon").reason is Reason.ROLLBACK
    assert {"alpha", "beta", "gamma"}.isdisjoint(world.treaty.parties)
    world.check()

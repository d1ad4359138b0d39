"""A log goes on under another keeper: what it takes, what it does, and what nobody makes of it. Rules 11.8-11.10."""

from dataclasses import replace as dc_replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from brakeline.core import reopening as r
from brakeline.core.brake import Phase
from brakeline.core.bundle import Bundle, verify_bundle
from brakeline.core.encoding import b64encode, canonical, parse_json
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.finding import Fault
from brakeline.core.keys import PrivateKey
from brakeline.core.reopening import Reopening
from brakeline.core.state import State, apply, begin
from brakeline.core.state import events as e
from brakeline.core.state.codec import decode, digest, encode
from brakeline.core.statement import MAX_BYTES, open_envelope, pae, seal
from brakeline.core.tlog.policy import verify_all
from brakeline.core.treaty import parse_treaty
from brakeline.core.treaty.parties import digest_of
from succession import (
    NOTICE,
    adopted,
    closing,
    closings,
    next_text,
    propose,
    reopening,
    revoke,
    rotate,
    succeeding,
    turned,
)
from world import PARTIES, World, key, log_key


def reopened(world: World, keeper: str = "alpha", **changes: Any) -> None:
    outcome = world.append(reopening(world, keeper, **changes))
    assert outcome.reason is None, outcome.text


def refused(world: World, *by: str, **changes: Any) -> Reason | None:
    """Why the reopening has no effect; the log is as it was before."""
    state, events = apply(world.state, reopening(world, changes.pop("keeper", "alpha"), *by, **changes))
    assert state.chain == world.state.chain
    assert state.ballot == world.state.ballot
    return next(x.reason for x in events if isinstance(x, e.Void))


# ---- what it does ----


def test_the_log_goes_on_under_another_key() -> None:
    # Treaty 11.8
    world = succeeding()
    start, old = world.state.size, world.checkpoint()
    reopened(world)
    assert world.state.chain.origins == ("log.example/demo", "log.example/demo-1")
    (before,), (after,) = world.state.chain.need(start), world.state.chain.need(start + 1)
    assert [k.name for k, _ in before.logs] == ["log.example/demo"]
    assert after.logs == ((log_key("alpha", 1), "http://127.0.0.1:9"),)
    assert before.witnesses == after.witnesses
    verify_all(old, world.state.chain.need)
    verify_all(world.checkpoint(), world.state.chain.need)
    world.vote("trip", "gamma")
    assert world.stamp().reason is None
    world.check()


def test_the_old_origin_counts_no_more() -> None:
    world = succeeding()
    other = World(treaty=world.first)
    reopened(world)
    text = world.checkpoint().split(b"\n\n")[0] + b"\n"
    forged = text.replace(b"demo-1", b"demo")
    with pytest.raises(Refused) as caught:
        verify_all(world.checkpoint().replace(text, forged), world.state.chain.need)
    assert caught.value.reason is Reason.FOREIGN
    again = world.append(other.checkpoint())
    assert again.reason is not None, "nor is an old stamp one of the new log"


@pytest.mark.parametrize("phase", [Phase.CLEAR, Phase.PAUSED, Phase.LIFTING])
def test_the_brake_is_on(phase: Phase) -> None:
    # Treaty 11.9: and paused only when all permits have lapsed, though no run is running
    world = succeeding(**{"lift.conditions": "[]", "lift.delay": '"500 s"'})
    if phase is not Phase.CLEAR:
        world.trip()
        world.stamp(world.lapse)
    if phase is Phase.LIFTING:
        world.vote("lift", "alpha", "beta", "gamma")
    assert world.phase is phase
    epoch = world.state.epoch
    world.stamp()
    reopened(world)
    assert (world.phase, world.state.epoch) == (Phase.TRIPPED, epoch + 1)
    assert world.state.ballot.lift == {}
    assert world.state.ballot.cause == e.ByReopening("log.example/demo-1")
    world.stamp()
    lapse = world.state.ballot.lapse
    world.vote("lift", "alpha", "beta", "gamma")
    world.stamp(lapse - world.now - 1)
    assert world.phase is Phase.TRIPPED
    world.stamp(1)
    assert world.phase is Phase.LIFTING
    world.check()


def test_a_trip_that_was_about_to_be_a_pause_begins_anew() -> None:
    # Treaty 4.5, 11.9: a run that says it has stopped, and a lapse that was known, count no more
    world = succeeding()
    run = world.opened("alpha")
    world.trip()
    world.stamp()
    before = world.state.ballot.lapse
    world.vote("trip", "gamma", epoch=1)
    reopened(world)
    assert (world.state.ballot.trip, world.state.ballot.lapse) == ({}, -1)
    assert world.head(run, "stopped").reason is None
    assert world.phase is Phase.TRIPPED
    assert world.vote("trip", "gamma", epoch=1)[0].reason is Reason.REPLAYED
    world.stamp(before - world.now)
    assert (world.phase, world.state.ballot.lapse) == (Phase.TRIPPED, before + world.lapse)
    world.stamp(world.lapse)
    assert world.phase is Phase.PAUSED
    world.check()


def test_a_log_that_never_began_is_reopened() -> None:
    # Treaty 11.8: a keeper that takes nothing at all
    world = World()
    world.state, world.entries, world.events = begin(world.first), [], []
    reopened(world)
    assert (world.state.size, world.phase) == (1, Phase.TRIPPED)
    assert world.stamp().reason is None
    world.bind()
    world.check()


def test_the_epoch_is_above_every_permit_that_was_signed() -> None:
    # Treaty 11.9: also above those of epochs that only the lost part of the old log had
    world = succeeding()
    late = (*closings(world)[:-1], replace(closings(world)[-1], epoch=0))
    seen = r.ordered([*late, closing(world, "gamma", "permit-signer", epoch=7, size=world.state.size)])
    reopened(world, closings=seen)
    assert world.state.epoch == 8


def test_a_run_trains_on_after_the_lift() -> None:
    # Treaty 11.9: heads, seeds, permits; what a permit of before allowed is over
    world = succeeding(**{"lift.conditions": "[]"})
    run = world.opened("alpha")
    old = world.request(run)
    world.stamp()
    reopened(world)
    world.stamp()
    with pytest.raises(Refused) as caught:
        world.grant(old)
    assert caught.value.reason in (Reason.PAUSED, Reason.STALE)
    world.stamp(world.lapse)
    world.vote("lift", "alpha", "beta", "gamma")
    world.stamp(world.treaty.lift_delay)
    assert world.phase is Phase.CLEAR
    permit = world.permit(run)
    world.train(run, 3, permit)
    assert world.head(run, "stopped").reason is None
    world.stamp()
    world.check()


def test_a_run_has_its_seed_from_the_checkpoint_that_it_begins_behind() -> None:
    world = succeeding()
    assert world.log("alpha", "declaration", world.declaration()).reason is None
    run = open_envelope(world.entries[-1]).digest
    assert not world.state.run(run).seed
    reopened(world)
    assert world.state.run(run).seed
    assert world.state.clock.last is not None
    assert world.state.clock.last.size == world.state.size - 1


def test_a_state_over_a_reopening_is_read_back() -> None:
    world = succeeding()
    reopened(world)
    reopened(world, "beta")
    assert decode(encode(world.state), world.first) == world.state
    broken = encode(world.state).replace(log_key("beta", 2).text.encode(), b"no key")
    with pytest.raises(Malformed):
        decode(broken, world.first)


def test_a_bundle_over_a_reopening_verifies() -> None:
    # S-27
    world = succeeding()
    early = (world.state.size, world.state.root())
    reopened(world)
    world.stamp()
    data = Bundle(world.first.text, world.checkpoint(), tuple(world.entries), {}).encode()
    proven = verify_bundle(data, treaty_digest=world.first.digest, anchor=early)
    assert proven.digest == digest(world.state)
    with pytest.raises(Refused):
        verify_bundle(data, anchor=(early[0] + 1, early[1]))


def test_it_may_be_reopened_again() -> None:
    world = succeeding()
    reopened(world)
    world.stamp()
    reopened(world, "beta")
    world.stamp()
    assert [x.keeper for x in world.state.chain.reopened] == ["alpha", "beta"]
    assert world.state.epoch == 2
    assert refused(world, keeper="gamma", log_key=log_key("alpha", 1).text) is Reason.DUPLICATE
    world.check()


# ---- what it takes ----


def test_whose_word_it_takes() -> None:
    # Treaty 11.8: three of four witnesses, permit signers and parties
    world = succeeding()
    three = ("alpha", "beta", "gamma")
    assert refused(world, "alpha", "beta") is Reason.NO_QUORUM
    assert refused(world, closings=closings(world, "alpha", "beta")) is Reason.NO_QUORUM
    for role in ("witness", "permit-signer"):
        few = tuple(c for c in closings(world, *three) if (c.role, c.party) != (role, "gamma"))
        assert refused(world, closings=few) is Reason.NO_QUORUM
    assert refused(world, closings=()) is Reason.NO_QUORUM
    reopened(world, closings=closings(world, "beta", "gamma", "delta"))


def test_one_party_counts_once() -> None:
    # a key in two lines, or two keys of one party
    world = succeeding()
    payload = open_envelope(reopening(world)).payload
    sign = lambda k: (k.public.id, k.sign(pae("reopen", payload)))  # noqa: E731
    own = [key("alpha"), key("beta"), key("beta", "signer"), key("beta", "witness"), key("beta", "statement 1")]
    state, events = apply(world.state, seal("reopen", payload, [sign(k) for k in own]))
    assert state.chain == world.state.chain
    assert next(x.reason for x in events if isinstance(x, e.Void)) is Reason.NO_QUORUM


def test_a_key_that_counts_no_more_signs_no_reopening() -> None:
    world = succeeding()
    old = key("alpha")
    rotate(world, "alpha")
    revoke(world, "beta", "alpha", "gamma", "delta")
    world.stamp()
    payload = open_envelope(reopening(world)).payload
    keys = [old, key("beta"), key("gamma"), key("delta")]
    data = seal("reopen", payload, [(k.public.id, k.sign(pae("reopen", payload))) for k in keys])
    _, events = apply(world.state, data)
    assert next(x.reason for x in events if isinstance(x, e.Void)) is Reason.NO_QUORUM
    assert refused(world, "alpha", "gamma") is Reason.NO_QUORUM
    assert world.append(reopening(world, "alpha", "alpha", "gamma", "delta")).reason is None


def test_an_equivocator_signs_no_reopening() -> None:
    world = succeeding()
    twice = [world.statement("gamma", "vote", {"motion": "trip", "epoch": 9, "reason": x}, seq=40) for x in "ab"]
    for data in twice:
        world.append(data)
    assert world.state.members.equivocators == {"gamma"}
    world.stamp()
    assert refused(world, "alpha", "beta", "gamma") is Reason.NO_QUORUM
    assert world.append(reopening(world, "alpha", "alpha", "beta", "delta")).reason is None


def test_a_forged_signature_condemns_it() -> None:
    world = succeeding()
    payload = open_envelope(reopening(world)).payload
    good = [(key(p).public.id, key(p).sign(pae("reopen", payload))) for p in ("alpha", "beta", "gamma")]
    bad = (key("delta").public.id, key("gamma").sign(pae("reopen", payload)))
    _, events = apply(world.state, seal("reopen", payload, [*good, bad]))
    assert next(x.reason for x in events if isinstance(x, e.Void)) is Reason.FORGED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"treaty": "ab" * 32}, Reason.FOREIGN),
        ({"over": ("another.example/log",)}, Reason.FOREIGN),
        ({"keeper": "omega"}, Reason.UNKNOWN_ISSUER),
        ({"over": ("log.example/demo", "log.example/demo-1")}, Reason.MALFORMED),
        ({"over": ()}, Reason.MALFORMED),
        ({"url": ""}, Reason.MALFORMED),
        ({"url": "http://x y"}, Reason.MALFORMED),
        ({"reason": "a\x00"}, Reason.MALFORMED),
        ({"reason": "a" * 401}, Reason.MALFORMED),
        ({"log_key": "junk"}, Reason.MALFORMED),
        ({"stamp": "junk"}, Reason.MALFORMED),
    ],
)
def test_what_it_says_is_checked(changes: dict[str, Any], reason: Reason) -> None:
    world = succeeding()
    if "keeper" in changes:
        assert refused(world, **{"log_key": log_key("alpha", 1).text, **changes}) is reason
    else:
        assert refused(world, **changes) is reason


def test_it_has_one_spelling() -> None:
    world = succeeding()
    payload = open_envelope(reopening(world)).payload
    assert taken(world, payload) is None
    more = payload.replace(b'"closings":', b'"added":1,"closings":')
    spaced = payload.replace(b'"closings":', b'"closings": ')
    twice = payload.replace(b'"keeper":', b'"keeper":"beta","keeper":')
    escaped = payload.replace(b'"keeper":"alpha"', b'"keeper":"\\u0061lpha"')
    for other in (more, spaced, twice, escaped, payload + b"\n", b"[" * 40_000):
        assert taken(world, other) is Reason.MALFORMED


def taken(world: World, payload: bytes) -> Reason | None:
    """Why a payload that a quorum has signed has no effect."""
    lines = [(key(p).public.id, key(p).sign(pae("reopen", payload))) for p in ("alpha", "beta", "gamma")]
    _, events = apply(world.state, seal("reopen", payload, lines))
    return next((x.reason for x in events if isinstance(x, e.Void)), None)


def test_strangers_signatures_count_for_nothing() -> None:
    """They add nothing to too few, and take nothing from enough."""
    world = succeeding()
    data = reopening(world)
    payload, lines = open_envelope(data).payload, open_envelope(data).signatures
    stranger = (key("mallory").public.id, key("mallory").sign(pae("reopen", payload)))
    _, few = apply(world.state, seal("reopen", payload, [*lines[:2], stranger]))
    assert next(x.reason for x in few if isinstance(x, e.Void)) is Reason.NO_QUORUM
    one, _ = apply(world.state, data)
    other, _ = apply(world.state, seal("reopen", payload, [*lines, stranger]))
    assert (one.chain, one.ballot) == (other.chain, other.ballot)


def test_it_is_taken_once() -> None:
    world = succeeding()
    data = reopening(world)
    assert world.append(data).reason is None
    epoch = world.state.epoch
    assert world.append(data).reason is Reason.FOREIGN, "it is over a log that is no more"
    world.stamp()
    assert world.append(data).reason is Reason.FOREIGN
    assert world.state.epoch == epoch
    world.check()


def test_it_begins_where_a_quorum_has_cosigned() -> None:
    # Treaty 11.8
    world = succeeding()
    good = reopening(world)
    assert refused(world, stamp=world.checkpoint(by=("alpha", "beta")).decode()) is Reason.NO_QUORUM
    assert refused(world, stamp=world.checkpoint(world.state.size - 1).decode()) is Reason.ROLLBACK
    assert refused(world, stamp=world.checkpoint(root=b"x" * 32).decode()) is Reason.TAMPERED
    world.vote("trip", "gamma")
    late = world.append(good)
    assert late.reason is Reason.ROLLBACK, "an entry later it is another log"


def test_it_begins_no_earlier_than_what_a_closer_has_seen_stamped() -> None:
    # S-24: what is settled is in every log that goes on
    world = succeeding()
    size = world.state.size
    for party, role in product(("alpha", "beta", "gamma"), ("witness", "permit-signer")):
        seen = [c for c in closings(world) if (c.party, c.role) != (party, role)]
        late = closing(world, party, role, settled=size + 1, size=size + 5)
        assert refused(world, closings=r.ordered([*seen, late])) is Reason.ROLLBACK
    more = closing(world, "delta", "witness", settled=size + 1, size=size + 5)
    assert refused(world, closings=r.ordered([*closings(world), more])) is Reason.ROLLBACK, "nor than one of too many"
    reopened(world, closings=tuple(replace_settled(world, size)))


def replace_settled(world: World, size: int) -> list[r.Closing]:
    return list(r.ordered(closing(world, c.party, c.role, settled=size) for c in closings(world)))


def test_the_new_key_is_new() -> None:
    # Treaty 1.1, 11.8
    world = succeeding()
    rotate(world, "gamma")
    turned(world, next_text(world.treaty, drop="gamma", join="epsilon"))
    used = [
        *(key(p) for p in (*PARTIES, "epsilon")),
        key("gamma", "statement 1"),
        *(key("alpha", f"{x} 1") for x in ("statement", "signer")),
        *(key(p, x) for p in ("beta", "gamma", "epsilon") for x in ("witness", "signer")),
        key("delta", "log"),
    ]
    for own in used:
        taken = dc_replace(log_key("alpha", 1), key=own.public).text
        assert refused(world, log_key=taken) is Reason.REUSED_KEY, own.public.id
    reopened(world)


def test_closings_are_what_they_say() -> None:
    #
    world = succeeding()
    good = closings(world)
    odd = good[0]

    def instead(c: r.Closing) -> Reason | None:
        return refused(world, closings=r.ordered([*good[1:], c]))

    assert instead(replace(odd, time=odd.time + 1)) is Reason.FORGED
    assert instead(replace(odd, signature=b64encode(bytes(64)))) is Reason.FORGED
    assert instead(replace(odd, party="omega")) is Reason.UNKNOWN_ISSUER
    assert instead(replace(odd, key="ab" * 8)) is Reason.UNKNOWN_ISSUER
    assert instead(closing(world, odd.party, odd.role, origin="another.example/log")) is Reason.UNKNOWN_ISSUER
    assert instead(closing(world, odd.party, odd.role, treaty="ab" * 32)) is Reason.FORGED
    assert instead(closing(world, odd.party, odd.role, by=key("gamma", "witness"))) is Reason.UNKNOWN_ISSUER
    assert instead(closing(world, odd.party, odd.role, epoch=world.state.epoch + 2**20 + 1)) is Reason.MALFORMED
    assert instead(closing(world, odd.party, odd.role, size=2**50)) is Reason.MALFORMED
    assert instead(closing(world, odd.party, odd.role, time=-1)) is Reason.MALFORMED
    assert refused(world, closings=(*good, good[-1])) is Reason.MALFORMED
    assert refused(world, closings=good[::-1]) is Reason.MALFORMED


def test_a_reopening_that_was_never_published_is_replaced() -> None:
    # Treaty 11.8
    world = succeeding()
    named = "gamma.example/log"
    over = ("log.example/demo", named)
    old = closings(world)
    both = [*old, *(closing(world, p, "witness", origin=named, size=0, settled=0) for p in ("alpha", "beta", "gamma"))]
    assert refused(world, over=over) is Reason.NO_QUORUM
    assert refused(world, over=over, closings=r.ordered(both[:-1])) is Reason.NO_QUORUM
    shown = closing(world, "gamma", "witness", origin=named, size=1, settled=1)
    assert refused(world, over=over, closings=r.ordered([*both[:-1], shown])) is Reason.ROLLBACK, "it was published"
    named_by = [("alpha", 0), ("beta", 1), ("gamma", 2)]
    seen = [closing(world, p, "witness", origin=named, size=i, settled=0) for p, i in named_by]
    state, _ = apply(world.state, reopening(world, over=over, closings=r.ordered([*old, *seen])))
    assert state.chain.reopened, "a tree that some of them cosigned, and nobody published, holds up nobody"
    signer = closing(world, "gamma", "permit-signer", origin=named)
    assert refused(world, over=over, closings=r.ordered([*both, signer])) is Reason.UNKNOWN_ISSUER
    reopened(world, over=over, closings=r.ordered(both))


def test_of_two_reopenings_one_has_a_quorum() -> None:
    """Four parties, three of whom decide; one lies and signs both. S-26"""
    honest, quorum = 3, 3
    for votes in product((0, 1, 2), repeat=honest):  # nobody, the one, the other
        one, other = votes.count(1) + 1, votes.count(2) + 1
        assert not (one >= quorum and other >= quorum)


# ---- while texts and keys change ----


def test_a_reopening_while_a_text_waits_for_its_turn() -> None:
    # Treaty 11.8: the next text's witnesses, signers and parties are asked, too
    world = succeeding()
    next_ = next_text(world.treaty, drop="gamma", join="epsilon")
    adopted(world, next_)
    world.stamp(1)
    members, more = ("alpha", "beta", "delta"), {"size": world.state.size + 1}
    old, new = closings(world, "alpha", "beta", "gamma", **more), closings(world, "alpha", "beta", "epsilon", **more)
    assert refused(world, *members, closings=old) is Reason.NO_QUORUM
    assert refused(world, *members, closings=new) is Reason.NO_QUORUM
    whole = closings(world, *members, **more)
    assert refused(world, "alpha", "beta", "gamma", closings=whole) is Reason.NO_QUORUM
    assert world.append(reopening(world, "alpha", *members, closings=whole)).reason is None
    world.stamp(NOTICE)
    assert world.treaty == next_, "and it turns with the new log"
    assert world.state.chain.log.keeper == "alpha"
    world.stamp()
    assert not world.state.chain.open
    world.check()


def test_those_who_join_have_no_veto() -> None:
    """Enough witnesses of the text in force have cosigned nothing beyond: the other has not turned, and never will."""
    world = succeeding()
    adopted(world, next_text(world.treaty, drop="gamma", join="epsilon"))
    world.stamp(1)
    old = closings(world, "alpha", "beta", "gamma")
    one = [closing(world, "gamma", "witness", size=world.state.size + 1), *(c for c in old if c.party != "gamma")]
    one += [c for c in old if (c.party, c.role) == ("gamma", "permit-signer")]
    assert refused(world, "alpha", "beta", "gamma", closings=r.ordered(one)) is Reason.NO_QUORUM
    assert world.append(reopening(world, "alpha", "alpha", "beta", "gamma", closings=old)).reason is None


def test_a_reopening_between_turn_and_close() -> None:
    world = succeeding()
    next_ = next_text(world.treaty, drop="gamma", join="epsilon")
    adopted(world, next_)
    world.stamp(NOTICE)
    assert world.state.chain.open
    members = ("alpha", "beta", "delta")
    old, new = closings(world, "alpha", "beta", "gamma"), closings(world, "alpha", "beta", "epsilon")
    assert refused(world, *members, closings=old) is Reason.NO_QUORUM
    assert refused(world, *members, closings=new) is Reason.NO_QUORUM
    assert world.append(reopening(world, "alpha", *members, closings=closings(world, *members))).reason is None
    assert not world.state.chain.open, "it begins behind a checkpoint that both have cosigned: that closes it"
    world.stamp()
    world.check()


def test_a_text_may_turn_where_the_log_is_reopened() -> None:
    """The checkpoint that it begins behind is a stamp, also for what waits for one. Treaty 11.2"""
    world = succeeding()
    next_ = next_text(world.treaty, drop="gamma", join="epsilon")
    adopted(world, next_)
    world.now += NOTICE
    members = ("alpha", "beta", "delta")
    assert world.append(reopening(world, "alpha", *members, closings=closings(world, *members))).reason is None
    assert world.treaty == next_
    assert world.state.chain.open
    assert world.phase is Phase.TRIPPED
    world.stamp()
    assert not world.state.chain.open
    world.check()


def test_an_amendment_after_it_names_the_new_keeper() -> None:
    # Treaty 11.1, 11.8
    world = succeeding()
    next_ = next_text(world.treaty, **{"lift.delay": '"3 s"'})
    propose(world, next_)
    world.stamp()
    reopened(world)
    assert world.state.chain.proposals == {}, "what was before the parties named the old log"
    world.stamp()
    assert propose(world, next_).reason is Reason.PROHIBITED
    text = next_.text.decode()
    old, new = world.first.parties["delta"], log_key("alpha", 1).text
    assert old.log_key
    text = text.replace(f'log_key = "{old.log_key.text}"\n', "")
    text = text.replace('roles = ["log", "witness"', 'roles = ["witness"')
    at = text.index("[party.alpha]\n") + len("[party.alpha]\n")
    text = text[:at] + f'log_key = "{new}"\nlog_url = "http://127.0.0.1:8"\n' + text[at:]
    head, tail = text[:at], text[at:].replace('roles = ["lab", ', 'roles = ["log", "lab", ', 1)
    kept = parse_treaty((head + tail).encode())
    turned(world, kept)
    assert world.state.chain.log.url == "http://127.0.0.1:8", "the text in force says where, from there on"
    assert world.state.chain.log.keeper == "alpha"
    world.check()


# ---- what the old log held last ----


def test_a_permit_by_a_text_that_turned_in_what_was_lost_is_waited_for() -> None:
    # I4: the text that waits gives permits of six hours, and may have turned where nobody has the entries
    world = succeeding()
    next_ = next_text(world.treaty, **{"permit.lifetime": '"6 h"', "permit.allowance": '"6 GFLOP"'})
    adopted(world, next_)
    world.append(world.checkpoint())  # a stamp before the notice has passed: it does not turn here
    assert world.treaty.version == 1
    reopened(world)
    world.stamp()
    assert world.state.ballot.lapse >= world.now + 6 * 3600
    world.check()


def test_who_states_two_logs_is_not_void() -> None:
    """The state at one size, in the part that is void and in the log that went on. Treaty 6.6, 11.9"""
    world = succeeding(**{"log.snapshot_every": "16"})
    body = {"rules": 2, "size": 16, "root": "ab" * 32, "state": "cd" * 32}
    lost = world.statement("delta", "snapshot", body)
    reopened(world)
    while world.state.size < 17:
        world.stamp()
    mine = {**body, "root": "12" * 32, "state": "34" * 32}
    new = world.log("delta", "snapshot", mine)
    assert new.reason is None, new.text
    envelopes = sorted((lost.decode(), world.entries[-1].decode()))
    outcome = world.log("alpha", "evidence", {"first": envelopes[0], "second": envelopes[1]})
    assert outcome.reason is Reason.MALFORMED
    assert world.log("delta", "snapshot", {**mine, "root": "56" * 32}).reason is None
    assert world.state.members.equivocators == frozenset()
    world.log("delta", "snapshot", {**mine, "root": "56" * 32, "state": "78" * 32})
    assert world.state.members.equivocators == {"delta"}, "but of one log it states one state"


def test_steps_by_a_permit_that_was_lost_accuse_nobody() -> None:
    world = succeeding(**{"lift.conditions": "[]"})
    run = world.opened("alpha")
    world.train(run, 3, world.permit(run))
    world.head(run, "running")
    world.stamp()
    world.train(run, 5, b"\x07" * 32)  # a permit by a key or a text that stood in the lost part alone
    reopened(world)
    world.head(run, "stopped")
    world.stamp()
    findings = world.judged(run)
    assert {(f.fault, f.severity) for f in findings if f.fault is Fault.NO_PERMIT} == {(Fault.NO_PERMIT, "gap")}


def test_a_lie_about_epochs_stops_no_later_reopening() -> None:
    world = succeeding()
    lie = closing(world, "delta", "permit-signer", epoch=2**20)
    reopened(world, closings=r.ordered([*closings(world), lie]))
    assert world.state.epoch == 2**20 + 1
    world.stamp()
    honest = [closing(world, p, x, epoch=world.state.epoch) for p in ("alpha", "beta", "gamma") for x in ROLES]
    reopened(world, "beta", closings=r.ordered(honest))
    assert world.state.epoch == 2**20 + 2


def test_an_origin_that_has_ended_never_comes_back() -> None:
    world = succeeding()
    named = log_key("alpha", 2).name
    over = ("log.example/demo", named)
    both = [*closings(world), *(closing(world, p, "witness", origin=named, size=0, settled=0) for p in PARTIES)]
    reopened(world, over=over, closings=r.ordered(both))
    world.stamp()
    assert refused(world, log_key=log_key("alpha", 2).text) is Reason.DUPLICATE


@pytest.mark.parametrize("name", ["{x", "a" * 65, "log\u202eexample", "lоg.example", "Log.example", "-x", ""])
def test_a_new_origin_is_a_plain_name(name: str) -> None:
    world = succeeding()
    try:
        text = dc_replace(log_key("alpha", 1), name=name).text
    except Malformed:
        return
    assert refused(world, log_key=text) is Reason.MALFORMED


def test_the_keys_of_a_text_that_waits_are_known() -> None:
    world = succeeding()
    adopted(world, next_text(world.treaty, drop="gamma", join="epsilon"))
    world.stamp()
    members = ("alpha", "beta", "delta")
    for own in (key("epsilon"), key("epsilon", "signer"), key("epsilon", "statement 1"), key("epsilon", "witness")):
        taken = dc_replace(log_key("alpha", 1), key=own.public).text
        assert refused(world, *members, closings=closings(world, *members), log_key=taken) is Reason.REUSED_KEY
    gone = refused(world, *members, keeper="gamma", closings=closings(world, *members))
    assert gone is Reason.UNKNOWN_ISSUER, "who leaves with the next text keeps no log"


def test_no_party_goes_on_to_a_key_that_serves_a_log() -> None:
    # Treaty 1.1
    world = succeeding()
    reopened(world)
    world.stamp()
    for own in (key("delta", "log"), key("alpha", "log 1"), key("beta", "witness")):
        body = {"purpose": "signer", "key": key("beta", "signer 1").public.text, "next": digest_of(own.public)}
        assert world.log("beta", "key", body).reason is Reason.REUSED_KEY


def test_a_state_reopened_where_it_was_not_is_none() -> None:
    world = succeeding()
    reopened(world)
    good = encode(world.state)
    at = world.state.chain.reopened[0].entry
    for entry in (-2, -1, world.state.size, world.state.size + 5):
        with pytest.raises(Malformed):
            decode(good.replace(b'"entry":%d,"keeper"' % at, b'"entry":%d,"keeper"' % entry), world.first)


# ---- hostile logs ----


def test_rules_one_know_no_reopening() -> None:
    # Treaty 1.4
    text = World().treaty.text.decode().replace("rules = 2 ", "rules = 1 ").split("\n")
    first = [x for x in text if not x.startswith(("next =", "signer_next ="))]
    world = World(treaty=parse_treaty("\n".join(first).encode()))
    data = seal("reopen", canonical({}), [(key("alpha").public.id, bytes(64))])
    state, events = apply(world.state, data)
    assert state.chain.reopened == ()
    assert [x.reason for x in events if isinstance(x, e.Void)] == [Reason.FORGED]


def test_a_witness_that_cosigns_what_it_closed_has_equivocated() -> None:
    # Treaty 11.10; S-25
    world = succeeding()
    closed = closing(world, "beta", "witness")
    envelope = r.envelope_of(closed, world.first.digest).decode()
    early = world.checkpoint(by=("alpha", "beta")).decode()
    dated = r.envelope_of(closing(world, "beta", "witness", time=2**40, size=1), world.first.digest).decode()
    assert apply(world.state, world.statement("gamma", "evidence", {"first": early, "second": dated}))[0] != world.state
    world.now += 1
    late = world.checkpoint(by=("alpha", "beta")).decode()
    without = world.checkpoint(by=("alpha", "gamma")).decode()
    signer = r.envelope_of(closing(world, "beta", "permit-signer"), world.first.digest).decode()
    foreign = r.envelope_of(closing(world, "beta", "witness", treaty="ab" * 32), "ab" * 32).decode()
    another = r.envelope_of(closing(world, "beta", "witness", origin="x", time=1), world.first.digest).decode()
    forged = r.envelope_of(replace(closed, time=1), world.first.digest).decode()
    void = {
        (early, envelope): Reason.MALFORMED,
        (without, envelope): Reason.MALFORMED,
        (late, signer): Reason.UNKNOWN_ISSUER,
        (late, foreign): Reason.UNKNOWN_ISSUER,
        (late, another): Reason.MALFORMED,
        (late, forged): Reason.FORGED,
        ("junk", envelope): Reason.MALFORMED,
        (late.replace("beta", "gamma"), envelope): Reason.MALFORMED,
    }
    for (first, second), reason in void.items():
        outcome = world.log("alpha", "evidence", {"first": first, "second": second})
        assert outcome.reason is reason, outcome.text
    assert world.state.members.equivocators == frozenset()
    assert world.log("alpha", "evidence", {"first": late, "second": envelope}).reason is None
    assert world.state.members.equivocators == {"beta"}
    again = world.log("alpha", "evidence", {"first": late, "second": envelope})
    assert again.reason is Reason.DUPLICATE


def test_it_fits_for_sixty_parties() -> None:
    """Every closing of a quorum, both witness quorums on the stamp, and the signatures, in one entry."""
    world = succeeding()
    one = closing(world, "alpha", "witness")
    many = r.ordered(
        replace(one, party=f"party-{i}-of-sixty", role=role, origin="keeper-of-the-log.example.org/log")
        for i in range(41)
        for role in ("witness", "permit-signer")
    )
    line = b"\n" + "— party-59.example.org/witness ".encode() + b64encode(bytes(76)).encode()
    stamp = (world.checkpoint() + line * 41).decode()
    body = Reopening(
        treaty=world.first.digest,
        over=("keeper-of-the-log.example.org/log",),
        keeper="party-1",
        log_key=log_key("alpha", 1).text,
        url="https://party-1.example.org/log",
        stamp=stamp,
        closings=many,
        reason="the keeper is silent",
    )
    size = len(seal("reopen", canonical(body), [(f"{i:016x}", bytes(64)) for i in range(41)]))
    assert size < MAX_BYTES, size


ROLES = ("witness", "permit-signer")
BASE = succeeding()
GOOD = reopening(BASE)


@settings(max_examples=250, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_no_changed_byte_is_another_reopening(at: int, byte: int) -> None:
    bad = GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    state, _ = apply(BASE.state, bad)
    assert bool(state.chain.reopened) == (bad == GOOD)


def _fields(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [(*path, k) for k, _ in items]
    return found + [p for k, v in items if isinstance(v, dict | list) for p in _fields(v, (*path, k))]


PAYLOAD = parse_json(open_envelope(GOOD).payload)
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.text(max_size=6), st.floats(), st.just([]), st.just({})
)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(_fields(PAYLOAD)), ODD)
def test_whatever_is_signed_the_fold_never_raises(path: tuple[Any, ...], value: Any) -> None:
    """A quorum signs anything: also then there is one meaning, or none."""
    body = parse_json(canonical(PAYLOAD))
    at = body
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    try:
        payload = canonical(body)
    except Malformed:
        return
    keys: list[PrivateKey] = [key(p) for p in ("alpha", "beta", "gamma")]
    data = seal("reopen", payload, [(k.public.id, k.sign(pae("reopen", payload))) for k in keys])
    state, _ = apply(BASE.state, data)
    usable(state)


def usable(state: State) -> None:
    """Whatever was taken, the state can be written down and asked."""
    assert decode(encode(state), BASE.first) == state
    state.chain.need(state.size + 1)
    assert state.chain.log.key.name == state.chain.origins[-1]

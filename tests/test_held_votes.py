"""Votes to trip that a permit signer is shown: heeded whatever whoever keeps the log does with them (Treaty 4.7)."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.brake import Phase
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.grant import check_votes, held_vote, is_trip, stance
from brakeline.core.keys import PrivateKey
from brakeline.core.state import State
from brakeline.core.state.codec import encode
from brakeline.core.state.said import authenticate, read
from vector import refused
from world import DAY, LABS, PARTIES, World, bound, key, raw, violation

FAR = 2**52


def vote(world: World, party: str, motion: str = "trip", epoch: int | None = None, **changes: Any) -> bytes:
    """A vote that is not logged."""
    epoch = world.state.epoch if epoch is None else epoch
    body = {"motion": motion, "epoch": epoch, "reason": "hidden"}
    return world.statement(party, "vote", body, **{"seq": 99, **changes})


def hold(state: State, *envelopes: bytes) -> dict[tuple[str, int], int]:
    """What a signer keeps of votes that it is shown."""
    held: dict[tuple[str, int], int] = {}
    for envelope in envelopes:
        party, said, expires = held_vote(state, envelope)
        held[party, said.epoch] = max(expires, held.get((party, said.epoch), 0))
    return held


def grants(world: World, held: Mapping[tuple[str, int], int], now: int | None = None) -> bool:
    """Whether a signer with these votes in hand goes on signing."""
    try:
        check_votes(world.state, held, world.now if now is None else now)
    except Refused as e:
        if e.reason is not Reason.PAUSED:
            raise
        return False
    return True


@pytest.mark.parametrize("ahead", [-400 * DAY, -8 * DAY, 0, 60, 3600, 400 * DAY])
def test_a_vote_is_heeded_whatever_date_it_bears(ahead: int) -> None:
    # Treaty 4.7: the log's clock may stand still because its keeper wills it.
    world = bound(log_heartbeat='"600 s"', log_stale_after='"1200 s"')
    world.now += 2 * 600
    data = [vote(world, p, not_before=world.now + ahead, expires=FAR) for p in ("alpha", "beta")]
    assert held_vote(world.state, data[0])[::2] == ("alpha", FAR)
    assert not grants(world, hold(world.state, *data))
    world.check()


def test_a_vote_is_heeded_though_the_log_has_passed_its_number() -> None:
    # Treaty 4.7: its keeper logs a later statement to hide an earlier one.
    world = bound()
    hidden = world.statement("alpha", "vote", {"motion": "trip", "epoch": 0, "reason": ""})
    world.log("alpha", "withdrawal", {"reason": "something else"})
    assert world.append(hidden).reason is Reason.REPLAYED
    assert world.voters("trip") == frozenset()
    world.vote("trip", "beta")
    assert world.phase is Phase.CLEAR
    assert not grants(world, hold(world.state, hidden))
    world.check()


def test_a_vote_is_heeded_though_its_budget_is_spent() -> None:
    # Treaty 1.5, 4.7
    world = World(**{"budget.brake": "16"})
    world.bind()
    for _ in range(14):
        world.vote("lift", "alpha")
    assert world.vote("trip", "alpha")[0].reason is Reason.BUDGET
    held = hold(world.state, world.entries[-1], vote(world, "beta"))
    assert held.keys() == {("alpha", 0), ("beta", 0)}
    assert not grants(world, held)
    world.check()


def test_what_a_signer_does_not_hold() -> None:
    world = bound()
    body = {"motion": "trip", "epoch": 0, "reason": ""}
    for reason, data in (
        (Reason.REPLAYED, vote(world, "alpha", epoch=-1)),
        (Reason.REPLAYED, vote(world, "alpha", epoch=2)),
        (Reason.REPLAYED, vote(world, "alpha", epoch=2**50)),
        (Reason.EXPIRED, vote(world, "alpha", not_before=0, expires=world.state.time)),
        (Reason.FOREIGN, vote(world, "alpha", motion="lift")),
        (Reason.FOREIGN, world.statement("alpha", "withdrawal", {"reason": ""})),
        (Reason.FOREIGN, world.statement("alpha", "meter", body)),
        (Reason.FOREIGN, vote(world, "alpha", treaty="ab" * 32)),
        (Reason.FORGED, vote(world, "alpha", issuer="beta")),
        (Reason.FORGED, vote(world, "beta", by=key("delta"), issuer="alpha")),
        (Reason.UNKNOWN_ISSUER, vote(world, "alpha", by=PrivateKey(b"s" * 32))),
    ):
        with refused(reason):
            held_vote(world.state, data)
    for bad in (
        b"",
        b"{}",
        raw("alpha", "vote", b"{}"),
        raw("alpha", "vote", b"[" * 999),
        vote(world, "alpha", seq=-1),
    ):
        with pytest.raises(Malformed):
            held_vote(world.state, bad)
    with pytest.raises(Malformed):
        held_vote(world.state, world.statement("alpha", "vote", {**body, "motion": "stop"}, seq=98))
    world.append(world.statement("gamma", "vote", body, seq=1))
    with refused(Reason.EQUIVOCATION):
        held_vote(world.state, vote(world, "gamma"))
    world.check()


def test_votes_for_the_next_epoch_wait_for_it() -> None:
    # Treaty 4.7: at most two of a party, the present epoch's and the next one's.
    world = bound(lift_delay='"0 s"')
    held = hold(world.state, *(vote(world, p, epoch=1) for p in ("alpha", "beta")))
    assert held.keys() == {("alpha", 1), ("beta", 1)}
    assert grants(world, held)
    world.trip()
    world.vote("lift", *LABS)
    assert (world.phase, world.state.epoch) == (Phase.CLEAR, 1)
    assert not grants(world, held)
    world.check()


def test_who_counts_among_hidden_votes() -> None:
    # Treaty 4.1, 4.7: f+1 parties in force, each once, none of them an equivocator, each vote unexpired.
    world = World()
    world.bind(*LABS)
    soon = world.now + 10
    one, two = vote(world, "alpha", expires=soon), vote(world, "beta", expires=FAR)
    assert grants(world, {})
    assert grants(world, hold(world.state, one))
    assert grants(world, hold(world.state, one, vote(world, "alpha", seq=100)))  # one party twice
    assert grants(world, hold(world.state, one, vote(world, "delta")))  # not in force
    both = hold(world.state, one, two)
    assert not grants(world, both)
    assert not grants(world, both, now=soon - 1)
    assert grants(world, both, now=soon)
    # One that the log shows, and one that it hides.
    world.vote("trip", "gamma")
    assert not grants(world, hold(world.state, two))
    assert grants(world, hold(world.state, vote(world, "gamma")))  # the same party
    # Nothing hidden: what the log shows is for the log to judge.
    assert grants(world, {})
    world.append(world.statement("beta", "vote", {"motion": "lift", "epoch": 0, "reason": ""}, seq=1))
    assert world.state.members.equivocators == {"beta"}
    assert grants(world, {("beta", 0): FAR})
    world.check()


@given(st.sampled_from(PARTIES), st.lists(st.tuples(st.integers(0, 1), st.integers(-9, 400)), max_size=6))
def test_one_party_stops_no_permits(who: str, shown: list[tuple[int, int]]) -> None:
    # Treaty 1.3, 4.7: f = 1, however often it votes, under whatever number and date.
    world = bound()
    run = world.opened("alpha")
    envelopes = [
        vote(world, who, epoch=epoch, seq=i, not_before=max(0, world.now + ahead), expires=FAR)
        for i, (epoch, ahead) in enumerate(shown)
    ]
    before = encode(world.state)
    held = hold(world.state, *envelopes)
    assert len(held) <= 2
    assert grants(world, held)
    assert encode(world.state) == before
    world.permit(run)


def test_what_signers_heed_before_the_log_shows_it() -> None:
    world = bound()
    world.vote("trip", "alpha")
    world.vote("lift", "alpha")
    bodies = [(s.kind, read(world.state, s)) for s in (authenticate(world.state, e) for e in world.entries[-2:])]
    assert [is_trip(kind, body) for kind, body in bodies] == [True, False]
    assert not is_trip("withdrawal", bodies[0][1])


# --- what a gate does at a state


def test_a_gate_stands_open_asks_or_shuts() -> None:
    # Treaty 2.2, 4.5, 5.1
    world = World()
    world.bind("beta", "gamma", "delta")
    theirs = world.opened("alpha", name="theirs")
    small = world.opened("beta", name="small", steps=1)
    research = world.opened("beta", name="research", purpose="safety-research")
    serving = world.opened("beta", name="serving", purpose="inference")
    covered = world.opened("beta", name="covered")
    runs = (theirs, small, research, serving, covered)
    assert [stance(world.state, r.now) for r in runs] == ["open", "open", "open", "open", "ask"]
    world.vote("trip", "beta", "gamma")
    assert [stance(world.state, r.now) for r in runs] == ["open", "open", "shut", "open", "shut"]
    world.bind("alpha")
    assert stance(world.state, theirs.now) == "shut"
    world.check()


def test_a_gate_of_a_barred_run_is_shut_while_the_brake_is_off() -> None:
    # Treaty 5.6
    world = bound(brake_findings_trip="false")
    run = world.finished("alpha", status="running")
    assert stance(world.state, run.now) == "ask"
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run, violation())
    assert (world.phase, stance(world.state, run.now)) == (Phase.CLEAR, "shut")
    world.check()

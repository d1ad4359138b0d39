"""Permits: what a signer refuses to sign, what opens as a permit, what a gate admits, and when it shuts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.encoding import canonical
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused
from brakeline.core.finding import Fault, Finding
from brakeline.core.gate import NO_PERMIT, GateState, admit, decide, halt, stand_open
from brakeline.core.keys import PrivateKey
from brakeline.core.permit import KIND, Permit, open_permit
from brakeline.core.statement import open_envelope, pae, seal, sign
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.merkle import root as tree_root
from vector import refused
from world import LABS, PARTIES, STEP_FLOP, World, key, model, violation

SECOND = 1_000_000_000


def ready() -> tuple[World, Any]:
    world = World()
    world.bind()
    return world, world.opened("alpha")


def changed(permit: Permit, **changes: object) -> Permit:
    return Permit(**{f: getattr(permit, f) for f in permit.__struct_fields__} | changes)


# --- the signer


def test_an_honest_request_is_granted() -> None:
    # Treaty 5.2, 5.3, 5.4, at every limit: the longest permit, over the whole allowance, on the oldest view.
    world, run = ready()
    world.stamp(0)
    world.append(b"rubbish")
    permit = world.request(run)
    assert permit.limit == world.treaty.permit_allowance
    assert permit.expires - permit.issued == world.treaty.permit_lifetime
    world.grant(permit)
    world.grant(permit, now=world.now + world.treaty.stale_after)
    world.grant(changed(permit, flop_limit="1"))
    base = world.state.clock.base.size
    assert 0 < base < world.state.size
    for earlier in range(base, world.state.size + 1):
        world.grant(changed(permit, size=earlier, root=world.state.root(earlier).hex()))
    # Older than the stamp before the last, it is too old a view: the lab asks again.
    old = tree_root([leaf_hash(e) for e in world.entries[: base - 1]])
    with pytest.raises(Refused, check=lambda e: e.reason is Reason.STALE and e.later):
        world.grant(changed(permit, size=base - 1, root=old.hex()))
    world.check()


Change = Callable[[World, Any], dict[str, object]]

REQUESTS: list[tuple[str, Reason, Change]] = [
    ("another treaty", Reason.FOREIGN, lambda w, r: {"treaty": "ab" * 32}),
    ("too long", Reason.ALLOWANCE, lambda w, r: {"expires": w.now + w.treaty.permit_lifetime + 1}),
    ("no time", Reason.ALLOWANCE, lambda w, r: {"expires": w.now}),
    ("back in time", Reason.ALLOWANCE, lambda w, r: {"expires": w.now - 1}),
    ("beyond the view", Reason.STALE, lambda w, r: {"size": w.state.size + 1}),
    ("another root", Reason.TAMPERED, lambda w, r: {"root": "ab" * 32}),
    ("the root of another size", Reason.TAMPERED, lambda w, r: {"root": w.state.root(w.state.size - 1).hex()}),
    ("the future", Reason.NOT_YET_VALID, lambda w, r: {"issued": w.now + 31, "expires": w.now + 32}),
    ("the past", Reason.EXPIRED, lambda w, r: {"issued": w.now - 10, "expires": w.now}),
    ("an ended epoch", Reason.REPLAYED, lambda w, r: {"epoch": 1}),
    ("no run", Reason.UNDECLARED, lambda w, r: {"run": "ab" * 32}),
    ("too much", Reason.ALLOWANCE, lambda w, r: {"flop_limit": str(w.treaty.permit_allowance + 1)}),
]


@pytest.mark.parametrize(("reason", "change"), [r[1:] for r in REQUESTS], ids=[r[0] for r in REQUESTS])
def test_a_request_is_refused(reason: Reason, change: Change) -> None:
    world, run = ready()
    permit = world.request(run, **change(world, run))
    with refused(reason):
        world.grant(permit)


@pytest.mark.parametrize(
    "changes",
    [
        {"flop_limit": "0"},
        {"flop_limit": "-1"},
        {"flop_limit": "1e3"},
        {"flop_limit": "٣"},
        {"epoch": -1},
        {"size": -1},
    ],
)
def test_a_request_that_is_none(changes: dict[str, object]) -> None:
    world, run = ready()
    with pytest.raises(Malformed):
        world.grant(changed(world.request(run), **changes))


def test_a_signer_without_a_fresh_view_signs_nothing() -> None:
    # Treaty 6.4
    world, run = ready()
    permit = world.request(run)
    with refused(Reason.STALE):
        world.grant(permit, now=world.now + world.treaty.stale_after + 1)
    world.grant(changed(permit, issued=world.now + 30, expires=world.now + 40))
    late = changed(permit, issued=world.now + 31, expires=world.now + 41)
    with refused(Reason.NOT_YET_VALID):  # issued at no time that the signer's view has reached
        world.grant(late, now=world.now + world.treaty.stale_after)
    with refused(Reason.NOT_YET_VALID):  # nor its clock
        world.grant(late, view_time=world.now + 5)


def test_a_log_that_records_no_time_gets_no_permits() -> None:
    # Treaty 6.3: else its keeper alone could silence every vote, by letting none of them become valid.
    world, run = ready()
    limit = world.treaty.stale_after + world.treaty.heartbeat
    world.now += limit
    world.permit(run)
    world.now += 1
    with refused(Reason.STALE):
        world.permit(run)
    world.now += 30  # and this is what the silence would do
    assert world.vote("trip", "alpha")[0].reason is Reason.NOT_YET_VALID
    world.stamp(0)
    world.permit(run)
    assert world.vote("trip", "alpha")[0].reason is None
    world.check()


def test_nothing_is_granted_while_the_brake_is_on() -> None:
    # Treaty 4.6
    world, run = ready()
    world.trip()
    for _ in ("tripped", "paused", "lifting"):
        with refused(Reason.PAUSED):
            world.permit(run)
        if not run.stopped:
            world.head(run, "stopped")
        else:
            world.vote("lift", *LABS)
    world.stamp(2)
    with refused(Reason.MISSING):  # it has stopped, and must open again first
        world.permit(run)
    with refused(Reason.REPLAYED):  # Treaty 5.5
        world.permit(run, epoch=0)
    world.head(run, "opened")
    world.permit(run)
    world.check()


def test_a_run_must_say_where_it_stands() -> None:
    # Treaty 7.1, 7.2
    world = World()
    world.bind()
    run = world.declare("alpha")
    with refused(Reason.MISSING):
        world.permit(run)
    world.head(run, "opened")
    world.permit(run)
    for status in ("stopped", "opened", "ended"):
        world.head(run, status)
        if status != "opened":
            with refused(Reason.MISSING):
                world.permit(run)
    world.check()


def test_the_allowance_counts_from_the_last_head() -> None:
    # Treaty 5.4: hoarding buys nothing, and a run never gets more than it declared.
    world, run = ready()
    first = world.request(run)
    world.train(run, 4)
    world.head(run, "running")
    grown = world.request(run)
    assert grown.limit == first.limit + 4 * STEP_FLOP
    world.grant(grown)
    with refused(Reason.ALLOWANCE):
        world.grant(changed(grown, flop_limit=str(grown.limit + 1)))
    world.train(run, 27)
    world.head(run, "running")
    last = world.request(run)
    assert last.limit == run.declaration.total_flop
    world.grant(last)
    with refused(Reason.ALLOWANCE):
        world.grant(changed(last, flop_limit=str(last.limit + 1)))


def test_a_barred_run_gets_no_permit() -> None:
    # Treaty 5.6
    world = World(brake_findings_trip="false")
    world.bind()
    run = world.finished("alpha", status="running")
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run, Finding(fault=Fault.NO_PERMIT, severity="violation", segment=(0, 0), detail=""))
    with refused(Reason.BARRED):
        world.permit(run)
    world.check()


def test_no_permit_beyond_what_the_treaty_prohibits() -> None:
    # Treaty 3.3, 3.4: over the lineage, above and not at.
    world = World(scope_prohibited_above='"40 GFLOP"', permit_lineage_gate="false")
    world.bind()
    parent = world.opened("alpha")
    at = world.opened("beta", name="at", steps=10, parents=(parent.id,))
    above = world.opened("beta", name="above", steps=11, parents=(parent.id,))
    world.permit(parent)
    world.permit(at)
    with refused(Reason.PROHIBITED):
        world.permit(above)


# --- the permit


def test_a_permit_needs_a_quorum_of_parties() -> None:
    # Treaty 5.2
    world, run = ready()
    permit = world.request(run)
    for signers in (LABS, PARTIES, ("delta", "alpha", "gamma")):
        opened, envelope = open_permit(world.sealed(permit, *signers), world.treaty, world.treaty.signer_keys)
        assert (opened, envelope.payload) == (permit, canonical(permit))
    for few in (("alpha",), ("alpha", "beta")):
        with refused(Reason.NO_QUORUM):
            open_permit(world.sealed(permit, *few), world.treaty, world.treaty.signer_keys)


def test_signers_are_counted_as_parties_not_as_lines() -> None:
    world, run = ready()
    data = canonical(world.request(run))
    message = pae(KIND, data)
    alpha, beta = (key(p, "signer") for p in ("alpha", "beta"))
    lines = [(k.public.id, k.sign(message)) for k in (alpha, beta)]
    stranger = PrivateKey(b"s" * 32)
    for third in (
        (f"{7:016x}", alpha.sign(message)),  # the same key under another id
        (stranger.public.id, stranger.sign(message)),
        (key("gamma").public.id, key("gamma").sign(message)),  # a party's key, but not its signer's key
    ):
        with refused(Reason.NO_QUORUM):
            open_permit(seal(KIND, data, [*lines, third]), world.treaty, world.treaty.signer_keys)
    with refused(Reason.FORGED):  # the id of a signer, the signature of another
        open_permit(
            seal(KIND, data, [*lines, (key("gamma", "signer").public.id, alpha.sign(message))]),
            world.treaty,
            world.treaty.signer_keys,
        )
    with pytest.raises(Malformed):
        open_permit(seal(KIND, data, [*lines, lines[0]]), world.treaty, world.treaty.signer_keys)


def test_a_permit_is_its_own_kind_and_of_its_treaty() -> None:
    world, run = ready()
    permit = world.request(run)
    keys = [key(s, "signer") for s in LABS]
    with refused(Reason.FOREIGN):
        open_permit(sign("vote", permit, *keys), world.treaty, world.treaty.signer_keys)
    with refused(Reason.FOREIGN):
        open_permit(sign(KIND, changed(permit, treaty="ab" * 32), *keys), world.treaty, world.treaty.signer_keys)
    with refused(Reason.ALLOWANCE):
        open_permit(
            sign(KIND, changed(permit, expires=permit.issued + 11), *keys), world.treaty, world.treaty.signer_keys
        )
    with pytest.raises(Malformed):
        open_permit(sign(KIND, {"run": run.id}, *keys), world.treaty, world.treaty.signer_keys)
    with pytest.raises(Malformed):
        open_permit(b"{}", world.treaty, world.treaty.signer_keys)


@given(st.data())
def test_no_bent_permit_opens(data: st.DataObject) -> None:
    world, run = READY
    good = world.sealed(world.request(run))
    at = data.draw(st.integers(0, len(good) - 1))
    bent = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    with pytest.raises(BrakelineError):
        open_permit(bent, world.treaty, world.treaty.signer_keys)


READY = ready()

# --- the gate


def admitted(world: World, run: Any, state: GateState | None = None, **changes: object) -> GateState:
    permit = changed(world.request(run), **changes)
    state = GateState(run.id) if state is None else state
    return admit(
        state, world.sealed(permit), world.treaty, world.treaty.signer_keys, nonce=permit.nonce, asked_at=1000 * SECOND
    )


def test_a_gate_begins_shut() -> None:
    # Treaty 5.1
    decision = decide(GateState("ab" * 32), now=0, flop=0)
    assert (bool(decision), decision.reason) == (False, "no permit yet")


def test_a_permit_opens_the_gate_until_it_lapses_or_is_used_up() -> None:
    # Treaty 5.1, 5.3, 5.4: to the nanosecond, and to the operation.
    world, run = ready()
    state = admitted(world, run)
    limit, lapse = world.treaty.permit_allowance, (1000 + world.treaty.permit_lifetime) * SECOND
    assert (state.flop_limit, state.deadline) == (limit, lapse)
    assert state.permit == bytes.fromhex(open_envelope(world.sealed(world.request(run))).digest)
    assert decide(state, now=lapse - 1, flop=limit)
    assert decide(state, now=lapse, flop=limit).reason == "permit lapsed"
    assert decide(state, now=lapse - 1, flop=limit + 1).reason == "compute allowance used up"


def test_a_short_permit_is_as_short_as_it_says() -> None:
    world, run = ready()
    state = admitted(world, run, expires=world.now + 3)
    assert state.deadline == 1003 * SECOND


def test_no_wall_clock_opens_a_gate() -> None:
    # Attack A-30: a permit lives from the asking on, in monotonic time. The times it carries are only subtracted, so
    # a clock set back or forward, on the lab's side or in the permit, buys nothing.
    world, run = ready()
    honest = admitted(world, run)
    for years in (-50, -1, 1, 50):
        shift = years * 365 * 86_400
        other = admitted(world, run, issued=world.now + shift, expires=world.now + shift + 10)
        assert (other.deadline, other.flop_limit) == (honest.deadline, honest.flop_limit)


def test_what_a_gate_does_not_admit() -> None:
    world, run = ready()
    other = world.opened("beta")
    permit = world.request(run)
    data = world.sealed(permit)
    state = replace(GateState(run.id), epoch=0, size=permit.size)

    def take(data: bytes, state: GateState = state, nonce: str = permit.nonce) -> GateState:
        return admit(state, data, world.treaty, world.treaty.signer_keys, nonce=nonce, asked_at=0)

    take(data)
    with refused(Reason.REPLAYED):  # an old answer to a new question
        take(data, nonce="0" * 32)
    with refused(Reason.FOREIGN):
        take(world.sealed(world.request(other, nonce=permit.nonce)))
    with refused(Reason.ROLLBACK):
        take(data, state=replace(state, epoch=1))
    with refused(Reason.ROLLBACK):
        take(data, state=replace(state, size=permit.size + 1))
    with refused(Reason.NO_QUORUM):
        take(world.sealed(permit, "alpha", "beta"))
    with refused(Reason.ALLOWANCE):
        take(world.sealed(changed(permit, expires=permit.expires + 1)))
    assert state == replace(GateState(run.id), size=permit.size)


def test_a_halt_shuts_at_once_and_for_good() -> None:
    # Treaty 4.5, 5.5
    world, run = ready()
    state = admitted(world, run)
    shut = halt(state, epoch=1, reason="brake tripped")
    decision = decide(shut, now=0, flop=0)
    assert (bool(decision), decision.reason) == (False, "brake tripped")
    with refused(Reason.ROLLBACK):
        admitted(world, run, shut)
    assert halt(shut, epoch=0, reason="late news").epoch == 1
    assert decide(admitted(world, run, shut, epoch=1), now=0, flop=0)


def test_a_gate_without_a_permit_names_none() -> None:
    state = stand_open(GateState("ab" * 32), until=5)
    assert state.permit == NO_PERMIT
    assert decide(state, now=4, flop=10**30)
    assert not decide(state, now=5, flop=0)
    assert not decide(halt(state, epoch=1, reason="brake"), now=0, flop=0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=12))
def test_a_gate_never_goes_back(steps: list[tuple[int, int, bool]]) -> None:
    # Whatever permits and halts come in any order: epochs only grow, and in each the size; a halt is undone only by a
    # permit of its epoch or a later one.
    world, run = READY
    state = GateState(run.id)
    for epoch, size, permit in steps:
        before = state
        if permit:
            try:
                state = admitted(world, run, state, epoch=epoch, size=size)
            except BrakelineError:
                assert (epoch, size) < (before.epoch, before.size)
                assert state == before
                continue
            assert (state.epoch, state.size, state.halted) == (epoch, size, "")
        else:
            state = halt(state, epoch=epoch, reason="brake")
            assert not decide(state, now=0, flop=0)
        # Of one epoch the log only grows; in a later one it may be another, that was reopened (Treaty 11.9).
        assert (state.epoch, state.size) >= (before.epoch, before.size)


@pytest.mark.parametrize("generations", [1, 3])
def test_what_descends_from_a_barred_run_gets_no_permit(generations: int) -> None:
    # Treaty 5.6: else a barred run trains on under another name.
    world = World(brake_findings_trip="false")
    world.bind()
    barred, free = world.finished("alpha", name="barred"), world.finished("alpha", name="free")
    child, other = barred, free
    for i in range(generations):
        child = world.opened("beta", name=f"child {i}", parents=(child.id,))
        other = world.opened("beta", name=f"other {i}", parents=(other.id,))
    for name, run in (("m", barred), ("n", free)):
        world.edge("alpha", name, run=run.id)
        world.read("lineage", 0.1, "alpha", "beta", subject=model(name))
    for inspector in ("gamma", "delta"):
        world.audit(inspector, barred, violation())
    assert barred.bar
    with refused(Reason.BARRED):
        world.grant(world.request(child))
    if generations == 1:
        world.grant(world.request(other))
    world.check()

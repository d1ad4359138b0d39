"""Runs: what may be declared, which tiers a run is in and what follows, and what lineage counts."""

from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.brake import Phase
from brakeline.core.errors import Malformed, Reason
from brakeline.core.state import apply
from brakeline.core.state import events as ev
from brakeline.core.state.labs import MAX_MERGE
from brakeline.core.statement import open_envelope
from brakeline.core.treaty import Duty, Tier, parse_treaty
from vector import refused
from world import DAY, LABS, STEP_FLOP, Live, World, bound, plain, treaty_text

DIGEST = "ab" * 32
HUGE = {"steps": 10**6, "flop_per_step": str(10**24)}  # 1e30 FLOP


def concerned(world: World) -> set[str]:
    """Names of the runs that the brake concerns now."""
    return {r.declaration.name for r in world.state.runs.by_id.values() if world.state.concerned(r)}


# --- declarations


def test_a_run_is_declared_once_under_a_name() -> None:
    # Treaty 7.1
    world = bound()
    run = world.declare("alpha")
    assert (run.owner, run.covered, run.bound, run.lineage_flop) == ("alpha", True, True, 30 * STEP_FLOP)
    assert (run.name, run.tiers, run.settlement, run.prohibited) == ("alpha/run", ("covered",), "settled", False)
    again = world.log("alpha", "declaration", world.declaration(recipe=DIGEST))
    assert again.reason is Reason.DUPLICATE
    assert world.log("beta", "declaration", world.declaration()).reason is None
    assert [(e.owner, e.name, e.tiers) for e in world.of(ev.Declared)] == [
        ("alpha", "run", ("covered",)),
        ("beta", "run", ("covered",)),
    ]
    with refused(Reason.UNDECLARED):
        world.state.run(DIGEST)
    world.check()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "x" * 65},
        {"name": "a\nb"},
        {"recipe": "x"},
        {"dataset": DIGEST.upper()},
        {"environment": ""},
        {"steps": 0},
        {"steps": -1},
        {"segment_steps": 0},
        {"flop_per_step": "0"},
        {"flop_per_step": "-1"},
        {"flop_per_step": "1e9"},
        {"flop_per_step": "٣"},
        {"flop_per_step": str(10**41)},
        {"parents": ("x",)},
        {"parents": (DIGEST, DIGEST)},
        {"parents": tuple(f"{i:064x}" for i in range(17))},
        {"rung": "trusted"},
        {"chips": -1},
        {"chips": 0.5},
        {"flop_per_second": "-1"},
        {"flop_per_second": "fast"},
        {"domain": "x" * 65},
        {"domain": "\n"},
    ],
)
def test_a_declaration_that_is_none(changes: dict[str, object]) -> None:
    world = bound()
    body = {**plain(world.declaration()), **changes}
    assert world.log("alpha", "declaration", body).reason is Reason.MALFORMED
    assert world.state.runs.names.get(("alpha", "run")) is None
    assert world.state.runs.days == {}
    world.check()


def test_segments_are_as_long_as_the_treaty_says() -> None:
    # Treaty 7.2, attack A-16
    world = bound()
    assert world.log("alpha", "declaration", world.declaration(segment_steps=4)).reason is Reason.PROHIBITED
    world.check()


def test_segments_are_as_long_as_the_lab_says_between_two_bounds() -> None:
    text = treaty_text().replace("segment_steps = 3", "segment_steps = 3\nsegment_most = 6")
    world = World(treaty=parse_treaty(text.encode()))
    world.bind()
    for steps, reason in ((2, Reason.PROHIBITED), (3, None), (6, None), (7, Reason.PROHIBITED)):
        said = world.declaration(name=f"run-{steps}", segment_steps=steps)
        assert world.log("alpha", "declaration", said).reason is reason
    world.check()


@pytest.mark.parametrize("most", ["2", "0", "1_000_000_001"])
def test_the_longest_segment_is_no_shorter_than_the_shortest(most: str) -> None:
    text = treaty_text().replace("segment_steps = 3", f"segment_steps = 3\nsegment_most = {most}")
    with pytest.raises(Malformed, match="segment_most"):
        parse_treaty(text.encode())


# --- moves


def test_a_run_goes_on_elsewhere_and_with_other_ranks() -> None:
    # Treaty 7.5
    world = bound()
    run = world.finished("alpha", 12)

    def moved(steps: int, environment: str, issuer: str = "alpha", **more: int) -> Reason | None:
        return world.log(issuer, "moved", {"run": run.id, "steps": steps, "environment": environment, **more}).reason

    here = run.declaration.environment
    assert moved(12, DIGEST, "beta") is Reason.FOREIGN
    assert moved(12, here) is Reason.REPLAYED  # it is there
    assert moved(11, DIGEST) is Reason.REPLAYED  # step 12 was made elsewhere
    assert [moved(12, here, ranks=n) for n in (0, 65, -1)] == [Reason.MALFORMED] * 3
    assert moved(12, here, ranks=2) is None
    assert moved(12, here, ranks=2) is Reason.REPLAYED
    assert moved(15, DIGEST, ranks=3) is None
    assert moved(18, DIGEST) is None  # as its recipe says
    assert [run.now.ranks(start, 4) for start in (-1, 0, 11, 12, 14, 15, 17, 18, 30)] == [4, 4, 4, 2, 2, 3, 3, 4, 4]
    assert [run.now.environment(start) for start in (0, 12, 15)] == [here, here, DIGEST]
    assert moved(18, here, ranks=5) is None  # before a step was made there
    assert [m.steps for m in run.now.moves] == [12, 15, 18]
    world.check()


# --- lineage


def test_compute_follows_the_weights() -> None:
    # Treaty 3.4, attacks: ten runs below the threshold are one run above it.
    world = bound()
    parents: tuple[str, ...] = ()
    runs = []
    for i in range(1, 13):
        run = world.declare(LABS[i % 3], name=f"part {i}", steps=1, parents=parents)
        assert run.lineage_flop == i * STEP_FLOP
        assert run.covered is (i > 10)
        parents = (run.id,)
        runs.append(run)
    # A common ancestor counts once.
    root = runs[0]
    left = world.declare("alpha", name="left", steps=1, parents=(root.id,))
    right = world.declare("beta", name="right", steps=1, parents=(root.id,))
    both = world.declare("gamma", name="both", steps=1, parents=tuple(sorted((left.id, right.id))))
    assert both.lineage_flop == 4 * STEP_FLOP
    again = world.declare("gamma", name="again", steps=1, parents=tuple(sorted((both.id, root.id, left.id))))
    assert again.lineage_flop == 5 * STEP_FLOP
    world.check()


def test_a_parent_must_be_declared() -> None:
    # Treaty 3.4
    world = bound()
    assert world.log("alpha", "declaration", world.declaration(parents=(DIGEST,))).reason is Reason.UNDECLARED
    world.check()


def chain(world: World, length: int) -> str:
    parents: tuple[str, ...] = ()
    for i in range(length):
        body = world.declaration(name=f"part {i}", steps=1, parents=parents)
        assert world.log("alpha", "declaration", body).reason is None
        parents = (open_envelope(world.entries[-1]).digest,)
    return parents[0]


def test_a_chain_of_three_thousand_costs_no_more_than_one_of_ten() -> None:
    def cost(world: World, parent: str) -> float:
        state, times = world.state, []
        for i in range(60):
            data = world.statement("beta", "declaration", world.declaration(name=f"x{i}", parents=(parent,)))
            begun = process_time()
            state, events = apply(state, data)
            times.append(process_time() - begun)
            assert isinstance(events[0], ev.Entered)
        return sorted(times)[30]

    short, long = bound(), bound()
    few, many = cost(short, chain(short, 10)), cost(long, chain(long, 3_000))
    assert long.state.runs.by_id[chain_end(long)].lineage_flop == 3_000 * STEP_FLOP
    assert many < 5 * few


def chain_end(world: World) -> str:
    return max(world.state.runs.by_id.values(), key=lambda r: r.index).id


def test_a_merge_of_too_many_ancestors_is_refused() -> None:
    # Each ancestor is counted once, so each is looked at.
    world = bound()
    last = chain(world, MAX_MERGE - 1)
    other = world.declare("beta", name="other", steps=1)
    merge = {"steps": 1, "parents": tuple(sorted((last, other.id)))}
    merged = world.declare("beta", name="merge", **merge)
    assert merged.lineage_flop == (MAX_MERGE + 1) * STEP_FLOP
    third = world.declare("beta", name="third", steps=1)
    body = world.declaration(name="more", steps=1, parents=tuple(sorted((merged.id, third.id))))
    assert world.log("beta", "declaration", body).reason is Reason.ALLOWANCE
    assert world.log("beta", "declaration", world.declaration(name="next", parents=(merged.id,))).reason is None


@given(st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 3)), min_size=1, max_size=12))
def test_lineage_is_the_sum_over_all_ancestors(shape: list[tuple[int, int]]) -> None:
    # Treaty 3.4: against the definition, over graphs of any shape.
    world = World()
    ids: list[str] = []
    ancestors: dict[str, set[str]] = {}
    flop: dict[str, int] = {}
    for i, (mask, steps) in enumerate(shape):
        parents = tuple(sorted(x for j, x in enumerate(ids) if mask >> j & 1))
        world.log(LABS[i % 3], "declaration", world.declaration(name=f"{i}", steps=steps, parents=parents))
        id_ = open_envelope(world.entries[-1]).digest
        ids.append(id_)
        ancestors[id_] = {id_}.union(*(ancestors[p] for p in parents))
        flop[id_] = steps * STEP_FLOP
        assert world.state.run(id_).lineage_flop == sum(flop[a] for a in ancestors[id_])
    world.check()


# --- tiers, exemptions


def test_exemptions_are_those_of_the_treaty() -> None:
    # Treaty 3.2: an exempt run needs no permit, but what descends from it carries its compute.
    world = bound()
    exempt = world.declare("alpha", name="serving", purpose="inference")
    assert (exempt.covered, exempt.exempt, exempt.tiers) == (False, "inference", ("covered",))
    child = world.declare("alpha", name="child", steps=1, parents=(exempt.id,))
    assert child.covered
    assert world.log("alpha", "declaration", world.declaration(purpose="safety")).reason is Reason.PROHIBITED
    world.check()


@pytest.mark.parametrize("purpose", ["", "inference", "safety-research"])
def test_no_word_frees_a_run_of_any_size(purpose: str) -> None:
    # Treaty 3.2, 3.3: the word is the lab's, the cap is the treaty's, and a prohibition knows no purpose.
    world = bound()
    run = world.declare("alpha", purpose=purpose, **HUGE)
    assert (run.covered, run.prohibited, run.brakes, run.exempt) == (True, True, True, "")
    assert run.tiers == ("covered", "prohibited")
    assert concerned(world) == {"run"}
    world.head(run, "opened")
    with refused(Reason.PROHIBITED):
        world.permit(run)
    world.trip()
    assert world.phase is Phase.TRIPPED
    world.check()


@pytest.mark.parametrize(("purpose", "cap"), [("inference", 1000), ("safety-research", 100)])
def test_an_exemption_ends_at_its_cap(purpose: str, cap: int) -> None:
    # Treaty 3.2: over the lineage, so that a chain of small exempt runs is no way round; at the cap, not above.
    world = bound()
    at = world.declare("alpha", name="at", purpose=purpose, steps=cap)
    above = world.declare("alpha", name="above", purpose=purpose, steps=cap + 1)
    child = world.declare("beta", name="child", purpose=purpose, steps=1, parents=(at.id,))
    assert [r.exempt for r in (at, above, child)] == [purpose, "", ""]
    assert [r.covered for r in (at, above, child)] == [False, True, True]
    assert not any(r.prohibited for r in (at, above, child))
    world.check()


def test_many_small_exempt_runs_are_no_way_round_the_cap() -> None:
    # Treaty 3.2: the cap is over all that a lab declares for the purpose, of one lineage or of many.
    world = bound()
    runs = [world.declare("alpha", name=f"part {i}", purpose="safety-research", steps=40) for i in range(4)]
    assert [r.exempt for r in runs] == ["safety-research", "safety-research", "", ""]
    assert [r.covered for r in runs] == [False, False, True, True]
    assert world.declare("beta", name="theirs", purpose="safety-research", steps=40).exempt
    assert world.declare("alpha", name="serving", purpose="inference", steps=40).exempt
    world.stamp(world.treaty.window + 2 * DAY)
    world.bind(expires=world.now + DAY)
    assert world.declare("alpha", name="later", purpose="safety-research", steps=40).exempt
    world.check()


def test_an_exempt_run_stops_with_the_brake_unless_the_treaty_says_so() -> None:
    # Treaty 3.2, 4.5
    world = bound()
    serving = world.opened("alpha", name="serving", purpose="inference")
    research = world.opened("beta", name="research", purpose="safety-research")
    assert [(r.covered, r.brakes) for r in (serving, research)] == [(False, False), (False, True)]
    assert concerned(world) == set()
    world.trip()
    assert concerned(world) == {"research"}
    assert world.phase is Phase.TRIPPED
    for run in (serving, research):
        world.train(run, 1)
    assert world.head(research, "running").reason is None  # the news takes time
    assert world.head(research, "opened").reason is Reason.PAUSED
    assert world.head(research, "stopped").reason is None
    assert world.phase is Phase.PAUSED
    assert world.head(research, "opened").reason is Reason.PAUSED
    for status in ("running", "stopped", "opened"):
        assert world.head(serving, status).reason is None
    world.check()


def test_a_run_of_a_party_that_is_not_bound_is_not_stopped() -> None:
    # Treaty 2.2
    world = World()
    world.bind("beta", "gamma", "delta")
    run = world.opened("alpha")
    assert (run.covered, run.bound) == (True, False)
    assert concerned(world) == set()
    world.bind("alpha")
    assert concerned(world) == {"run"}
    world.check()


def test_a_run_that_was_declared_while_its_lab_was_bound_stays_concerned() -> None:
    # Treaty 2.2, 2.5: leaving is for the next run.
    world = World()
    world.bind(expires=world.now + 900 * DAY)
    world.opened("alpha", name="then")
    world.withdraw("alpha")
    world.stamp(world.treaty.withdrawal_notice)
    world.opened("alpha", name="since")
    assert "alpha" not in world.state.active
    assert concerned(world) == {"then"}
    world.vote("trip", "beta", "gamma")
    assert (world.phase, world.unmet()) == (Phase.TRIPPED, ("stopped",))
    world.check()


def test_attested_runs_are_admitted_where_the_treaty_says_so() -> None:
    # Treaty 7.8: behind such a run stands the lab's word, so there is nothing of it to settle.
    world = bound()
    run = world.opened("alpha", rung="attested")
    assert run.settlement == "settled"
    world.train(run, 4)
    world.head(run, "running")
    assert (run.covered, run.settlement, run.stopped) == (True, "settled", False)
    world.trip()
    assert world.unmet() == ("stopped",)
    world.head(run, "stopped")
    assert world.unmet() == ()
    world.check()
    strict = bound(audit_attested_runs="false")
    assert strict.log("alpha", "declaration", strict.declaration(rung="attested")).reason is Reason.PROHIBITED
    strict.check()


DUTIES = frozenset[Duty](("declared", "permitted"))


@pytest.mark.parametrize(
    ("criteria", "run", "holds"),
    [
        ({"above": 10}, {"lineage": 10}, False),  # above, not at
        ({"above": 10}, {"lineage": 11}, True),
        ({"above": 10}, {"window": 11}, False),
        ({"above": 10, "sum": True}, {"window": 11}, True),
        ({"above": 10, "sum": True}, {"lineage": 11}, True),
        ({"rate_above": 5}, {"rate": 5}, False),
        ({"rate_above": 5}, {"rate": 6}, True),
        ({"chips_above": 3}, {"chips": 3}, False),
        ({"chips_above": 3}, {"chips": 4}, True),
        ({"above": 10, "chips_above": 3}, {"lineage": 11}, False),  # all that it states
        ({"above": 10, "chips_above": 3}, {"lineage": 11, "chips": 4}, True),
        ({"above": 10, "domain": "bio"}, {"lineage": 11}, False),
        ({"above": 10, "domain": "bio"}, {"lineage": 11, "domain": "bio"}, True),
        ({"above": 10}, {"lineage": 11, "domain": "bio"}, True),
    ],
)
def test_a_tier_holds_what_it_states(criteria: dict[str, Any], run: dict[str, Any], holds: bool) -> None:
    # Treaty 3.1
    none: dict[str, Any] = {"above": None, "rate_above": None, "chips_above": None, "domain": "", "sum": False}
    tier = Tier(name="t", duties=DUTIES, **{**none, **criteria})
    assert tier.holds(**{"lineage": 0, "window": 0, "rate": 0, "chips": 0, "domain": "", **run}) is holds


# --- sums (attack A-25) and decisions


def summed(**changes: str) -> World:
    world = World(**{"scope.tier.sum": "true", **changes})
    world.bind(expires=world.now + 900 * DAY)
    return world


def test_the_eleventh_of_twenty_small_runs_is_covered_and_a_notice_is_due() -> None:
    # Treaty 3.6, 10.2, attack A-25: no common weights, one job.
    world = summed()
    runs = [world.declare("alpha", name=f"r{i}", steps=1) for i in range(20)]
    assert [r.covered for r in runs] == [False] * 10 + [True] * 10
    assert all(r.lineage_flop == STEP_FLOP for r in runs)
    (due,) = world.of(ev.Due)  # one notice at a time, about all of them
    assert (due.party, due.what, due.about) == ("alpha", "notice", runs[10].index)
    assert due.by == due.since + world.treaty.notification_clock
    other = world.declare("beta", steps=1)
    assert not other.covered  # each lab's own
    large = world.declare("gamma", steps=11)
    assert large.covered
    assert len(world.of(ev.Due)) == 1  # a declaration that names its compute is its own notice
    world.check()


def test_runs_count_together_within_the_window() -> None:
    # Treaty 3.6
    world = summed(scope_window='"30 d"')
    first = world.declare("alpha", name="first", steps=10)
    world.stamp(15 * DAY)
    second = world.declare("alpha", name="second", steps=10)
    world.stamp(20 * DAY)
    third = world.declare("alpha", name="third", steps=1)
    world.stamp(40 * DAY)
    late = world.declare("alpha", name="late", steps=10)
    assert [r.covered for r in (first, second, third, late)] == [False, True, True, False]
    assert world.state.runs.days["alpha"].keys() == {world.state.time // DAY}
    world.check()


def test_what_was_not_declared_is_not_counted() -> None:
    world = summed()
    for changes in ({"name": ""}, {"parents": (DIGEST,)}, {"purpose": "profit"}):
        assert world.log("alpha", "declaration", world.declaration(**changes)).reason is not None
    assert world.state.runs.days == {}
    assert not world.declare("alpha", steps=10).covered
    world.check()


def designate(world: World, run: Live, tier: str, *parties: str) -> list[Reason | None]:
    return [world.log(p, "designation", {"run": run.id, "tier": tier}).reason for p in parties]


def test_a_quorum_puts_a_run_in_a_tier() -> None:
    # Treaty 3.7, 10.2
    world = bound()
    run = world.opened("alpha", steps=1)
    assert (run.covered, concerned(world)) == (False, set())
    assert designate(world, run, "covered", "beta", "beta", "gamma") == [None] * 3
    assert not run.covered
    assert designate(world, run, "covered", "delta") == [None]
    assert (run.tiers, run.chosen, run.covered) == (("covered",), ("covered",), True)
    assert concerned(world) == {"run"}
    assert [(e.run, e.tier) for e in world.of(ev.Designated)] == [(run.id, "covered")]
    assert [(e.party, e.what) for e in world.of(ev.Due)] == [("alpha", "notice")]
    assert designate(world, run, "covered", "alpha") == [None]
    assert len(world.of(ev.Designated)) == 1
    world.permit(run)
    assert designate(world, run, "prohibited", "beta", "gamma", "delta") == [None] * 3
    with refused(Reason.PROHIBITED):
        world.permit(run)
    world.check()


def test_a_tier_is_chosen_by_those_in_force() -> None:
    # Treaty 3.7, 2.2
    world = World()
    world.bind("alpha", "beta", "gamma")
    run = world.declare("alpha", steps=1)
    assert designate(world, run, "covered", "delta") == [Reason.WRONG_ROLE]
    assert designate(world, run, "vast", "beta") == [Reason.MALFORMED]
    assert world.log("beta", "designation", {"run": DIGEST, "tier": "covered"}).reason is Reason.UNDECLARED
    assert designate(world, run, "covered", "beta", "gamma") == [None, None]
    world.bind("delta")
    assert designate(world, run, "covered", "delta") == [None]
    assert run.covered
    world.check()


def test_a_decision_about_a_run_of_a_party_that_is_not_bound_lays_no_duty_on_it() -> None:
    # Treaty 2.2
    world = World()
    world.bind("beta", "gamma", "delta")
    run = world.declare("alpha", steps=1)
    designate(world, run, "covered", "beta", "gamma", "delta")
    assert run.covered
    assert world.of(ev.Due) == []
    assert world.state.dues.owed == {}
    world.check()


def test_a_treaty_that_sums_what_it_prohibits_is_none() -> None:
    # Treaty 3.6: each run permitted, and together prohibited?
    with pytest.raises(Malformed, match=r"Treaty 3\.6"):
        World(**{"scope.tier.sum": "true", "scope.tier.duties": '["prohibited"]'})

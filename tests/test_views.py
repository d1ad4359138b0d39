"""What is blocked, why, who can change it and by which command; and the report that machines read."""

import re
from typing import Any

import click
import pytest

from brakeline.cli.main import cli
from brakeline.core import views
from brakeline.core.brake import Phase
from brakeline.core.duty import Request
from brakeline.core.encoding import canonical
from brakeline.core.finding import Fault, Finding
from brakeline.core.pledge import Assent, Pledge
from brakeline.core.run import Designation
from brakeline.core.state.state import begin
from brakeline.core.tlog.policy import verify_cosigned
from brakeline.core.treaty import articles_digest
from brakeline.core.views import Blocked
from world import DAY, PARTIES, World, model, violation

EVERYBODY = tuple(sorted(PARTIES))
GAP = Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=(0, 0), detail="no time")


def waiting(world: World, what: str) -> list[Blocked]:
    """What waits of one thing; every command that it names is one, with its options."""
    found = views.waiting(world.state)
    for b in found:
        assert b.what
        assert b.why
        assert b.do
        assert set(b.who) <= set(PARTIES)
        for command in re.findall(r"brakeline ([a-z][a-z ]*[a-z])(?=[ ,:;]|$)", b.do):
            check_command(command.split(), b.do)
    return [b for b in found if b.what == what]


def check_command(words: list[str], text: str) -> None:
    group: click.Command = cli
    for word in words:
        if not isinstance(group, click.Group):
            return
        found = group.get_command(click.Context(group), word)
        assert found is not None, f"no command {' '.join(words)}"
        group = found
    for option in re.findall(r"--[a-z-]+", text):
        assert any(option in p.opts for p in group.params), option


def only(blocked: list[Blocked]) -> Blocked:
    (b,) = blocked
    return b


def world(**changes: str) -> World:
    made = World(**changes)
    made.bind()
    made.stamp()
    return made


# ---- parties ----


def test_nothing_waits_where_all_is_well() -> None:
    w = world()
    w.opened("alpha")
    w.stamp()
    assert views.waiting(w.state) == ()


def test_who_has_not_assented_must_sign() -> None:
    w = World()
    w.bind("alpha", "beta", "gamma")
    b = only(waiting(w, "delta"))
    assert (b.why, b.who) == ("it has not assented", ("delta",))
    assert b.do.startswith("brakeline treaty sign")
    assert {b.what for b in views.waiting(begin(w.treaty))} == set(PARTIES)


def test_who_has_no_pledge_must_pledge() -> None:
    w = World()
    w.bind("alpha", "beta", "gamma")
    w.log("delta", "assent", Assent(text=w.treaty.digest, articles=articles_digest(w.treaty)))
    b = only(waiting(w, "delta"))
    assert (b.why, b.who, b.do) == ("it has no pledge in force", ("delta",), "brakeline pledge")


def test_a_pledge_that_has_expired_must_be_renewed() -> None:
    w = world()
    w.stamp(2 * DAY)
    assert only(waiting(w, "gamma")).why == "it has no pledge in force"


@pytest.mark.parametrize(
    ("condition", "others"),
    [
        ("group others all beta gamma delta\nquorum others\n", ("delta",)),
        ("group others 2 delta gamma\nquorum others\n", ("delta",)),
        ("quorum delta\n", ("delta",)),
        ("group inner any gamma delta\ngroup others all inner beta\nquorum others\n", ()),
    ],
)
def test_an_unmet_condition_waits_for_those_whom_it_names(condition: str, others: tuple[str, ...]) -> None:
    w = World()
    w.bind("beta", "gamma")
    w.bind("alpha", condition=condition)
    if not others:
        assert waiting(w, "alpha") == []
        return
    b = only(waiting(w, "alpha"))
    assert (b.why, b.who, b.do) == ("the condition of its pledge does not hold", others, "brakeline pledge")


def test_before_the_treaty_is_in_force_everybody_waits_for_the_day() -> None:
    w = World(treaty_effective="2026-02-01T00:00:00Z")
    w.bind()
    b = only(waiting(w, "alpha"))
    assert b == Blocked("alpha", "the treaty is in force from 2026-02-01 00:00:00 UTC (Treaty 2.3)", (), "wait")


def test_who_has_left_is_not_asked() -> None:
    w = World()
    w.bind(expires=w.now + 400 * DAY)
    w.withdraw("delta")
    w.stamp(w.treaty.withdrawal_notice + 1)
    assert "delta" not in w.state.active
    assert waiting(w, "delta") == []


def test_an_equivocator_waits_for_an_amendment() -> None:
    w = world()
    for reason in ("one", "two"):
        at = w.append(w.statement("beta", "vote", {"motion": "trip", "epoch": 0, "reason": reason}, seq=99)).index
    b = only(waiting(w, "beta"))
    assert b.why == f"it equivocated at entry {at}"
    assert "amendment" in b.do


# ---- the lift ----


def test_missing_votes_are_those_of_who_has_not_voted() -> None:
    w = world()
    w.trip()
    w.stamp()
    b = only(waiting(w, "the lift"))
    assert (b.why, b.who) == ("3 more votes are needed (Treaty 8.1)", EVERYBODY)
    assert b.do == "brakeline vote lift"
    w.vote("lift", "alpha", "gamma")
    b = only(waiting(w, "the lift"))
    assert (b.why, b.who) == ("1 more vote is needed (Treaty 8.1)", ("beta", "delta"))


def test_a_run_that_has_not_stopped_holds_up_the_pause() -> None:
    """Its lab says that it stopped, or its permits lapse at a time that is named as people name it."""
    w = world()
    run = w.opened("alpha")
    w.trip()
    assert w.phase is Phase.TRIPPED
    b = only([b for b in waiting(w, "the lift") if "stopped" in b.why])
    assert (b.why, b.who) == ("alpha/run has not logged that it stopped", ("alpha",))
    assert b.do.endswith("its permits lapse after the next stamp")
    w.stamp()
    b = only([b for b in waiting(w, "the lift") if "stopped" in b.why])
    assert re.search(r"its permits lapse at 2026-01-01 02:4\d:\d\d UTC$", b.do)
    assert w.head(run, "stopped").reason is None
    assert w.phase is Phase.PAUSED
    assert [b for b in waiting(w, "the lift") if "stopped" in b.why] == []


@pytest.mark.parametrize("conditions", ['["audited"]', '["readings"]', "[]"])
def test_a_pause_waits_for_runs_also_where_a_lift_would_not(conditions: str) -> None:
    w = world(lift_conditions=conditions)
    w.opened("alpha")
    w.trip()
    assert w.phase is Phase.TRIPPED
    assert [b.who for b in waiting(w, "the lift") if "has not logged that it stopped" in b.why] == [("alpha",)]


def test_an_unaudited_run_holds_up_the_lift_until_it_is_held_back_alone() -> None:
    w = world()
    run = w.finished("alpha")
    w.trip()
    w.stamp()
    (b,) = [b for b in waiting(w, "the lift") if "inspectors" in b.why]
    assert (b.why, b.who) == ("alpha/run is passed by 0 of 2 inspectors at its last head", ("beta", "delta", "gamma"))
    assert b.do.startswith("brakeline audit alpha/run, or wait: from 2026-01-01 03:4")
    w.audit("beta", run)
    (b,) = [b for b in waiting(w, "the lift") if "inspectors" in b.why]
    assert (b.why, b.who) == ("alpha/run is passed by 1 of 2 inspectors at its last head", ("delta", "gamma"))
    w.audit("delta", run)
    assert [b for b in waiting(w, "the lift") if "inspectors" in b.why] == []


def test_who_could_not_pass_it_has_not_passed_it() -> None:
    """An inspector that could not finish may try again, and is not counted as if it had passed the run."""
    w = world(**{"lift.settle_within": '"1 h"'})
    run = w.finished("alpha")
    w.trip()
    w.stamp()
    for inspector in ("beta", "gamma"):
        assert w.audit(inspector, run, GAP).reason is None
    assert run.settlement == "tried"
    assert [b for b in waiting(w, "the lift") if "inspectors" in b.why] == []  # nor does it hold up the lift
    w.vote("lift", "alpha", "beta", "gamma")
    w.stamp(5)
    w.stamp(5)
    assert (w.phase, run.held) == (Phase.CLEAR, True)
    b = only(waiting(w, "alpha/run"))
    assert (b.why, b.who) == ("alpha/run is passed by 0 of 2 inspectors at its last head", ("beta", "delta", "gamma"))
    assert b.do == "brakeline audit alpha/run"


def test_an_allegation_waits_for_who_has_not_looked() -> None:
    w = world()
    run = w.finished("alpha")
    w.trip()
    w.stamp()
    assert w.audit("beta", run, violation()).reason is None
    (b,) = [b for b in waiting(w, "the lift") if "alleges" in b.why]
    assert b.why == "beta alleges of alpha/run: replay-mismatch at steps 0-3"
    assert b.who == ("delta", "gamma")
    want = "--confirm: 1 more uphold it, 2 that looked there in the declared environment refute it, or wait: from 2026"
    assert want in b.do
    w.audit("delta", run, segments=((0, 3),), findings=(), verdict="partial")
    (b,) = [b for b in waiting(w, "the lift") if "alleges" in b.why]
    assert b.who == ("gamma",)
    assert "1 more uphold it, 1 that looked there" in b.do


def test_a_loose_denial_of_what_was_seen_strictly_may_look_again() -> None:
    w = world()
    run = w.finished("alpha")
    w.trip()
    w.stamp()
    w.audit("beta", run, violation())
    w.audit("delta", run, segments=((0, 3),), findings=(), verdict="partial", environment="cd" * 32)
    (b,) = [b for b in waiting(w, "the lift") if "alleges" in b.why]
    assert b.who == ("delta", "gamma")


def test_a_gauge_at_its_threshold_holds_up_the_lift() -> None:
    w = world(lift_conditions='["readings"]')
    w.read("lineage", 2.0, "alpha", "beta")
    w.stamp()
    assert w.phase is Phase.PAUSED
    (b,) = [b for b in waiting(w, "the lift") if "gauge" in b.why]
    assert (b.why, b.who) == ("gauge lineage stands at its threshold", EVERYBODY)
    assert b.do == "measure again: brakeline gauge lineage, then brakeline reading"


def test_a_clear_brake_waits_for_no_lift() -> None:
    w = world()
    w.vote("trip", "alpha")
    assert waiting(w, "the lift") == []


# ---- runs ----


def test_a_barred_run_is_over_for_its_lab() -> None:
    w = world(brake_findings_trip="false")
    run = w.finished("alpha")
    for inspector in ("beta", "gamma"):
        w.audit(inspector, run, violation())
    assert run.bar
    b = only(waiting(w, "alpha/run"))
    assert b == Blocked(
        "alpha/run", "barred: replay-mismatch at steps 0-3 (Treaty 5.6)", ("alpha",), "declare another run"
    )


def test_a_prohibited_run_is_over_for_its_lab() -> None:
    w = world()
    w.opened("beta", flop_per_step=str(10**18))
    b = only(waiting(w, "beta/run"))
    assert b.why == "it is in a tier that is prohibited (Treaty 3.3)"
    assert b.who == ("beta",)
    assert b.do == "declare a smaller run"


def test_a_run_that_is_held_back_waits_for_its_audit() -> None:
    w = world(**{"lift.settle_within": '"1 min"'})
    run = w.finished("alpha")
    w.trip()
    for _ in range(3):
        w.stamp(60)
    w.vote("lift", "alpha", "beta", "gamma")
    w.stamp(5)
    assert (w.phase, run.held) == (Phase.CLEAR, True)
    b = only(waiting(w, "alpha/run"))
    assert b.why == "alpha/run is passed by 0 of 2 inspectors at its last head"
    w.audit("beta", run, violation())
    b = only(waiting(w, "alpha/run"))
    assert b.why.startswith("beta alleges of alpha/run")
    assert "wait" not in b.do
    w.audit("gamma", run, segments=((0, 3),), findings=(), verdict="partial")
    w.audit("delta", run, segments=((0, 3),), findings=(), verdict="partial")
    for inspector in ("gamma", "delta"):
        w.audit(inspector, run)
    assert waiting(w, "alpha/run") == []


def test_a_successor_waits_for_its_parent_to_be_told_and_read() -> None:
    w = world()
    parent = w.finished("alpha", status="ended", steps=30)
    w.opened("beta", name="child", parents=(parent.id,))
    b = only(waiting(w, "beta/child"))
    assert b.why == "no edge says which model its parent alpha/run made (Treaty 3.5)"
    assert (b.who, b.do) == (("alpha",), "brakeline edge")
    assert w.edge("alpha", "m", run=parent.id).reason is None
    b = only(waiting(w, "beta/child"))
    assert b.why == "no safety reading of its parent alpha/run counts (Treaty 5.8)"
    assert (b.who, b.do) == (EVERYBODY, "brakeline gauge lineage, then brakeline reading")
    w.read("lineage", -0.5, "alpha", subject=model("m"))
    assert waiting(w, "beta/child")
    w.read("lineage", -0.5, "delta", subject=model("m"))
    assert waiting(w, "beta/child") == []


def test_runs_of_who_is_not_bound_wait_for_nothing() -> None:
    w = World()
    w.opened("beta", flop_per_step=str(10**18))
    assert waiting(w, "beta/run") == []


# ---- what is owed ----


def test_a_report_is_due_of_whom_it_was_asked() -> None:
    w = world()
    asked = w.log("alpha", "request", Request(party="beta", text="what of the last run?")).index
    b = only(waiting(w, f"a report about entry {asked}"))
    assert b.who == ("beta",)
    assert re.fullmatch(r"due by 2026-01-16 02:46:41 UTC \(Treaty 10\.4\)", b.why)
    assert b.do == f"brakeline duty report --about {asked}"


def test_a_notice_is_due_of_whose_run_was_put_in_a_tier() -> None:
    w = world()
    run = w.opened("alpha", flop_per_step="1")
    for party in ("beta", "gamma", "delta"):
        at = w.log(party, "designation", Designation(run=run.id, tier="covered")).index
    b = only(waiting(w, f"a notice about entry {at}"))
    assert (b.who, b.do) == (("alpha",), f"brakeline duty notice --about {at}")


# ---- the report ----


def reported(w: World) -> dict[str, Any]:
    return views.report(w.state, verify_cosigned(w.checkpoint(), w.treaty.policy))


def test_the_report_holds_all_of_it_as_plain_values() -> None:
    w = world()
    run = w.finished("alpha")
    w.audit("beta", run, violation())
    w.log("alpha", "request", Request(party="beta", text="what of the last run?"))
    w.read("speedup", 5.0, "alpha", "beta")
    w.trip()
    w.stamp()
    found = reported(w)
    assert canonical(found)
    assert found["brake"]["phase"] == w.phase == "paused"
    assert found["brake"]["cause"] == "votes of alpha, beta"
    assert found["checkpoint"]["size"] == w.state.size
    assert [p["bound"] for p in found["parties"]] == [True] * 4
    assert [(b["what"], b["who"]) for b in found["waiting"]] == [(b.what, list(b.who)) for b in views.waiting(w.state)]
    (shown,) = found["runs"]
    assert shown["examined"] == {"beta": "fail"}
    assert shown["allegations"][0]["accusers"] == ["beta"]
    assert [d["party"] for d in found["due"]] == ["beta"]
    history = views.history(w.events)
    assert [h["phase"] for h in history["history"]] == ["tripped", "paused"]
    assert canonical(history)


def test_the_report_of_a_log_that_has_just_begun() -> None:
    assert canonical(reported(World()))


def test_tallies() -> None:
    w = world()
    assert views.tally(w.state, "trip", "alpha") == "no vote to trip stands any more"
    w.vote("trip", "alpha")
    assert views.tally(w.state, "trip", "alpha") == "1 of 2 votes to trip"
    assert views.missing_votes(w.state, "trip") == 1
    w.vote("trip", "beta")
    assert views.tally(w.state, "trip", "alpha") == "no vote to trip stands any more"
    assert Pledge(condition="quorum none\n").group(frozenset(PARTIES)) is None

"""What is due, since when and by whom: incidents, notices, requests and reports, and what lapses (Article 10)."""

import pytest

from brakeline.core.brake import Phase
from brakeline.core.duty import MAX_TEXT
from brakeline.core.errors import Reason
from brakeline.core.state import events as ev
from brakeline.core.state.dues import MAX_ASKED, MAX_LAPSES, Lapse, Owed
from world import DAY, Outcome, World, bound

DIGEST = "ab" * 32


def bound_for_long(**changes: str) -> World:
    world = World(**changes)
    world.bind(expires=world.now + 900 * DAY)
    return world


def ask(world: World, by: str, of: str, text: str = "what was that?") -> Outcome:
    return world.log(by, "request", {"party": of, "text": text})


def report(world: World, by: str, about: int) -> Outcome:
    return world.log(by, "report", {"about": about, "text": "this is what it was"})


def owed(world: World) -> list[tuple[str, str, int]]:
    return [(o.party, o.what, o.about) for _, o in sorted(world.state.dues.owed.items())]


# --- requests and reports


def test_a_report_that_is_asked_for_is_due() -> None:
    # Treaty 10.3
    world = bound_for_long()
    asked = ask(world, "beta", "alpha")
    by = world.now + world.treaty.report_clock
    (due,) = world.of(ev.Due)
    assert due == ev.Due(entry=asked.index, party="alpha", what="report", about=asked.index, since=world.now, by=by)
    assert world.state.dues.owed == {asked.index: Owed("alpha", "report", asked.index, world.now, by, "beta")}
    assert report(world, "gamma", asked.index).reason is Reason.MISSING
    assert report(world, "alpha", asked.index + 1).reason is Reason.MISSING
    notice = world.log("alpha", "notice", {"about": asked.index, "text": "x"})
    assert notice.reason is Reason.MISSING  # a notice is no report
    world.stamp(world.treaty.report_clock)
    given = report(world, "alpha", asked.index)  # at the last second
    assert given.reason is None
    assert world.of(ev.Met) == [ev.Met(entry=given.index, party="alpha", about=asked.index)]
    assert [(e.party, e.kind) for e in world.of(ev.Reported)] == [("beta", "request"), ("alpha", "report")]
    assert owed(world) == []
    assert report(world, "alpha", asked.index).reason is Reason.MISSING
    world.stamp(world.treaty.report_clock)
    assert world.of(ev.Lapsed) == []
    assert world.state.dues.lapses == {}
    world.check()


def test_a_report_that_is_not_given_in_time_is_a_lapse() -> None:
    # Treaty 10.4: recorded against the party, and nothing else follows from it.
    world = bound_for_long()
    run = world.opened("alpha")
    asked = ask(world, "beta", "alpha")
    by = world.now + world.treaty.report_clock
    world.stamp(world.treaty.report_clock)
    assert world.of(ev.Lapsed) == []
    stamp = world.stamp(1)
    assert world.of(ev.Lapsed) == [ev.Lapsed(entry=stamp.index, party="alpha", what="report", about=asked.index, by=by)]
    assert world.state.dues.lapses == {"alpha": (Lapse("report", asked.index, by),)}
    assert owed(world) == []
    assert report(world, "alpha", asked.index).reason is Reason.MISSING
    world.stamp(1)
    assert len(world.of(ev.Lapsed)) == 1
    assert (world.phase, run.bar) == (Phase.CLEAR, None)
    world.permit(run)
    world.check()


def test_one_party_asks_another_so_much_at_a_time() -> None:
    # Nobody buries another in questions: and what one asks keeps no third from asking.
    world = bound_for_long()
    asked = [ask(world, "beta", "alpha") for _ in range(MAX_ASKED + 1)]
    assert [x.reason for x in asked] == [None] * MAX_ASKED + [Reason.ALLOWANCE]
    assert ask(world, "gamma", "alpha").reason is None
    assert ask(world, "beta", "gamma").reason is None
    report(world, "alpha", asked[2].index)
    assert ask(world, "beta", "alpha").reason is None
    world.check()


@pytest.mark.parametrize("of", ["beta", "omega", ""])
def test_a_request_is_for_another_party(of: str) -> None:
    world = bound()
    assert ask(world, "beta", of).reason is Reason.MALFORMED
    assert owed(world) == []
    world.check()


@pytest.mark.parametrize("text", ["", "x" * (MAX_TEXT + 1), "a\x07b", "a\tb", "\u202eabc"])
def test_texts_can_be_shown(text: str) -> None:
    world = bound()
    for kind, body in (
        ("request", {"party": "alpha"}),
        ("notice", {"about": -1}),
        ("report", {"about": 0}),
        ("incident", {"incident": "safety", "known": world.now}),
    ):
        assert world.log("beta", kind, {**body, "text": text}).reason is Reason.MALFORMED
    assert world.of(ev.Reported) == []
    lines = "x" * 1000 + "\n" + "é日" * 1000
    assert ask(world, "beta", "alpha", lines).reason is None
    world.check()


# --- notices


def test_a_run_that_enters_a_tier_by_sum_is_notified() -> None:
    # Treaty 10.2, 3.6
    world = bound_for_long(**{"scope.tier.sum": "true"})
    for i in range(3):
        world.declare("alpha", name=f"r{i}", steps=9)
    ((_, what, about),) = owed(world)
    assert what == "notice"
    by = world.state.dues.owed[about].by
    assert by == world.state.dues.owed[about].since + world.treaty.notification_clock
    assert report(world, "alpha", about).reason is Reason.MISSING
    assert world.log("beta", "notice", {"about": about, "text": "x"}).reason is Reason.MISSING
    assert world.log("alpha", "notice", {"about": about, "text": "a sweep"}).reason is None
    assert owed(world) == []
    world.declare("alpha", name="more", steps=1)
    assert len(world.of(ev.Due)) == 2  # the next one is due again
    world.stamp(world.treaty.notification_clock + 1)
    assert [(e.party, e.what) for e in world.of(ev.Lapsed)] == [("alpha", "notice")]
    world.check()


def test_a_notice_that_answers_nothing_is_put_on_record() -> None:
    # Treaty 10.2: known before anybody asks.
    world = bound()
    assert world.log("alpha", "notice", {"about": -1, "text": "next month we go above"}).reason is None
    assert [(e.party, e.kind, e.text) for e in world.of(ev.Reported)] == [
        ("alpha", "notice", "next month we go above"),
    ]
    assert world.of(ev.Met) == []
    world.check()


# --- incidents


def test_an_incident_is_reported_by_its_class() -> None:
    # Treaty 10.1
    world = bound()
    within = {c.name: c.within for c in world.treaty.incidents}
    assert within == {"safety": 72 * 3600, "imminent-danger": 24 * 3600}
    for name, known, late in (
        ("safety", world.now - within["safety"], False),
        ("safety", world.now - within["safety"] - 1, True),
        ("imminent-danger", world.now - within["imminent-danger"], False),
        ("imminent-danger", world.now - within["safety"], True),
        ("safety", world.now + world.treaty.skew, False),
    ):
        before = len(world.of(ev.Lapsed))
        outcome = world.log("alpha", "incident", {"incident": name, "known": known, "text": "it got out"})
        assert outcome.reason is None
        assert len(world.of(ev.Lapsed)) - before == late, (name, known)
        if late:
            by = known + within[name]
            assert world.state.dues.lapses["alpha"][-1] == Lapse("incident", outcome.index, by)
    told = [(e.kind, e.incident) for e in world.of(ev.Reported)]
    assert told == [("incident", name) for name in ("safety", "safety", *["imminent-danger"] * 2, "safety")]
    for changes in ({"incident": "boredom"}, {"known": world.now + world.treaty.skew + 1}, {"known": -1}):
        body = {"incident": "safety", "known": world.now, "text": "x", **changes}
        assert world.log("alpha", "incident", body).reason is Reason.MALFORMED
    world.check()


def test_the_state_names_so_many_lapses_of_a_party() -> None:
    world = bound()
    for _ in range(MAX_LAPSES + 5):
        world.log("alpha", "incident", {"incident": "safety", "known": 0, "text": "late"})
    world.log("beta", "incident", {"incident": "safety", "known": 0, "text": "late"})
    assert {p: len(x) for p, x in world.state.dues.lapses.items()} == {"alpha": MAX_LAPSES, "beta": 1}
    assert len(world.of(ev.Lapsed)) == MAX_LAPSES + 6  # the log has them all
    world.check()


def test_several_things_lapse_at_their_own_time() -> None:
    # Treaty 10.4
    world = bound_for_long(**{"clocks.report": '"1 d"', "clocks.notification": '"3 d"', "scope.tier.sum": "true"})
    first = ask(world, "beta", "alpha")
    world.declare("gamma", name="a", steps=9)
    world.declare("gamma", name="b", steps=9)
    world.stamp(DAY // 2)
    second = ask(world, "beta", "gamma")
    lapsed = []
    for _ in range(8):
        world.stamp(DAY // 2)
        lapsed.append([(e.party, e.what) for e in world.of(ev.Lapsed)])
    assert owed(world) == []
    assert lapsed[-1] == [("alpha", "report"), ("gamma", "report"), ("gamma", "notice")]
    assert [len(x) for x in lapsed] == [1, 1, 2, 2, 3, 3, 3, 3]
    assert (first.reason, second.reason) == (None, None)
    world.check()

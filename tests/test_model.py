"""The small models of succession: ours shows nothing in every state, and each naive rule fails as it must."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "spec" / "model"))

import brake as brake_model
import handover
import keys as keys_model
import reopen as reopen_model
import takeover

WORLDS = {world.name: world for world in handover.worlds()}


@pytest.mark.parametrize(
    ("name", "depth", "divisions"),
    [
        ("one of four replaced", 4, 18_768),
        ("two of four replaced", 4, 28_152),
        ("all of two replaced", 4, 14_076),
        ("one of seven replaced, two lie", 3, 3_540),
        ("one after another", 3, 6272),
        ("two rivals", 3, 12_048),
    ],
)
def test_no_two_histories_are_accepted_however_the_witnesses_are_divided(name: str, depth: int, divisions: int) -> None:
    # Treaty 11.1, 11.2, 11.3; I1
    found = handover.Model(WORLDS[name], "ours", depth).divide(stop=False)
    assert (found.states, found.wrong) == (divisions, {})


def test_no_two_histories_are_accepted_in_any_state() -> None:
    # Treaty 11.3; I1
    found = handover.Model(WORLDS["one of four replaced"], "ours", 3).run(stop=False)
    assert (found.states, found.wrong, found.cut) == (40_926, {}, False)


@pytest.mark.parametrize("rule", sorted(handover.RULES.keys() - {"ours"}))
def test_a_naive_handover_forks(rule: str) -> None:
    world = WORLDS["one after another" if rule == "overlap" else "one of four replaced"]
    assert set(handover.Model(world, rule, 4).divide(stop=True).wrong) == {"fork"}


SCENE = {"clock": "permits", "shorter": "permits", "carried": "lift", "foreign": "all", "gone": "all"}
BRAKE_FAULTS = {
    "clock": "paused while a permit lives",
    "shorter": "paused while a permit lives",
    "foreign": "two votes in the log, and no trip",
    "gone": "duties end at the turn",
}


def test_the_brake_holds_over_a_turn() -> None:
    # Treaty 11.4, 11.5; I3, I4, I6
    found = brake_model.Model("ours", "permits").run(stop=False)
    assert (found.states, found.wrong, found.cut) == (449_991, {}, False)


@pytest.mark.parametrize("rule", sorted(BRAKE_FAULTS))
def test_a_naive_brake_fails(rule: str) -> None:
    assert set(brake_model.Model(rule, SCENE[rule]).run(stop=True).wrong) == {BRAKE_FAULTS[rule]}


@pytest.mark.soak
@pytest.mark.parametrize("scene", ["all", "lift"])
def test_the_brake_holds_in_the_longer_scenes(scene: str) -> None:
    found = brake_model.Model("ours", scene).run(stop=False)
    assert (found.wrong, found.cut) == ({}, False)


@pytest.mark.soak
def test_votes_to_lift_that_stand_let_a_turn_lift() -> None:
    found = brake_model.Model("carried", "lift").run(stop=True)
    assert set(found.wrong) == {"the turn lifts the brake"}


KEY_FAULTS = {
    "old-key": "the owner cannot come back",
    "one-space": "the owner cannot come back",
    "claimed-time": "the thief counts after the act",
    "undone": "what was done is undone",
}


def test_a_stolen_key_ends_and_its_owner_comes_back() -> None:
    # Treaty 12.1, 12.2; I7, I8, I9
    found = keys_model.Model("ours").run(stop=False)
    assert (found.states, found.wrong, found.cut) == (5_840, {}, False)


@pytest.mark.parametrize("rule", sorted(KEY_FAULTS))
def test_a_naive_rule_about_keys_fails(rule: str) -> None:
    assert KEY_FAULTS[rule] in keys_model.Model(rule).run(stop=True).wrong


@pytest.mark.parametrize(("liar", "states"), [(None, 330), (4, 136)])
def test_the_next_log_begins_with_all_that_was_settled(liar: int | None, states: int) -> None:
    # I10
    found = takeover.Model("ours", 2, liar).run(stop=False)
    assert (found.states, found.wrong) == (states, {})


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ("head", "two logs begin"),
        ("published", "a settled history is lost"),
        ("any", "a settled history is lost"),
    ],
)
def test_a_naive_takeover_fails(rule: str, fault: str) -> None:
    found: Any = takeover.Model(rule, 3, None).run(stop=True)
    assert fault in found.wrong


def test_no_reopening_amid_a_succession_loses_what_was_stamped() -> None:
    # Treaty 11.8; I10, S-24
    found = reopen_model.Reopening(WORLDS["all of two replaced"], "ours", 3).run(stop=False)
    assert (found.states, found.wrong, found.cut) == (16_679, {}, False)


def test_no_reopening_loses_what_was_stamped_where_two_of_four_are_replaced() -> None:
    # Treaty 11.8; I10
    found = reopen_model.Reopening(WORLDS["two of four replaced"], "ours", 3).along(stop=False)
    assert (found.states, found.wrong) == (6_460, {})


@pytest.mark.soak
def test_no_reopening_loses_what_was_stamped_where_one_lies() -> None:
    found = reopen_model.Reopening(WORLDS["one of four replaced"], "ours", 3).run(stop=False)
    assert (found.states, found.wrong, found.cut) == (65_142, {}, False)


@pytest.mark.parametrize("rule", ["now", "next"])
def test_the_closers_of_one_text_are_not_enough(rule: str) -> None:
    found = reopen_model.Reopening(WORLDS["one of four replaced"], rule, 4).run(stop=True)
    assert set(found.wrong) == {"a settled history is lost"}
    found = reopen_model.Reopening(WORLDS["two of four replaced"], rule, 3).along(stop=True)
    assert set(found.wrong) == {"a settled history is lost"}

"""Who is bound: assents, conditional pledges, notice, and the word of those who are not."""

import pytest

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason
from brakeline.core.pledge import Assent, Pledge
from brakeline.core.state import events as ev
from brakeline.core.treaty import articles_digest
from world import DAY, PARTIES, START, World, bound

DIGEST = "ab" * 32
FREE = Pledge(condition="quorum none\n")


def test_a_party_assents_and_pledges_and_is_bound() -> None:
    # Treaty 2.1, 2.2
    world = World()
    world.log("gamma", "pledge", FREE)
    world.log("alpha", "pledge", Pledge(condition="quorum beta\n"))
    assert world.state.active == frozenset()
    world.log("alpha", "assent", Assent(text=world.treaty.digest, articles=articles_digest(world.treaty)))
    assert world.state.members.activation.deleted == ("alpha",)
    world.bind("beta", condition="quorum alpha\n")
    assert world.state.active == {"alpha", "beta"}
    assert world.state.members.activation.satisfied == {"alpha": frozenset({"beta"}), "beta": frozenset({"alpha"})}
    assert [e.parties for e in world.of(ev.Bound)] == [("alpha", "beta")]
    world.check()


@pytest.mark.parametrize("wrong", ["text", "articles"])
def test_an_assent_names_the_text_and_the_articles(wrong: str) -> None:
    # Treaty 2.1: what a party signed is what the code applies, in words as well as in numbers.
    world = World()
    right = {"text": world.treaty.digest, "articles": articles_digest(world.treaty)}
    assert right["text"] != right["articles"] == world.state.ground.articles
    world.log("alpha", "pledge", FREE)
    assert world.log("alpha", "assent", {**right, wrong: DIGEST}).reason is Reason.FOREIGN
    assert world.log("alpha", "assent", {"text": right["text"]}).reason is Reason.MALFORMED
    assert world.state.active == frozenset()
    assert world.log("alpha", "assent", right).reason is None
    assert world.state.active == {"alpha"}
    world.check()


def test_articles_of_another_treaty_are_others() -> None:
    digests = {articles_digest(World(**{"log.heartbeat": x}).treaty) for x in ('"1 s"', '"2 s"')}
    assert len(digests) == 2


def test_nothing_binds_before_the_treaty_is_in_force() -> None:
    # Treaty 2.3: and votes that were cast before then count from that moment on.
    begins = START - 10_000
    world = World(start=begins - 10)
    world.bind()
    world.vote("lift", *PARTIES)
    world.vote("trip", "alpha", "beta")
    world.stamp(9)
    assert world.state.active == frozenset()
    assert world.phase is Phase.CLEAR
    # Votes to lift that were cast before the trip lift nothing (Treaty 8.1), however the trip came about.
    world.stamp(1)
    assert world.state.active == frozenset(PARTIES)
    assert (world.phase, world.state.epoch) == (Phase.PAUSED, 1)
    world.check()


def test_a_pledge_ends_when_it_said() -> None:
    world = World()
    world.bind(expires=START + 50)
    world.stamp(49)
    assert world.state.active == frozenset(PARTIES)
    world.stamp(1)
    assert world.state.active == frozenset()
    assert [e.parties for e in world.of(ev.Bound)][-1] == ()
    world.check()


def test_leaving_takes_notice() -> None:
    # Treaty 2.5
    world = World()
    world.bind(expires=START + 1000 * DAY)
    assert world.withdraw("alpha").reason is None
    assert world.withdraw("beta").reason is None
    world.stamp(DAY)
    # A second one does not start the notice again.
    assert world.withdraw("alpha").reason is Reason.DUPLICATE
    # A party may stay after all.
    assert world.log("beta", "pledge", FREE, expires=START + 1000 * DAY).reason is None
    world.stamp(world.treaty.withdrawal_notice - DAY - 1)
    assert world.state.active == frozenset(PARTIES)
    world.stamp(1)
    assert world.state.active == {"beta", "gamma", "delta"}
    world.check()


def test_a_pledge_that_hangs_on_who_leaves_falls_with_it() -> None:
    # Treaty 2.2, 2.5
    world = World()
    world.bind("alpha", "gamma", "delta", expires=START + 1000 * DAY)
    world.bind("beta", condition="group g 3 alpha gamma delta\nquorum g\n", expires=START + 1000 * DAY)
    assert world.state.active == frozenset(PARTIES)
    world.withdraw("delta")
    world.stamp(world.treaty.withdrawal_notice)
    assert world.state.active == {"alpha", "gamma"}
    assert world.state.members.activation.deleted == ("beta",)
    world.check()


def test_a_pledge_in_force_cannot_be_weakened() -> None:
    # Treaty 2.5: else a pledge that can never hold would be the way out without notice.
    world = World()
    world.bind("alpha", condition="quorum beta\n")
    weak = Pledge(condition="group every all beta gamma delta\nquorum every\n")
    assert world.log("alpha", "pledge", weak).reason is None  # it is not bound yet
    world.bind("beta", "gamma", "delta")
    assert "alpha" in world.state.active
    for condition, expires in (
        ("quorum beta\n", START + 9 * DAY),
        (weak.condition, world.now + 1),
        ("quorum none\n", world.now + 1),
    ):
        outcome = world.log("alpha", "pledge", Pledge(condition=condition), expires=expires)
        assert outcome.reason is Reason.PROHIBITED
    for condition in (weak.condition, "quorum none\n"):
        assert world.log("alpha", "pledge", Pledge(condition=condition), expires=START + 9 * DAY).reason is None
    world.check()


def test_the_word_of_parties_that_are_not_bound_does_not_count() -> None:
    # Treaty 4.1
    world = World()
    world.bind("alpha", "beta")
    world.vote("trip", "gamma", "delta")
    world.read("lineage", 5.0, "gamma", "delta")
    assert world.voters("trip") == frozenset()
    assert world.phase is Phase.CLEAR
    world.bind("gamma")
    assert world.voters("trip") == {"gamma"}
    world.vote("trip", "alpha")
    assert world.phase is not Phase.CLEAR
    world.check()


def test_who_joins_is_asked_and_who_left_is_not() -> None:
    # Treaty 4.8: readings count by who is in force now, and no earlier count is kept.
    world = World()
    world.bind("alpha", "beta", "delta")
    world.read("lineage", 5.0, "alpha", "gamma")
    assert world.phase is Phase.CLEAR
    world.bind("gamma")
    assert world.phase is not Phase.CLEAR
    world.check()


def test_a_long_condition_is_a_condition() -> None:
    # What is nested is nested in names, not in JSON.
    world = World()
    text = "".join(f"group g{i} 1 {f'g{i - 1}' if i else 'beta'}\n" for i in range(100)) + "quorum g99\n"
    world.bind("alpha", condition=text)
    assert world.state.active == frozenset()
    world.bind("beta")
    assert world.state.active == {"alpha", "beta"}
    assert world.log("beta", "pledge", Pledge(condition=text[:-1])).reason is Reason.MALFORMED
    world.check()


def test_what_a_party_signed_stays_signed() -> None:
    world = bound()
    before = world.state.members.by_name["alpha"]
    assert world.log("alpha", "assent", {"text": DIGEST, "articles": DIGEST}).reason is Reason.FOREIGN
    after = world.state.members.by_name["alpha"]
    assert (after.assented, after.pledge) == (before.assented, before.pledge)
    assert world.state.active == frozenset(PARTIES)
    world.check()

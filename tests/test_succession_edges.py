"""Articles 11 and 12 where one thing meets another: a change of keys that is refused, a role that comes back."""

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason
from brakeline.core.evidence import Evidence
from brakeline.core.state import events as e
from brakeline.core.treaty import Treaty, parse_treaty
from brakeline.core.treaty.parties import digest_of
from succession import NOTICE, SHORT, assent, fresh_key, joining, next_text, propose, revoke, rotate, succeeding, turned
from world import DAY, World, edited, key, last_numbers, next_digest, witness_key

VOTE = {"motion": "trip", "epoch": 0, "reason": "x"}


def first_of(world: World, party: str) -> bytes:
    """The party's first statement, as it is in the log."""
    return world.entries[next(x.entry for x in world.of(e.Entered) if x.issuer == party)]


# --- Treaty 12.1: a change that is refused changes nothing


def test_a_change_that_is_refused_frees_no_number_of_the_old_key() -> None:
    # I9: whoever keeps the log would log the first words again, and have two statements of one number
    world = succeeding()
    before = last_numbers(world.state, "alpha")
    refused = rotate(world, "alpha", next=digest_of(key("beta").public))
    assert refused.reason is Reason.REUSED_KEY
    assert last_numbers(world.state, "alpha") == before
    assert world.append(first_of(world, "alpha")).reason is Reason.REPLAYED
    assert world.append(world.entries[refused.index]).reason is Reason.REUSED_KEY
    assert world.state.members.equivocators == frozenset()
    assert rotate(world, "alpha").reason is None
    assert last_numbers(world.state, "alpha") == [0, -1, -1, -1]
    world.check()


def test_a_leaver_that_cannot_change_its_key_stays_as_it_was() -> None:
    # I9
    world = succeeding()
    turned(world, next_text(world.treaty, drop="gamma", join="epsilon"))
    assert rotate(world, "gamma").reason is Reason.LEFT
    assert world.append(first_of(world, "gamma")).reason is Reason.REPLAYED
    assert world.state.members.equivocators == frozenset()
    world.check()


def test_a_thief_that_has_seen_the_next_key_cannot_name_another_after_it() -> None:
    # S-17: the owner's word is held back, and its key shown by the one that was stolen
    world = succeeding()
    shown, mine = key("alpha", "statement 1").public.text, digest_of(key("mallory").public)
    stolen = world.statement("alpha", "key", {"purpose": "statement", "key": shown, "next": mine})
    assert world.append(stolen).reason is Reason.FORGED
    assert rotate(world, "alpha").reason is None
    assert world.state.keyring.of["alpha"].statement.next == next_digest("alpha", number=2)
    world.check()


# --- Treaty 11.1, 11.6: who joins


def test_who_joins_one_of_two_texts_may_have_assented_to_both() -> None:
    # I9: a text is brought, redrafted, and brought again
    world = succeeding()
    one = next_text(world.treaty, drop="gamma", join="epsilon")
    two = next_text(world.treaty, drop="gamma", join="epsilon", **{"lift.delay": '"9 s"'})
    first, second = joining(world, one, "epsilon"), joining(world, two, "epsilon", seq=1)
    assert propose(world, one, joining=[first]).reason is None
    assert propose(world, two, joining=[second]).reason is None
    assent(world, two, "alpha", "beta", "delta")
    world.stamp(NOTICE)
    assert world.treaty == two
    assert last_numbers(world.state, "epsilon") == [1, -1, -1, -1]
    assert world.append(first.encode()).reason is Reason.REPLAYED
    assert world.append(second.encode()).reason is Reason.DUPLICATE
    both = Evidence(first=min(first, second), second=max(first, second))
    assert world.log("beta", "evidence", both).reason is Reason.MALFORMED
    assert world.state.members.equivocators == frozenset()
    world.check()


def test_a_witness_key_that_served_another_party_is_none() -> None:
    # S-07: whoever has retired destroyed it, or somebody has it
    world = succeeding()
    turned(world, next_text(world.treaty, drop="gamma", join="epsilon"))
    for known in (witness_key("gamma").text, witness_key("delta").text):
        text = next_text(world.treaty, drop="epsilon", join="zeta", **{"lift.delay": '"9 s"'}).text.decode()
        if known == witness_key("delta").text:
            text = text.replace(known, witness_key("omega").text)
        stolen = parse_treaty(text.replace(witness_key("zeta").text, known).encode())
        assert propose(world, stolen).reason is Reason.REUSED_KEY
    world.check()


# --- Treaty 11.4: nobody is freed, and nothing is said anew


def test_who_was_bound_after_the_adoption_stays_bound_at_the_turn() -> None:
    # I6: it had no seat among those who must assent, and has not assented to the next text
    world = World(**SHORT)
    world.bind("alpha", "beta", "gamma")
    world.stamp()
    next_ = next_text(world.treaty)
    propose(world, next_)
    assent(world, next_, "alpha", "beta", "gamma")
    adoption = world.now
    world.bind("delta")
    world.stamp(NOTICE)
    assert world.treaty == next_
    assert "delta" in world.state.voice
    assert world.state.members.by_name["delta"].leaves == adoption + world.treaty.withdrawal_notice
    world.stamp(180)
    assert world.state.active == {"alpha", "beta", "gamma"}
    world.check()


def test_who_comes_back_is_bound_as_long_as_its_notice_runs() -> None:
    # I6: to leave and to come back with another key ends no duty sooner
    for leave in (True, False):
        world = succeeding()
        world.bind(expires=world.now + 2 * DAY)
        if leave:
            turned(world, next_text(world.treaty, drop="gamma", join="epsilon"))
        else:
            for reason in ("a", "b"):
                world.append(world.statement("gamma", "vote", {**VOTE, "epoch": 9, "reason": reason}, seq=50))
        ends = world.state.members.by_name["gamma"].leaves
        assert ends is not None
        out = "epsilon" if leave else "gamma"
        turned(world, next_text(world.treaty, drop=out, join="gamma", generation=1))
        assert "gamma" in world.state.active
        assert world.state.members.by_name["gamma"].leaves == ends
        world.stamp(ends - world.now)
        assert "gamma" not in world.state.active
        world.generation["gamma"] = 10
        assert world.log("gamma", "pledge", {"condition": "quorum none\n"}).reason is None
        assert "gamma" in world.state.voice
        world.check()


def without_permits(text: Treaty, party: str) -> Treaty:
    """The next text, in which the party signs no permits."""
    lines = edited(text.text.decode(), "treaty.version", str(text.version + 1))
    head, table, rest = lines.partition(f"[party.{party}]")
    kept = [x for x in rest.split("\n") if not x.startswith("signer_") or x not in rest.split("\n\n")[0].split("\n")]
    rest = "\n".join(kept).replace('"permit-signer", ', "", 1)
    return parse_treaty(edited(head + table + rest, "quorum.permit", "3").encode())


def with_permits(text: Treaty, party: str, number: int) -> Treaty:
    """The next text, in which the party signs permits with its key of that number."""
    lines = edited(text.text.decode(), "treaty.version", str(text.version + 1))
    head, table, rest = lines.partition(f"[party.{party}]\n")
    shown = fresh_key(party, "signer", number).public.text
    new = f'signer_key = "{shown}"\nsigner_next = "{next_digest(party, "signer", number + 1)}"\n'
    rest = new + rest.replace('roles = ["lab", "witness", ', 'roles = ["lab", "witness", "permit-signer", ', 1)
    return parse_treaty(edited(head + table + rest, "quorum.permit", "4").encode())


def test_a_role_that_comes_back_comes_with_the_key_that_the_text_enters() -> None:
    world = succeeding()
    four = {f"quorum.{x}": "4" for x in ("permit", "lift", "witnesses")}
    turned(world, next_text(world.treaty, join="epsilon", roles='["witness", "permit-signer", "inspector"]', **four))
    turned(world, without_permits(world.treaty, "gamma"))
    assert "gamma" not in world.state.signers.values()
    turned(world, with_permits(world.treaty, "gamma", 20))
    assert world.state.signers[fresh_key("gamma", "signer", 20).public] == "gamma"
    assert key("gamma", "signer").public not in world.state.signers
    again = without_permits(world.treaty, "gamma")
    turned(world, again)
    assert propose(world, with_permits(again, "gamma", 20)).reason is Reason.REUSED_KEY
    world.check()


def test_what_an_equivocator_decided_stays_void_when_it_comes_back() -> None:
    # Treaty 11.6
    world = succeeding()
    run = world.declare("alpha", steps=3)
    for party in ("gamma", "delta"):
        world.log(party, "designation", {"run": run.id, "tier": "covered"})
    for reason in ("a", "b"):
        world.append(world.statement("gamma", "vote", {"motion": "trip", "epoch": 9, "reason": reason}, seq=50))
    turned(world, next_text(world.treaty, drop="gamma", join="gamma", generation=1))
    world.generation["gamma"] = 10
    world.log("gamma", "pledge", {"condition": "quorum none\n"})
    world.log("beta", "designation", {"run": run.id, "tier": "covered"})
    assert "covered" not in run.tiers, "two and a void one"
    world.log("gamma", "designation", {"run": run.id, "tier": "covered"})
    assert "covered" in run.tiers
    world.check()


# --- Treaty 12.2: what a stolen key said falls


def test_what_a_stolen_key_asked_for_falls_with_it() -> None:
    world = succeeding()
    revoke(world, "alpha", "beta", since=4)
    since = world.state.size
    revoke(world, "alpha", "gamma", since=4)
    revoke(world, "gamma", "alpha", "beta", "delta", since=since)
    rotate(world, "gamma")
    revoke(world, "alpha", "delta", since=4)
    assert world.state.keyring.of["alpha"].statement.key, "only two ask for it"
    assert [set(a.by) for a in world.state.keyring.asked] == [{"beta", "delta"}]
    revoke(world, "alpha", "gamma", since=4)
    assert not world.state.keyring.of["alpha"].statement.key
    world.check()


def test_an_owner_that_speaks_again_is_no_equivocator() -> None:
    """Numbers begin anew with the key, and go on from the statement that showed it, whatever its number was."""
    world = succeeding()
    assert rotate(world, "alpha", next="xyz").reason is Reason.MALFORMED
    world.generation["alpha"] = 1
    body = {"purpose": "statement", "key": key("alpha", "statement 1").public.text}
    said = world.statement("alpha", "key", {**body, "next": next_digest("alpha", number=2)}, seq=7)
    assert world.append(said).reason is None
    assert world.append(world.statement("alpha", "vote", VOTE, seq=6)).reason is Reason.REPLAYED
    assert world.append(world.statement("alpha", "vote", VOTE, seq=8)).reason is None
    assert world.append(said).reason is Reason.REPLAYED
    world.check()


def test_where_a_text_turns_no_lapse_pauses() -> None:
    # I3: the stamp that turns it is the one at which the last permit has lapsed, too
    world = succeeding()
    run = world.opened("alpha")
    world.trip()
    world.stamp()
    world.stamp(world.lapse - NOTICE)
    turning = world.state.ballot.lapse
    next_ = next_text(world.treaty)
    propose(world, next_)
    assent(world, next_, "alpha", "beta", "gamma", "delta")
    world.stamp(turning - world.now)
    assert (world.treaty, world.now, world.phase) == (next_, turning, Phase.TRIPPED)
    world.stamp()
    assert world.phase is Phase.PAUSED
    assert not run.stopped
    world.check()

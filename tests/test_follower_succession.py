"""A follower that was away while a text turned: whom it believes, and for how long it works for nobody's word."""

from pathlib import Path

import pytest

from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.state import begin
from brakeline.core.state.codec import digest
from brakeline.core.treaty import parse_treaty
from brakeline.node import client
from brakeline.node.client import Follower
from succession import next_text, rotate, succeeding, turned
from test_node import WorldLog
from world import World

OLD = ("alpha", "beta", "gamma")
NEW = ("beta", "delta", "epsilon")


def after_a_turn() -> tuple[World, Follower]:
    """A world two texts on, and a follower that has seen the first entries of it."""
    world = succeeding()
    follower = Follower(WorldLog(world), world.first)
    follower.update()
    turned(world, next_text(world.treaty, drop="gamma", join="epsilon"))
    rotate(world, "alpha")
    turned(world, next_text(world.treaty, drop="alpha", join="zeta"))
    return world, follower


def test_a_follower_that_was_away_finds_the_text_in_the_log() -> None:
    # Treaty 11.3: it does not know the witnesses of the newest checkpoint before it has read what lies between
    world, follower = after_a_turn()
    assert follower.treaty.version == 1
    follower.update()
    assert follower.treaty.version == 3
    assert digest(follower.state) == digest(world.state)
    assert follower.cosigned is not None
    assert follower.cosigned.witnesses <= {"beta", "delta", "epsilon", "zeta"}


def test_a_newcomer_needs_the_first_text_alone(tmp_path: Path) -> None:
    world, _ = after_a_turn()
    follower = Follower(WorldLog(world), world.first, tmp_path)
    follower.update()
    assert digest(follower.state) == digest(world.state)
    again = Follower(WorldLog(world), world.first, tmp_path)
    assert again.treaty.version == 3, "its own memory knows the text in force"
    world.stamp()
    again.update()
    assert again.state.size == world.state.size


def test_the_old_witnesses_alone_are_believed_no_more() -> None:
    # S-01, S-02
    world, follower = after_a_turn()
    log = WorldLog(world)
    log.checkpoint = lambda **_: world.checkpoint(by=OLD)  # type: ignore[method-assign]
    follower.client = log
    with pytest.raises(Refused) as caught:
        follower.update()
    assert caught.value.reason is Reason.NO_QUORUM
    assert follower.treaty.version == 1
    assert not (follower.cosigned and follower.cosigned.checkpoint.size > follower.state.size)


def test_what_nobody_vouches_for_accuses_nobody() -> None:
    """A note that the known witnesses have not signed, over entries that do not lead to it: no fork, no state."""
    world, follower = after_a_turn()
    log, before = WorldLog(world), follower.state
    log.checkpoint = lambda **_: world.checkpoint(by=NEW, root=b"r" * 32)  # type: ignore[method-assign]
    follower.client = log
    with pytest.raises(Refused) as caught:
        follower.update()
    assert caught.value.reason is Reason.NO_QUORUM
    assert follower.state is before


def test_nobody_makes_a_follower_work_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that no stamp covers are folded up to a number; a keeper needs witnesses to go on."""
    monkeypatch.setattr(client, "_UNVOUCHED", 50)
    world, follower = after_a_turn()
    read: list[int] = []

    class Endless(WorldLog):
        def checkpoint(self, **_: object) -> bytes:  # type: ignore[override]
            return world.checkpoint(10**9, root=b"r" * 32, by=("delta",))

        def stream(self, start: int, end: int):  # type: ignore[no-untyped-def, override]
            for i in range(start, end):
                read.append(i)
                yield b"rubbish %d" % i

    follower.client = Endless(world)
    with pytest.raises((Refused, Malformed)):
        follower.update()
    assert len(read) < 200


def test_a_log_of_rules_1_is_never_read_on_nobodys_word() -> None:
    text = "\n".join(
        x for x in World().treaty.text.decode().replace("rules = 2 ", "rules = 1 ").split("\n")
        if not x.startswith(("next =", "signer_next ="))
    )  # fmt: skip
    world = World(treaty=parse_treaty(text.encode()))
    world.bind()
    log = WorldLog(world)
    log.checkpoint = lambda **_: world.checkpoint(by=("alpha",))  # type: ignore[method-assign]
    log.stream = lambda *_: pytest.fail("nothing is read")  # type: ignore[method-assign]
    follower = Follower(log, world.first)
    with pytest.raises(Refused) as caught:
        follower.update()
    assert caught.value.reason is Reason.NO_QUORUM
    assert follower.state == begin(world.first)

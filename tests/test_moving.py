"""Everybody follows a log that was reopened: followers, outboxes, witnesses, signers, mirrors. Rules 11.8-11.10."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from brakeline.core import reopening as r
from brakeline.core.bundle import Bundle
from brakeline.core.encoding import canonical
from brakeline.core.errors import Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.gate import GateState, admit
from brakeline.core.state.codec import digest, encode
from brakeline.core.statement import open_envelope
from brakeline.node import client, mirror, moving
from brakeline.node.client import REOPENED, Follower
from brakeline.node.granted import Granted
from brakeline.node.keeping import entries_of, state_at, take
from brakeline.node.logstore import LogStore
from brakeline.node.mirror import Mirror, store_of
from brakeline.node.moving import Moves, known
from brakeline.node.outbox import Outbox
from brakeline.node.recall import take_back
from brakeline.node.signer import app
from brakeline.node.speech import settled
from brakeline.node.witness import Witness
from succession import closings, next_text, reopening, rotate, succeeding, turned
from test_logstore import in_memory
from test_node import WorldLog
from test_signer import granted, signer, votes_of
from world import World, key, log_key, witness_key

URL = "http://127.0.0.1:9"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as path:
        yield path


class Net:
    """Which log answers at which address; what is not here is out of reach."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.logs: dict[str, WorldLog] = {}
        self.shown: dict[str, bytes] = {}  # by permit signer's address
        monkeypatch.setattr(client, "LogClient", self.dial)
        monkeypatch.setattr(moving, "_ask", lambda _, url: self.shown.get(url, b""))
        monkeypatch.setattr(WorldLog, "dial", self._redial, raising=False)

    def dial(self, url: str) -> WorldLog:
        if url not in self.logs:
            raise Unavailable(f"the log at {url} is out of reach")
        return self.logs[url]

    def _redial(self, url: str) -> None:
        for log in self.followed:
            log.world, log.away = self.logs[url].world, self.logs[url].away

    followed: tuple[WorldLog, ...] = ()


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    return Net(monkeypatch)


def forked(world: World, size: int, **changes: Any) -> World:
    """The same log up to `size`, and from there as it was reopened."""
    other = World(treaty=world.first)
    other.entries, other.events = [], []
    other.state = client.begin(world.first)
    other.said = {}
    for entry in world.entries[:size]:
        other.append(entry)
    other.now, other.generation = world.now, dict(world.generation)
    other.said = {k: list(v) for k, v in world.said.items()}
    outcome = other.append(reopening(other, **changes))
    assert outcome.reason is None, outcome.text
    other.stamp()
    return other


def following(world: World, net: Net, memory: Path | None = None, put: Path | None = None) -> Follower:
    log = WorldLog(world)
    net.followed = (*net.followed, log)
    follower = Follower(log, world.first, memory, put=put)
    follower.update()
    return follower


def put_into(path: Path, other: World) -> Path:
    at = other.state.chain.reopened[-1].entry
    path.write_bytes(other.entries[at])
    return path


def test_a_follower_goes_on_where_the_reopening_in_its_home_says(tmp_path: Path, net: Net) -> None:
    # Treaty 11.8
    world = succeeding()
    follower = following(world, net, tmp_path / "seen", tmp_path / "put")
    other = forked(world, world.state.size)
    net.logs[URL] = WorldLog(other)
    put_into(tmp_path / "put", other)
    assert follower.update()
    assert digest(follower.state) == digest(other.state)
    assert follower.cosigned is not None
    assert follower.cosigned.checkpoint.origin == log_key("alpha", 1).name
    other.vote("lift", "alpha")
    other.stamp()
    follower.update()
    assert digest(follower.state) == digest(other.state), "and follows it from there"
    again = Follower(WorldLog(other), world.first, tmp_path / "seen")
    again.update()
    assert digest(again.state) == digest(other.state), "also after a restart"


def test_what_the_old_log_held_last_is_void(tmp_path: Path, net: Net) -> None:
    # Treaty 11.9: and nobody who saw it is stuck
    world = succeeding()
    world.vote("trip", "gamma")
    start = world.state.size
    follower = following(world, net, tmp_path / "seen")
    other = forked(world, start)
    world.vote("trip", "delta")
    follower.update()
    assert (follower.state.phase, follower.state.epoch) == ("paused", 1)
    lost = follower.state.size - 1
    assert follower.effect(lost)
    net.logs[URL] = WorldLog(other)
    put_into(tmp_path / "seen" / REOPENED, other)
    net.followed[0].away = True
    follower.update()
    assert digest(follower.state) == digest(other.state)
    assert follower.effect(lost) == tuple(e for e in other.events if e.entry == lost)


@pytest.mark.parametrize("restart", [False, True])
def test_a_follower_beyond_the_start_goes_back_to_what_was_stamped(tmp_path: Path, net: Net, restart: bool) -> None:
    world = succeeding()
    start = world.state.size
    other = forked(world, start)
    world.vote("trip", "gamma")
    world.vote("trip", "delta")
    follower = following(world, net, tmp_path / "seen")
    if restart:
        follower = Follower(WorldLog(world), world.first, tmp_path / "seen", put=tmp_path / "put")
    net.logs[URL] = WorldLog(other)
    put_into(tmp_path / ("put" if restart else f"seen/{REOPENED}"), other)
    follower.update()
    assert digest(follower.state) == digest(other.state)


def test_permit_signers_tell_where_the_log_is(net: Net) -> None:
    """Only when the log stands still, and only what a quorum of members has signed."""
    world = succeeding()
    follower = following(world, net)
    other = forked(world, world.state.size)
    net.logs[URL] = WorldLog(other)
    entry = other.entries[other.state.chain.reopened[0].entry]
    envelope = open_envelope(entry)
    few = r.joined(envelope.payload, envelope.signatures[:2], ())
    state = follower.state
    assert moving._believed(state, few) is None
    assert moving._believed(state, b"junk") is None
    assert moving._believed(state, entry) is not None


def test_signers_are_asked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    world, asked, now = succeeding(), list[int](), [0.0]
    monkeypatch.setattr(moving, "_shown", lambda _: asked.append(1) or [])
    moves = Moves(now=lambda: now[0])
    for at in (0, 1, 2, 6, 7, 20):
        now[0] = at
        assert list(moves.candidates(world.state, stalled=True)) == []
    assert len(asked) == 3
    assert list(moves.candidates(world.state, stalled=False)) == []
    assert len(asked) == 3


def test_a_log_that_does_not_go_on_from_here_is_not_followed(tmp_path: Path, net: Net) -> None:
    """A reopening of somebody else's making leads nowhere, and nothing is lost by it."""
    world = succeeding()
    follower = following(world, net, put=tmp_path / "put")
    strangers = succeeding(**{"lift.delay": '"9 s"'})
    other = forked(strangers, strangers.state.size)
    put_into(tmp_path / "put", other)
    net.logs[URL] = WorldLog(other)
    world.stamp()
    assert follower.update()
    assert digest(follower.state) == digest(world.state)
    mine = forked(world, world.state.size)
    put_into(tmp_path / "put", mine)
    net.logs[URL] = WorldLog(world)  # the address shows the old log
    world.stamp()
    follower.update()
    assert digest(follower.state) == digest(world.state)
    net.followed[0].away = True
    with pytest.raises(Refused, match="goes on from this one"):
        follower.update()


def test_a_settled_entry_is_not_given_up(tmp_path: Path, net: Net) -> None:
    """Whoever drafts a reopening without what was stamped takes nobody along who has seen it. S-24"""
    world = succeeding()
    start = world.state.size
    other = forked(world, start)
    world.vote("trip", "gamma")
    world.stamp()
    world.stamp()
    follower = following(world, net, put=tmp_path / "put")
    world.stamp()
    follower.update()
    world.stamp()
    follower.update()
    before = follower.state
    net.logs[URL] = WorldLog(other)
    put_into(tmp_path / "put", other)
    net.followed[0].away = True
    with pytest.raises(Refused, match="goes on from this one"):
        follower.update()
    assert follower.state is before


def test_a_follower_that_was_away_for_two_reopenings(tmp_path: Path, net: Net) -> None:
    world = succeeding()
    follower = following(world, net, put=tmp_path / "put")
    second = forked(world, world.state.size)
    third = forked(second, second.state.size, keeper="beta", url="http://127.0.0.1:10")
    net.logs["http://127.0.0.1:10"] = WorldLog(third)
    put_into(tmp_path / "put", third)
    follower.update()
    assert [x.keeper for x in follower.state.chain.reopened] == ["alpha", "beta"]
    assert digest(follower.state) == digest(third.state)


def test_threads_that_move_at_once_move_once(tmp_path: Path, net: Net) -> None:
    world = succeeding()
    follower = following(world, net, put=tmp_path / "put")
    other = forked(world, world.state.size)
    net.logs[URL] = WorldLog(other)
    put_into(tmp_path / "put", other)
    threads = [threading.Thread(target=follower.update) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert digest(follower.state) == digest(other.state)


# ---- what parties said ----


def test_what_was_logged_beyond_the_start_is_sent_again(tmp_path: Path) -> None:
    # Treaty 11.9: outboxes keep their bytes; the numbers are the same, so nobody equivocates
    world = succeeding()
    start = world.state.size
    other = forked(world, start)
    box = Outbox(tmp_path, world.treaty, "gamma", key("gamma"), lambda: world.now)
    last = world.state.members.by_name["gamma"].of("brake").seq
    first = box.write("vote", {"motion": "trip", "epoch": 0, "reason": "seen by the old log"}, after=last)

    def add(to: World, entry: bytes) -> int:
        return to.entries.index(entry) if entry in to.entries else to.append(entry).index

    (sent,) = box.flush(partial(add, world))
    assert sent.index >= start
    assert box.pending() == []
    box.follow([x.entry for x in other.state.chain.reopened])
    assert [data for _, _, data in box.pending()] == [first]
    box.follow([x.entry for x in other.state.chain.reopened])
    (again,) = box.flush(partial(add, other))
    assert other.entries[again.index] == first
    box.follow([x.entry for x in other.state.chain.reopened])
    assert box.pending() == [], "heeded once, also by another process"
    box.close()
    box = Outbox(tmp_path, world.treaty, "gamma", key("gamma"), lambda: world.now)
    box.follow([x.entry for x in other.state.chain.reopened])
    assert box.pending() == []
    assert other.state.members.equivocators == frozenset()
    box.close()


def test_the_outbox_of_a_home_heeds_the_state(tmp_path: Path) -> None:
    world = succeeding()
    other = forked(world, world.state.size)
    box = Outbox(tmp_path, world.treaty, "gamma", key("gamma"), lambda: world.now)
    box.write("vote", {"motion": "trip", "epoch": 0, "reason": "x"}, after=9)
    box.flush(lambda entry: 500)

    class Home:
        name = "gamma"

    assert settled(Home(), box, other.state) is box  # type: ignore[arg-type]
    assert len(box.pending()) == 1
    box.close()


# ---- witnesses and permit signers ----


def test_a_witness_that_has_closed_cosigns_nothing_more(tmp_path: Path) -> None:
    # Treaty 11.10
    world, now = succeeding(), [5_000_000_000.0]
    own = witness_key("beta")
    old, new = log_key("delta"), log_key("alpha", 1)
    news = list[Any]()
    server = Witness(tmp_path, own.name, key("beta", "witness"), [old], lambda: now[0], lambda: news)
    other = forked(world, world.state.size)

    def ask(w: World, before: int) -> int:
        note = w.checkpoint(by=())
        return server.add_checkpoint(b"old %d\n\n" % before + note).status

    assert ask(world, 0) == 200
    now[0] -= 100  # a clock that was set back
    seen, when = server.close_log(old.name)
    assert seen is not None
    assert (seen.size, seen.root) == (world.state.size, world.state.root())
    assert when == 5_000_000_000, "no cosignature is later than the closing"
    assert server.close_log(old.name) == (seen, when)
    assert ask(world, world.state.size) == 403
    assert ask(other, 0) == 404
    news.append(new)
    assert ask(other, 0) == 200, "the one that goes on is known without a restart"
    server.close()
    again = Witness(tmp_path, own.name, key("beta", "witness"), [old], lambda: now[0])
    assert again.add_checkpoint(b"old %d\n\n" % world.state.size + world.checkpoint(by=())).status == 403
    again.close()


def test_a_signer_that_has_closed_signs_no_permit(tmp_path: Path) -> None:
    # Treaty 11.9, 11.10
    world = World()
    world.bind()
    asked = canonical(world.request(world.opened("alpha")))
    mine = signer(world, tmp_path)
    mine.sign(asked)
    kept = granted(tmp_path)  # another process of this home
    assert kept.close(world.state.chain.log.key.name) == 0
    with pytest.raises(Refused, match=r"closed the log .*11\.10") as caught:
        mine.sign(asked)
    assert caught.value.reason is Reason.SUPERSEDED
    again = signer(world, tmp_path)
    with pytest.raises(Refused, match="closed the log"):
        again.sign(asked)
    assert votes_of(tmp_path)


def test_the_closing_counts_every_permit(tmp_path: Path) -> None:
    """Two processes: what is signed before the closing is in it, what comes after is refused."""
    server, command = Granted(tmp_path / "granted", new=True), Granted(tmp_path / "granted")
    with server.signing("log", 3):
        pass
    with server.signing("log", 1):
        pass
    assert command.close("log") == 3
    with pytest.raises(Refused), server.signing("log", 3):
        pass
    with server.signing("another log", 4):
        pass
    assert Granted(tmp_path / "granted").close("log") == 4
    (tmp_path / "granted").write_bytes(b"{torn")
    with pytest.raises(Unavailable, match="damaged"):
        Granted(tmp_path / "granted")


def test_a_permit_of_the_new_log_may_be_of_a_smaller_one() -> None:
    # Treaty 5.5, 11.9
    world = World()
    world.bind()
    run = world.opened("alpha")
    for party in ("gamma", "delta"):
        world.vote("trip", party)
    permit = world.request(run, epoch=7, size=3)
    sealed = world.sealed(permit)
    seen = GateState(run.id, epoch=6, size=100)
    state = admit(seen, sealed, world.treaty, world.state.signers, nonce=permit.nonce, asked_at=0)
    assert (state.epoch, state.size) == (7, 3)
    for epoch, size in ((7, 4), (8, 0)):
        older = GateState(run.id, epoch=epoch, size=size)
        with pytest.raises(Refused) as caught:
            admit(older, sealed, world.treaty, world.state.signers, nonce=permit.nonce, asked_at=0)
        assert caught.value.reason is Reason.ROLLBACK


def test_a_witness_put_back_takes_the_new_logs_memory_and_closes_the_old(tmp_path: Path, net: Net) -> None:
    """Its copy is of before the log was reopened: it must not cosign the old one again. Treaty 11.10"""
    world = succeeding()
    old = world.state.chain.log.key
    own = witness_key("beta")
    server = Witness(tmp_path / "witness", own.name, key("beta", "witness"), [old], lambda: world.now)
    follower = following(world, net, tmp_path / "seen", tmp_path / "put")
    take_back(server, follower)
    other = forked(world, world.state.size)
    new = other.state.chain.log.key
    net.logs[URL] = WorldLog(other)
    put_into(tmp_path / "put", other)
    server.check_new(new.name)
    seen = take_back(server, follower)
    assert server.last(new.name) == seen
    assert seen.size == other.state.size
    assert (server.has_closed(old.name), server.has_closed(new.name)) == (True, False)
    for name in (old.name, new.name):
        with pytest.raises(Misuse, match="no new witness"):
            server.check_new(name)


def test_signers_show_the_reopening(tmp_path: Path) -> None:
    world = succeeding()
    other = forked(world, world.state.size)
    third = forked(other, other.state.size, keeper="beta")
    first, second = put_into(tmp_path / "a", other), put_into(tmp_path / "b", third)
    shown = TestClient(app(signer(world, tmp_path), lambda: known(first, second)))
    assert shown.get("/reopening").content == second.read_bytes(), "that which begins last"
    assert known(tmp_path / "nothing") is None
    (tmp_path / "junk").write_bytes(b"junk")
    assert known(tmp_path / "junk") is None
    assert TestClient(app(signer(world, tmp_path))).get("/reopening").status_code == 404


# ---- copies ----


def test_a_mirror_keeps_what_was_published_and_follows(tmp_path: Path, net: Net) -> None:
    world = succeeding()
    follower = following(world, net, put=tmp_path / "put")
    copy = Mirror(follower, tmp_path)
    assert copy.update() == world.state.size
    world.vote("trip", "gamma")
    assert copy.update() == world.state.size
    copy.close()
    with entries_of(str(copy.directory)) as (note, entries):
        assert list(entries) == world.entries
        assert note.startswith(b"log.example/demo\n")
    other = forked(world, world.state.size)
    net.logs[URL] = WorldLog(other)
    put_into(tmp_path / "put", other)
    assert copy.update() == other.state.size
    assert copy.directory == store_of(tmp_path, log_key("alpha", 1).name)
    served = TestClient(mirror.app(copy))
    assert served.get("/checkpoint").content.startswith(b"log.example/demo-1\n")
    assert served.get(f"/tile/0/000.p/{other.state.size}").status_code == 200
    assert served.get("/tile/0/../checkpoint").status_code == 404
    copy.close()


def test_a_log_that_shows_two_things_is_not_mirrored(tmp_path: Path, net: Net) -> None:
    world = succeeding()
    follower = following(world, net)
    copy = Mirror(follower, tmp_path)
    copy.update()
    world.vote("trip", "gamma")
    log, calls = net.followed[0], list[int]()
    real = log.entries

    def entries(start: int, end: int) -> list[bytes]:
        calls.append(1)
        found = real(start, end)
        return [b"{another}"] * len(found) if len(calls) > 2 else found

    log.entries = entries  # type: ignore[method-assign]
    with pytest.raises(Refused) as caught:
        copy.update()
    assert caught.value.reason is Reason.TAMPERED
    log.entries = real  # type: ignore[method-assign]
    assert copy.update() == world.state.size, "what was kept stays, and goes on"
    copy.close()


def test_an_entry_that_was_logged_twice_is_kept_twice(tmp_path: Path, net: Net) -> None:
    """A hostile keeper must not make its log impossible to copy."""
    world = succeeding()
    world.append(world.entries[-2])
    world.append(world.entries[-2])
    world.stamp()
    copy = Mirror(following(world, net), tmp_path / "mirror")
    assert copy.update() == world.state.size
    copy.close()
    with LogStore(tmp_path / "new", "new") as store:
        found = take(world.first, str(copy.directory), store, lambda *_: None)
        assert digest(found.state) == digest(world.state)
        assert store.entries(0, store.size) == world.entries
        assert store.append([world.entries[3]]) == [3], "what comes by itself still counts once"
        again = take(world.first, str(copy.directory), store, lambda *_: None)
        assert again.state.size == found.state.size


def bundle_of(world: World) -> bytes:
    return Bundle(world.first.text, world.checkpoint(), tuple(world.entries), {}).encode()


def test_a_copy_is_checked(tmp_path: Path) -> None:
    world = succeeding()
    good = tmp_path / "all.bundle"
    good.write_bytes(bundle_of(world))
    with LogStore(tmp_path / "a", "a") as store:
        found = take(world.first, str(good), store, lambda *_: None)
    assert digest(found.state) == digest(world.state)
    assert state_at(world.first, str(good), 5, lambda *_: None).size == 5
    with pytest.raises(Refused) as caught:
        state_at(world.first, str(good), 500, lambda *_: None)
    assert caught.value.reason is Reason.ROLLBACK
    with pytest.raises(Misuse, match="no copy of a log"):
        state_at(world.first, str(tmp_path / "nothing"), 5, lambda *_: None)
    world.entries[4] = world.entries[5]
    good.write_bytes(bundle_of(world))
    with LogStore(tmp_path / "b", "b") as store, pytest.raises(Refused) as caught:
        take(world.first, str(good), store, lambda *_: None)
    assert caught.value.reason is Reason.TAMPERED
    with LogStore(tmp_path / "a", "a") as store, pytest.raises(Refused, match="another log"):
        take(world.first, str(good), store, lambda *_: None)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.binary(max_size=8))
def test_a_file_of_closings_is_read_as_it_was_written(at: int, junk: bytes) -> None:
    data = r.encode_closings(closings(CLOSED))
    assert r.decode_closings(data) == closings(CLOSED)
    try:
        found = r.decode_closings(data[:at] + junk + data[at:])
    except Malformed:
        return
    assert r.encode_closings(found) == data[:at] + junk + data[at:]


CLOSED = succeeding()


def test_after_a_turn_and_a_change_of_keys_the_newest_count(tmp_path: Path, net: Net) -> None:
    world = succeeding()
    turned(world, next_text(world.treaty, drop="gamma", join="epsilon"))
    rotate(world, "alpha")
    world.stamp()
    follower = following(world, net, put=tmp_path / "put")
    other = forked(world, world.state.size)
    net.logs[URL] = WorldLog(other)
    put_into(tmp_path / "put", other)
    follower.update()
    assert encode(follower.state) == encode(other.state)

"""The permit signer: no keeper of the log can hide a trip from it, nobody fills it, and it never states a guess."""

import errno
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from brakeline.core import views
from brakeline.core.brake import Phase
from brakeline.core.encoding import canonical
from brakeline.core.errors import Malformed, Reason, Refused, Unavailable
from brakeline.core.permit import Permit
from brakeline.core.snapshot import Snapshot, pack, unpack
from brakeline.core.state.codec import digest
from brakeline.core.state.events import Stated
from brakeline.core.statement import open_envelope
from brakeline.node import client, http, ports
from brakeline.node import signer as node_signer
from brakeline.node.client import Follower
from brakeline.node.granted import Granted
from brakeline.node.outbox import Outbox
from brakeline.node.signer import Signer, Stater, app
from succession import revoke, rotate
from test_follower import state_at
from test_logstore import in_memory
from test_node import WorldLog
from world import DAY, PARTIES, Live, World, key


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as path:
        yield path


def votes_of(tmp_path: Path) -> Path:
    return tmp_path / "signer" / "votes.jsonl"


def granted(tmp_path: Path) -> Granted:
    return Granted(tmp_path / "signer" / "granted.json", new=True)


def signer(world: World, tmp_path: Path) -> Signer:
    follower = Follower(WorldLog(world), world.treaty)
    follower.update()
    return Signer(follower, lambda _: key("alpha", "signer"), lambda: world.now, votes_of(tmp_path), granted(tmp_path))


def hidden_vote(world: World, party: str, epoch: int = 0, motion: str = "trip", **changes: Any) -> bytes:
    return world.statement(party, "vote", {"motion": motion, "epoch": epoch, "reason": "x"}, **changes)


def lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().split(b"\n") if line] if path.exists() else []


def running() -> tuple[World, bytes]:
    """A world in which a lab trains, and the permit that it asks for."""
    world = World()
    world.bind()
    return world, canonical(world.request(world.opened("alpha")))


def asked(world: World, **changes: Any) -> Permit:
    """What the first run asks for now."""
    return world.request(Live(world, views.by_declaration(world.state)[0].id), **changes)


# ---- votes that the log hides ----


def test_a_log_that_hides_votes_cannot_hold_a_trip_back(tmp_path: Path) -> None:
    """Treaty 4.7. Two votes that the log never shows stop the signing of permits; one does not."""
    world = World()
    world.bind()
    run = world.opened("alpha")
    mine = signer(world, tmp_path)
    request = canonical(world.request(run))
    assert open_envelope(mine.sign(request)).kind == "permit"
    mine.hold(hidden_vote(world, "beta"))
    mine.sign(request)
    mine.hold(hidden_vote(world, "gamma"))
    with pytest.raises(Refused) as e:
        mine.sign(request)
    assert e.value.reason is Reason.PAUSED
    with pytest.raises(Refused, match="shown to me"):  # also after a restart
        signer(world, tmp_path).sign(request)
    world.now += 2 * DAY  # votes expire, hidden or not
    world.stamp()
    again = signer(world, tmp_path)
    again.sign(canonical(world.request(run)))


def test_a_vote_that_a_full_disk_did_not_take_counts_and_is_not_said_to_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown again, it is written down before it is taken: the signer may be restarted in between."""
    world, _ = running()
    mine, data = signer(world, tmp_path), hidden_vote(world, "beta")

    def full(path: Path, data: bytes) -> None:
        raise Unavailable("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(node_signer, "write_atomic", full)
        for _ in range(2):
            with pytest.raises(Unavailable):
                mine.hold(data)
    assert lines(votes_of(tmp_path)) == []
    mine.hold(data)
    assert lines(votes_of(tmp_path)) == [data]


def test_a_hidden_vote_adds_to_those_in_the_log_and_counts_once(tmp_path: Path) -> None:
    world, request = running()
    (data,) = (hidden_vote(world, "beta"),)
    world.append(data)
    mine = signer(world, tmp_path)
    mine.hold(data)  # the log has it already: nothing to add
    request = canonical(world.request(world.opened("gamma")))
    mine._follower.update()
    mine.sign(request)
    mine.hold(hidden_vote(world, "gamma"))
    with pytest.raises(Refused, match="beta, gamma"):
        mine.sign(request)


def test_a_party_counts_once_however_often_it_votes(tmp_path: Path) -> None:
    world, request = running()
    mine = signer(world, tmp_path)
    for i in range(5):
        mine.hold(hidden_vote(world, "beta", expires=world.now + DAY + i))
    mine.sign(request)


def test_signers_hold_nothing_but_genuine_votes_to_trip(tmp_path: Path) -> None:
    world = World()
    world.bind()
    mine = signer(world, tmp_path)
    trip = {"motion": "trip", "epoch": 0, "reason": ""}
    for data, reason in (
        (hidden_vote(world, "alpha", motion="lift"), Reason.FOREIGN),
        (world.statement("alpha", "assent", {"text": world.treaty.digest}), Reason.FOREIGN),
        (world.statement("alpha", "vote", trip, by=key("beta")), Reason.FORGED),
        (world.statement("alpha", "vote", trip, by=key("stranger")), Reason.UNKNOWN_ISSUER),
        (world.statement("alpha", "vote", trip, treaty="0" * 64), Reason.FOREIGN),
        (hidden_vote(world, "alpha", epoch=2), Reason.REPLAYED),
        (hidden_vote(world, "alpha", expires=world.now - 1, not_before=0), Reason.EXPIRED),
    ):
        with pytest.raises(Refused) as e:
            mine.hold(data)
        assert e.value.reason is reason
    for data in (b"{}", world.statement("alpha", "vote", {"motion": "trip"}), b"\xff" * 100):
        with pytest.raises(Malformed):
            mine.hold(data)
    assert lines(votes_of(tmp_path)) == []


@pytest.mark.parametrize("late", [20, 60, 3600])
def test_a_vote_is_held_whatever_date_it_bears(tmp_path: Path, late: int) -> None:
    """log/b_signer_refuses_vote: while the log records no time, every honest vote looks as if of the future."""
    world, request = running()
    mine = signer(world, tmp_path)
    for party in ("beta", "gamma"):
        mine.hold(hidden_vote(world, party, not_before=world.now + late, expires=world.now + late + DAY))
    with pytest.raises(Refused, match="shown to me"):
        mine.sign(request)


def test_a_vote_whose_number_the_log_has_passed_is_held(tmp_path: Path) -> None:
    """Whoever keeps the log may log a later statement to hide this one."""
    world, _ = running()
    hidden = [hidden_vote(world, p) for p in ("beta", "gamma")]
    for party in ("beta", "gamma"):
        assert world.withdraw(party).reason is None
    world.stamp()
    mine = signer(world, tmp_path)
    request = canonical(asked(world))
    mine.sign(request)
    for data in hidden:
        mine.hold(data)
    with pytest.raises(Refused, match="shown to me"):
        mine.sign(request)


def test_a_revoked_keys_vote_is_held_no_more_and_a_changed_ones_is(tmp_path: Path) -> None:
    # Treaty 12.1, 12.2: a thief's vote is nobody's; who changed its key in time meant what it said
    world, request = running()
    mine = signer(world, tmp_path)
    for party in ("beta", "gamma"):
        mine.hold(hidden_vote(world, party, seq=50))
    with pytest.raises(Refused, match="beta, gamma"):
        mine.sign(request)
    rotate(world, "gamma")
    mine._follower.update()
    with pytest.raises(Refused, match="beta, gamma"):
        mine.sign(canonical(asked(world)))
    revoke(world, "beta", "alpha", "gamma", "delta")
    mine._follower.update()
    assert open_envelope(mine.sign(canonical(asked(world)))).kind == "permit"


def test_ten_thousand_votes_of_one_party_leave_two(tmp_path: Path) -> None:
    """Attack S-31. Whatever dates, epochs and expiries it gives them, in memory and on the disk."""
    world, request = running()
    mine = signer(world, tmp_path)
    pick = random.Random(1)
    votes = []
    for _ in range(500):
        start, end = sorted(world.now + pick.randrange(-10, 10**6) for _ in range(2))
        votes.append(hidden_vote(world, "beta", epoch=pick.randrange(4), not_before=start, expires=end + 1))
    taken = 0
    for _ in range(20):
        pick.shuffle(votes)
        for data in votes:
            with suppress(Refused):
                mine.hold(data)
                taken += 1
    assert taken > 1000
    assert {party for party, _ in mine._held} == {"beta"}
    assert len(mine._held) <= 2
    assert len(lines(votes_of(tmp_path))) <= 2
    mine.sign(request)  # one party trips nothing
    mine.hold(hidden_vote(world, "gamma", expires=world.now + 2 * 10**6))
    with pytest.raises(Refused, match="beta, gamma"):
        mine.sign(request)


def test_a_growing_expiry_does_not_fill_the_disk(tmp_path: Path) -> None:
    """Each of them is newer than the one held: it takes its place."""
    world, _ = running()
    mine = signer(world, tmp_path)
    for i in range(200):
        mine.hold(hidden_vote(world, "beta", expires=world.now + DAY + i))
    assert len(lines(votes_of(tmp_path))) == 1
    assert open_envelope(lines(votes_of(tmp_path))[0]).statement.expires == world.now + DAY + 199


def test_votes_of_an_epoch_that_is_over_are_let_go(tmp_path: Path) -> None:
    world, _ = running()
    mine = signer(world, tmp_path)
    mine.hold(hidden_vote(world, "beta"))
    mine.hold(hidden_vote(world, "beta", epoch=1))  # a signer may be an epoch behind
    world.trip()
    world.stamp(30)
    mine._follower.update()
    mine.hold(hidden_vote(world, "gamma", epoch=1))
    assert set(mine._held) == {("beta", 1), ("gamma", 1)}
    assert len(lines(votes_of(tmp_path))) == 2


def test_a_torn_line_takes_no_whole_one_along(tmp_path: Path) -> None:
    """A crash in the middle of a line, and a signer that went on after it."""
    world, request = running()
    whole = [hidden_vote(world, "beta"), hidden_vote(world, "gamma")]
    file = votes_of(tmp_path)
    file.parent.mkdir()
    for torn in (whole[0][:100], b"\x00" * 50, b"{", whole[0] + whole[1]):
        file.write_bytes(b"\n".join([torn, whole[0], torn, torn, whole[1], torn]))
        mine = signer(world, tmp_path)
        with pytest.raises(Refused, match="beta, gamma"):
            mine.sign(request)
        mine.hold(hidden_vote(world, "delta"))
        assert len(lines(file)) == 3, "and the torn ones are gone"


def test_votes_of_a_later_epoch_survive_a_restart(tmp_path: Path) -> None:
    """A signer that starts has seen nothing: it must not judge what it held by the epoch that it knows then."""
    world = World()
    world.bind()
    run = world.opened("alpha")
    for _ in range(2):
        world.trip()
        world.stamp()
        world.stamp(60)
        world.vote("lift", "alpha", "beta", "gamma")
        world.stamp(30)
    assert (world.phase, world.state.epoch) == (Phase.CLEAR, 2)
    assert world.head(run, "opened").reason is None
    request = canonical(world.request(run))
    mine = signer(world, tmp_path)
    mine.sign(request)
    for party in ("beta", "gamma"):
        mine.hold(hidden_vote(world, party, epoch=2))
    log = WorldLog(world)
    log.away = True
    follower = Follower(log, world.treaty)
    again = Signer(follower, lambda _: key("alpha", "signer"), lambda: world.now, votes_of(tmp_path), granted(tmp_path))
    for act in (lambda: again.sign(request), lambda: again.hold(hidden_vote(world, "delta", epoch=2))):
        with pytest.raises(Refused) as e:
            act()
        assert e.value.reason is Reason.STALE
    assert len(lines(votes_of(tmp_path))) == 2
    log.away = False
    follower.update()
    with pytest.raises(Refused, match="beta, gamma"):
        again.sign(request)


def test_a_vote_that_cannot_be_kept_is_not_said_to_be_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = running()
    mine = signer(world, tmp_path)
    votes_of(tmp_path).mkdir(parents=True)  # a folder in its place
    with pytest.raises(Unavailable):
        mine.hold(hidden_vote(world, "beta"))


# ---- permits ----


def test_a_signer_signs_one_permit_exactly(tmp_path: Path) -> None:
    world, request = running()
    envelope = open_envelope(signer(world, tmp_path).sign(request))
    assert (envelope.kind, envelope.payload) == ("permit", request)
    assert [k for k, _ in envelope.signatures] == [key("alpha", "signer").public.id]


def test_a_signer_refuses_what_the_rules_refuse(tmp_path: Path) -> None:
    world, _ = running()
    mine = signer(world, tmp_path)
    for changes, reason in (
        ({"epoch": 1}, Reason.REPLAYED),
        ({"root": "ab" * 32}, Reason.TAMPERED),
        ({"run": "ab" * 32}, Reason.UNDECLARED),
        ({"flop_limit": str(10**12)}, Reason.ALLOWANCE),
    ):
        with pytest.raises(Refused) as e:
            mine.sign(canonical(asked(world, **changes)))
        assert e.value.reason is reason
    with pytest.raises(Malformed):
        mine.sign(b"{}")


def test_a_signer_catches_up_with_whom_it_serves(tmp_path: Path) -> None:
    """The asker has seen a checkpoint that the signer sees a moment later."""
    world, _ = running()
    mine = signer(world, tmp_path)
    world.stamp()
    request = canonical(asked(world))
    threading.Timer(0.1, mine._follower.update).start()
    mine.sign(request)


def test_a_signer_that_doubts_its_own_state_signs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote into its home: found when it folds anew, and from then on it fails closed."""
    world, request = running()
    monkeypatch.setattr(client, "_SAVE_EVERY", 1)
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    file = tmp_path / "state"
    file.write_bytes(pack(unpack(file.read_bytes()).replace(b'"assented":true', b'"assented":false', 1)))
    follower = Follower(WorldLog(world), world.treaty, tmp_path, stating=True)
    follower.update()
    mine = Signer(follower, lambda _: key("alpha", "signer"), lambda: world.now, votes_of(tmp_path), granted(tmp_path))
    mine.sign(request)
    told: list[str] = []
    box = Outbox(tmp_path, world.treaty, "alpha", key("alpha"), lambda: world.now)
    stater = Stater(follower, lambda _: box, WorldLog(world).add_verified, lambda _: None, 0, told.append)
    stater.run(threading.Event(), list)  # ends by itself
    assert any("another state" in t for t in told)
    with pytest.raises(Refused) as e:
        mine.sign(request)
    assert e.value.reason is Reason.TAMPERED
    assert box.newest("audits") == -1


# ---- over HTTP ----


def test_over_http(tmp_path: Path) -> None:
    world, request = running()
    with TestClient(app(signer(world, tmp_path))) as web:
        response = web.post("/permit", content=request)
        assert (response.status_code, open_envelope(response.content).payload) == (200, request)
        assert web.post("/vote", content=hidden_vote(world, "beta")).status_code == 204
        assert web.post("/vote", content=hidden_vote(world, "gamma")).status_code == 204
        refused = web.post("/permit", content=request)
        with pytest.raises(Refused) as e:
            http.raise_for(httpx.Response(refused.status_code, content=refused.content))
        assert e.value.reason is Reason.PAUSED
        for path, content in (("/permit", b"x" * 5000), ("/vote", b"x" * 70_000), ("/vote", b"x")):
            assert web.post(path, content=content).status_code == 400
        assert web.get("/vote").status_code == 405


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run": "ab" * 32, "size": 100}, Reason.STALE),
        ({"size": 10**15}, Reason.STALE),
        ({"treaty": "ab" * 32, "size": 100}, Reason.FOREIGN),
    ],
)
def test_nobody_waits_for_nothing(tmp_path: Path, changes: dict[str, Any], reason: Reason) -> None:
    world, _ = running()
    mine = signer(world, tmp_path)
    began = time.monotonic()
    with pytest.raises(Refused) as e:
        mine.sign(canonical(asked(world, **changes)))
    assert (e.value.reason, time.monotonic() - began < 0.5) == (reason, True)


def test_who_asks_for_permits_keeps_no_vote_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd that is ahead of the log: few of it wait, the others are told to come again, and a vote is held."""
    monkeypatch.setattr(node_signer, "_CATCH_UP", 5.0)
    world, _ = running()
    mine = signer(world, tmp_path)
    request = canonical(asked(world, size=world.state.size + 1))
    with TestClient(app(mine)) as web, ThreadPoolExecutor(60) as pool:
        crowd = [pool.submit(web.post, "/permit", content=request) for _ in range(60)]
        while sum(f.done() for f in crowd) < 60 - node_signer._WAITING:
            time.sleep(0.01)
        began = time.monotonic()
        assert web.post("/vote", content=hidden_vote(world, "beta")).status_code == 204
        assert time.monotonic() - began < 2
        assert any(f.running() for f in crowd)
        world.stamp()
        mine._follower.update()
        statuses = {f.result().status_code for f in crowd}
    assert statuses == {409}


# ---- what a signer states (Treaty 6.6) ----


class Turns:
    """An event that lets a stater's loop run a number of times: no test sleeps."""

    def __init__(self, *turns: Callable[[], object]) -> None:
        self.turns = list(turns)

    def wait(self, seconds: float) -> bool:
        if not self.turns:
            return True
        self.turns.pop(0)()
        return False


def stating(
    world: World, tmp_path: Path, party: str = "alpha", *, knows: bool = True
) -> tuple[WorldLog, Follower, Stater, list[str]]:
    """`knows`: its home has said what the log holds of it."""
    log, told = WorldLog(world, judging=True), list[str]()
    follower = Follower(log, world.treaty, stating=True)
    box = Outbox(tmp_path / party, world.treaty, party, key(party), lambda: world.now)
    if knows:
        box.take_back(enumerate(world.entries))
    return log, follower, Stater(follower, lambda _: box, log.add_verified, log.show, 10**6, told.append), told


def snapshots(world: World) -> list[tuple[str, int, str]]:
    return [(e.signer, e.size, e.state) for e in world.of(Stated)]


def test_signers_state_the_digest_where_the_treaty_asks_for_it(tmp_path: Path) -> None:
    """Once each, at the newest size that is due; a quorum of them is what `status --from-signers` wants."""
    world = World(**{"log.snapshot_every": "16"})
    world.bind()
    while world.state.size < 33:
        world.stamp()
    for party in PARTIES:
        log, follower, stater, told = stating(world, tmp_path, party)
        stater.run(Turns(*[follower.update] * 4), list)  # type: ignore[arg-type]
        assert told == []
        log.away = True
    due = digest(state_at(world, 32))
    assert snapshots(world) == [(p, 32, due) for p in PARTIES]


def test_a_signer_put_back_from_a_copy_does_not_equivocate(tmp_path: Path) -> None:
    """It states nothing, and says why, until it has taken back what the log holds of it."""
    world = World(**{"log.snapshot_every": "16"})
    world.bind()
    for i in range(3):
        while world.state.size % 16 or world.state.size == 16 * i:
            world.stamp()
        _, follower, stater, told = stating(world, tmp_path / f"{i} copy", knows=False)
        stater.run(Turns(*[follower.update] * 2), list)  # type: ignore[arg-type]
        assert len(told) == 1
        assert "this home never gave" in told[0]
        assert len(snapshots(world)) == i
        _, follower, stater, told = stating(world, tmp_path / str(i))
        stater.run(Turns(*[follower.update] * 2), list)  # type: ignore[arg-type]
        assert told == []
    assert [size for _, size, _ in snapshots(world)] == [16, 32, 48]
    assert world.state.members.equivocators == frozenset()


def test_a_signer_that_has_not_seen_the_log_states_nothing(tmp_path: Path) -> None:
    world = World(**{"log.snapshot_every": "16"})
    world.bind()
    log, follower, stater, told = stating(world, tmp_path)
    log.away = True
    follower.stated = (16, "ab" * 32, "ab" * 32)
    stater.run(Turns(lambda: None, lambda: None), list)  # type: ignore[arg-type]
    assert (snapshots(world), told, log.added) == ([], [], [])


def test_an_outage_keeps_what_was_to_be_stated(tmp_path: Path) -> None:
    world = World(**{"log.snapshot_every": "16"})
    world.bind()
    while world.state.size < 16:
        world.stamp()
    log, follower, stater, told = stating(world, tmp_path)

    def away(value: bool) -> None:
        log.away = value

    turns = (follower.update, lambda: None, lambda: away(False), lambda: None)
    follower.update()
    away(True)
    stater.run(Turns(*turns[1:]), list)  # type: ignore[arg-type]
    assert len(told) == 1
    assert [size for _, size, _ in snapshots(world)] == [16]
    assert Snapshot.__struct_fields__ == ("rules", "size", "root", "state")


def following(tmp_path: Path) -> tuple[World, Follower, Stater, list[str], Signer]:
    """A world, and a signer in it that has seen its log."""
    world = World()
    world.bind()
    _, follower, stater, told = stating(world, tmp_path)
    follower.update()
    mine = Signer(follower, lambda _: None, lambda: world.now, votes_of(tmp_path), granted(tmp_path))
    return world, follower, stater, told, mine


def test_a_signer_brings_the_votes_that_it_was_shown_to_the_log(tmp_path: Path) -> None:
    """A party that shows its vote to signers alone would hold up every permit, and nobody could vote to lift."""
    world, follower, stater, told, mine = following(tmp_path)
    shown = [hidden_vote(world, party) for party in ("beta", "gamma")]
    for vote in shown:
        mine.hold(vote)
    assert mine.unlogged() == shown
    stater.run(Turns(lambda: None, follower.update, lambda: None), mine.unlogged)  # type: ignore[arg-type]
    assert world.phase is not Phase.CLEAR
    assert mine.unlogged() == []
    assert told == []


def test_a_vote_whose_number_was_spent_on_something_else_voids_its_partys_word(tmp_path: Path) -> None:
    world, follower, stater, _, mine = following(tmp_path)
    hidden = hidden_vote(world, "beta", seq=900)
    world.log("beta", "vote", {"motion": "trip", "epoch": 5, "reason": "another"}, seq=900)
    world.stamp()
    mine.hold(hidden)
    stater.run(Turns(follower.update, follower.update, lambda: None), mine.unlogged)  # type: ignore[arg-type]
    assert world.state.members.equivocators == {"beta"}
    assert mine.unlogged() == []


def test_an_epoch_that_a_failing_disk_may_lose_is_not_signed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was renamed, and its folder not synced: it may be gone after a power cut, whoever reads it now."""
    kept = granted(tmp_path)
    disk, synced = ports.disk(), list[Path]()

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(disk, name)

        def sync(self, path: Path) -> None:
            synced.append(path)
            if len(synced) < 3:
                raise OSError(errno.EIO, "input/output error")
            disk.sync(path)

    failing = Failing()
    monkeypatch.setattr(ports, "disk", lambda: failing)
    for _ in range(2):
        with pytest.raises(Unavailable), kept.signing("log", 1):
            raise AssertionError("signed")
    with kept.signing("log", 1):
        assert len(synced) == 3

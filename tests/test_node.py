"""Homes, outboxes, followers and the live gate. The world's log stands behind the client's real methods."""

import threading
import time
from pathlib import Path

import httpx
import pytest

from brakeline.core.encoding import canonical
from brakeline.core.errors import Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.statement import open_envelope
from brakeline.core.tlog.merkle import inclusion_proof, leaf_hash, reader
from brakeline.core.tlog.proof import Proof
from brakeline.core.tlog.tile import encode_bundle
from brakeline.node import permits
from brakeline.node.client import BUNDLE, Follower, LogClient, add_verified
from brakeline.node.home import Home, load_key, new_key, save_key
from brakeline.node.outbox import Outbox
from brakeline.node.permits import LiveGate, boottime
from brakeline.node.signer import Signer
from world import DAY, PARTIES, World, key


class WorldLog(LogClient):
    """The world's log, as an honest server shows it; tests override one answer to make it lie."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.note: bytes | None = None

    def checkpoint(self, *, after: int = -1, wait: int = 0) -> bytes:
        return self.note or self.world.checkpoint()

    def entries(self, start: int, end: int) -> list[bytes]:
        return self.world.entries[start:end]

    def add(self, entry: bytes) -> bytes:
        if entry not in self.world.entries:
            self.world.append(entry)
        index = self.world.entries.index(entry)
        hashes = [leaf_hash(e) for e in self.world.entries]
        return Proof(index, inclusion_proof(index, len(hashes), reader(hashes)), self.world.checkpoint()).encode()


# ---- keys ----


def test_key_files(tmp_path: Path) -> None:
    path, secret = tmp_path / "k.pem", new_key()
    save_key(path, secret, None)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path, lambda: b"").public == secret.public
    with pytest.raises(Misuse, match="exists already"):
        save_key(path, secret, None)
    path.chmod(0o644)
    with pytest.raises(Misuse, match="can be read by others"):
        load_key(path, lambda: b"")
    path.chmod(0o600)
    path.write_bytes(b"no key")
    with pytest.raises(Malformed):
        load_key(path, lambda: b"")
    with pytest.raises(Unavailable):
        load_key(tmp_path / "none.pem", lambda: b"")


def test_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, secret = tmp_path / "k.pem", new_key()
    save_key(path, secret, b"open sesame")
    assert b"ENCRYPTED" in path.read_bytes()
    assert load_key(path, lambda: b"open sesame").public == secret.public
    with pytest.raises(Misuse, match="wrong passphrase"):
        load_key(path, lambda: b"open")
    monkeypatch.delenv("BRAKELINE_PASSPHRASE", raising=False)
    (tmp_path / "party").write_text("alpha\n")
    (tmp_path / "keys").mkdir()
    path.rename(tmp_path / "keys" / "statement.pem")
    with pytest.raises(Misuse, match="encrypted"):
        Home(tmp_path).key("statement")
    monkeypatch.setenv("BRAKELINE_PASSPHRASE", "open sesame")
    assert Home(tmp_path).key("statement").public == secret.public


def test_home_of_another_party(tmp_path: Path) -> None:
    world = World()
    (tmp_path / "party").write_text("alpha\n")
    save_key(tmp_path / "keys" / "statement.pem", new_key(), None)
    with pytest.raises(Misuse, match="another key"):
        Home(tmp_path).me(world.treaty)
    with pytest.raises(Unavailable, match="no treaty"):
        _ = Home(tmp_path).treaty
    (tmp_path / "party").write_text("zeta\n")
    with pytest.raises(Misuse, match="no party"):
        Home(tmp_path).me(world.treaty)


# ---- outbox ----


def outbox(tmp_path: Path, world: World) -> Outbox:
    return Outbox(tmp_path, world.treaty.digest, "alpha", key("alpha"), lambda: world.now)


def test_outbox_numbers_and_chains(tmp_path: Path) -> None:
    world = World()
    box, log = outbox(tmp_path, world), WorldLog(world)
    for _ in range(3):
        box.send(lambda e: add_verified(log, world.treaty.policy, e), "assent", {"text": world.treaty.digest})
    said = [open_envelope(e) for e in world.entries if e.startswith(b"{")]
    assert [e.statement.seq for e in said] == [0, 1, 2]
    assert [e.statement.prev for e in said[1:]] == [e.digest for e in said[:-1]]
    assert all(o.reason is None for o in world.fold.outcomes)


def test_outbox_survives_a_crash_between_sending_and_noting(tmp_path: Path) -> None:
    """The same bytes are sent again, and nothing counts twice."""
    world = World()
    box, log = outbox(tmp_path, world), WorldLog(world)
    data = box.write("assent", {"text": world.treaty.digest})

    def lost(entry: bytes) -> int:
        log.add(entry)
        raise Unavailable("the answer was lost")

    with pytest.raises(Unavailable):
        box.flush(lost)
    box.close()
    again = outbox(tmp_path, world)
    assert [d for _, d in again.pending()] == [data]
    (sent,) = again.flush(lambda e: add_verified(log, world.treaty.policy, e))
    assert world.entries.count(data) == 1
    assert world.entries[sent.index] == data
    assert again.pending() == []


def test_a_refused_statement_does_not_block_the_next(tmp_path: Path) -> None:
    world = World()
    box = outbox(tmp_path, world)
    box.write("assent", {"text": "first"})

    def refuse(entry: bytes) -> int:
        raise Refused(Reason.FOREIGN, "no")

    with pytest.raises(Refused):
        box.flush(refuse)
    box.write("assent", {"text": "second"})
    assert len(box.flush(lambda e: 7)) == 1


def test_two_processes_never_share_a_number(tmp_path: Path) -> None:
    world = World()
    boxes = [outbox(tmp_path, world) for _ in range(2)]


    def write(box: Outbox) -> None:
        for _ in range(20):
            box.write("assent", {"text": "x"})

    threads = [threading.Thread(target=write, args=(b,)) for b in boxes]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [seq for seq, _ in boxes[0].pending()] == list(range(40))


# ---- follower ----


def grown() -> World:
    world = World()
    world.bind()
    world.stamp()
    return world


def test_follower_folds_what_the_log_shows(tmp_path: Path) -> None:
    world = grown()
    follower = Follower(WorldLog(world), world.treaty, tmp_path)
    assert follower.update()
    assert not follower.update()
    world.trip()
    assert follower.update()
    assert follower.fold.brake == world.fold.brake
    assert follower.fold.roots == world.fold.roots


def test_two_histories_are_caught_and_the_proof_is_kept(tmp_path: Path) -> None:
    """Attack A-20. Both notes are cosigned by a quorum: together they convict."""
    world = grown()
    log = WorldLog(world)
    follower = Follower(log, world.treaty, tmp_path)
    follower.update()
    size = follower.fold.size
    world.entries[-1] = world.statement("alpha", "vote", {"motion": "trip", "epoch": 0, "reason": "another history"})
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.EQUIVOCATION
    assert follower.fold.size == size
    kept = sorted((tmp_path / "forks").iterdir())
    assert len(kept) == 2
    assert kept[0].read_bytes() != kept[1].read_bytes()


def test_a_grown_fork_is_caught_too(tmp_path: Path) -> None:
    world = grown()
    follower = Follower(WorldLog(world), world.treaty, tmp_path)
    follower.update()
    world.entries[1] = world.statement("alpha", "vote", {"motion": "trip", "epoch": 0, "reason": "x"})
    world.stamp()
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.EQUIVOCATION


def test_threads_share_a_follower() -> None:
    """Nothing is folded twice, and a slower answer is no rollback."""
    world = grown()
    follower = Follower(WorldLog(world), world.treaty)
    follower.update()
    troubles: list[BaseException] = []
    stop = threading.Event()

    def follow() -> None:
        while not stop.is_set():
            try:
                follower.update()
            except BaseException as e:
                troubles.append(e)

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for t in threads:
        t.start()
    for _ in range(30):
        world.stamp()
    stop.set()
    for t in threads:
        t.join()
    follower.update()
    assert troubles == []
    assert list(follower.entries) == world.entries
    assert follower.fold.roots == world.fold.roots


def test_a_slow_answer_is_no_rollback_and_must_still_fit() -> None:
    world = grown()
    log = WorldLog(world)
    follower = Follower(log, world.treaty)
    old = world.checkpoint()
    real = log.checkpoint

    def slow(*, after: int = -1, wait: int = 0) -> bytes:
        log.checkpoint = real  # type: ignore[method-assign]
        world.stamp()
        follower.update()
        return note

    note, follower = old, Follower(log, world.treaty)
    log.checkpoint = slow  # type: ignore[method-assign]
    assert not follower.update()
    note, follower = world.checkpoint(3, root=bytes(32)), Follower(log, world.treaty)
    log.checkpoint = slow  # type: ignore[method-assign]
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.EQUIVOCATION


def test_a_log_rolled_back_is_refused_also_after_a_restart(tmp_path: Path) -> None:
    world = grown()
    log = WorldLog(world)
    Follower(log, world.treaty, tmp_path).update()
    log.note = world.checkpoint(4)
    with pytest.raises(Refused) as e:
        Follower(log, world.treaty, tmp_path).update()
    assert e.value.reason is Reason.ROLLBACK


def test_a_fork_shown_after_a_restart_is_caught(tmp_path: Path) -> None:
    world = grown()
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    world.entries[2] = world.statement("alpha", "vote", {"motion": "trip", "epoch": 0, "reason": "x"})
    with pytest.raises(Refused) as e:
        Follower(WorldLog(world), world.treaty, tmp_path).update()
    assert e.value.reason is Reason.EQUIVOCATION


def test_without_a_witness_quorum_nothing_is_taken() -> None:
    world = grown()
    log = WorldLog(world)
    log.note = world.checkpoint(by=PARTIES[:2])
    follower = Follower(log, world.treaty)
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.NO_QUORUM
    assert follower.fold.size == 0


def test_a_proof_of_something_else_is_refused() -> None:
    world = grown()
    log = WorldLog(world)
    proof = log.add(world.entries[1])
    log.add = lambda entry: proof  # type: ignore[method-assign]
    with pytest.raises(Refused):
        add_verified(log, world.treaty.policy, world.entries[2])


def test_bundles_cover_every_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry bundles are cut at 256; a partial one that is gone is read from the full one."""
    client = LogClient("http://127.0.0.1:9")
    asked: list[tuple[int, int]] = []

    def bundle(number: int, width: int) -> tuple[bytes, ...]:
        asked.append((number, width))
        return tuple(b"%d" % (number * BUNDLE + i) for i in range(width))

    monkeypatch.setattr(client, "_bundle", bundle)
    for start, end in ((0, 1), (0, 256), (255, 257), (300, 700), (512, 512)):
        assert client.entries(start, end) == [b"%d" % i for i in range(start, end)]
    assert (2, 188) in asked


def test_a_partial_tile_that_is_gone_is_read_from_the_full_one() -> None:
    full = [b"%d" % i for i in range(BUNDLE)]

    def answer(request: httpx.Request) -> httpx.Response:
        there = request.url.path == "/tile/entries/000"
        return httpx.Response(200, content=encode_bundle(full)) if there else httpx.Response(404)

    client = LogClient("http://127.0.0.1:9")
    client._http = httpx.Client(base_url="http://127.0.0.1:9", transport=httpx.MockTransport(answer))
    assert client.entries(3, 10) == full[3:10]
    with pytest.raises(Malformed):
        client.entries(256, 300)


# ---- the permit signer ----


def signer(world: World, tmp_path: Path) -> Signer:
    (tmp_path / "signer").mkdir(exist_ok=True)
    follower = Follower(WorldLog(world), world.treaty)
    follower.update()
    return Signer(follower, key("alpha", "signer"), lambda: world.now, tmp_path / "signer" / "votes.jsonl")


def hidden_vote(world: World, party: str, epoch: int = 0, motion: str = "trip") -> bytes:
    return world.statement(party, "vote", {"motion": motion, "epoch": epoch, "reason": "x"})


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


def test_a_hidden_vote_adds_to_those_in_the_log_and_counts_once(tmp_path: Path) -> None:
    world = World()
    world.bind()
    run = world.opened("alpha")
    (data,) = (hidden_vote(world, "beta"),)
    world.append(data)
    mine = signer(world, tmp_path)
    mine.hold(data)  # the log has it already: nothing to hold
    request = canonical(world.request(run))
    mine.sign(request)
    mine.hold(hidden_vote(world, "gamma"))
    with pytest.raises(Refused, match="beta, gamma"):
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
        (world.statement("alpha", "vote", trip, treaty="0" * 64), Reason.FOREIGN),
    ):
        with pytest.raises(Refused) as e:
            mine.hold(data)
        assert e.value.reason is reason
    with pytest.raises(Malformed):
        mine.hold(b"{}")


# ---- the live gate ----


class Signed:
    """Signers that sign whatever the world grants."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.asked, self.refuse = world, 0, False
        monkeypatch.setattr(permits, "ask_signers", self)

    def __call__(self, payload: object, urls: object, enough: int, client: object) -> bytes:
        self.asked += 1
        if self.refuse:
            raise Unavailable("cut off")
        self.world.grant(payload)  # type: ignore[arg-type]
        return self.world.sealed(payload)  # type: ignore[arg-type]


def live(world: World, monkeypatch: pytest.MonkeyPatch, now: list[int], steps: list[int]) -> tuple[LiveGate, Signed]:
    world.bind()
    run = world.opened("alpha")
    follower = Follower(WorldLog(world), world.treaty)
    follower.update()
    signers = Signed(world, monkeypatch)
    return LiveGate(follower, run.id, steps=lambda: steps[0], clock=lambda: now[0]), signers


def test_permit_opens_and_lapses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treaty 5.1, 5.3, 5.4."""
    now, steps = [10**9], [0]
    gate, _ = live(World(), monkeypatch, now, steps)
    assert not gate.may_step()
    gate._ask()
    assert gate.may_step()
    steps[0] = 5
    assert gate.may_step()
    steps[0] = 6  # the allowance is six steps
    assert gate.decision.reason == "compute allowance used up"
    steps[0] = 0
    now[0] += 10 * 10**9
    assert gate.decision.reason == "permit lapsed"


def test_a_clock_set_back_does_not_extend_a_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate never reads a wall clock, and the clock it reads cannot be set."""
    now, steps = [10**9], [0]
    gate, _ = live(World(), monkeypatch, now, steps)
    gate._ask()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    now[0] += 10 * 10**9
    assert not gate.may_step()
    before = boottime()
    assert 0 <= boottime() - before < 10**9


def test_a_trip_shuts_the_gate_and_old_permits_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treaty 4.6, 5.5: a permit collected before the trip and shown after it opens nothing."""
    world = World()
    now, steps = [10**9], [0]
    gate, signers = live(world, monkeypatch, now, steps)
    gate._ask()
    assert gate.may_step()

    def trip_while_signing(payload: object, *_: object) -> bytes:
        world.vote("trip", "alpha", "beta")
        gate._follower.update()
        gate._look()
        return world.sealed(payload)  # type: ignore[arg-type]

    monkeypatch.setattr(permits, "ask_signers", trip_while_signing)
    now[0] += 6 * 10**9
    with pytest.raises(Refused) as e:
        gate._ask()
    assert e.value.reason is Reason.ROLLBACK
    assert gate.decision.reason.startswith("brake ")
    assert signers.asked == 1


def test_cut_off_keeps_training_until_the_lapse(monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = [10**9], [0]
    gate, signers = live(World(), monkeypatch, now, steps)
    gate._ask()
    signers.refuse = True
    now[0] += 6 * 10**9
    with pytest.raises(Unavailable):
        gate._ask()
    assert gate.may_step()
    now[0] += 4 * 10**9
    assert not gate.may_step()


def test_nobody_is_asked_to_stop_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treaty 2.2: a lab whose pledge does not bind needs no permit, and a trip does not concern it."""
    world = World()
    later = world.now + 400 * DAY
    world.bind("beta", "gamma", "delta", expires=later)
    world.bind("alpha", condition="group others all beta gamma delta\nquorum others\n", expires=later)
    world.withdraw("delta")
    world.stamp(world.treaty.withdrawal_notice + 1)
    run = world.opened("alpha")
    assert not run.bound
    follower = Follower(WorldLog(world), world.treaty)
    follower.update()
    now = [10**9]
    gate = LiveGate(follower, run.id, steps=lambda: 0, clock=lambda: now[0])
    gate._ask()
    assert gate.may_step()
    world.vote("trip", "beta", "gamma")
    follower.update()
    gate._look()
    assert follower.fold.brake.epoch == 1
    assert gate.may_step()

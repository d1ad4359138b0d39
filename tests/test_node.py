"""Homes, the client, errors on the wire, and the live gate. The world's log stands behind the client's real methods."""

import asyncio
import errno
import gzip
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from brakeline.core.admission import Admission
from brakeline.core.brake import Phase
from brakeline.core.encoding import parse
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.gate import NO_PERMIT
from brakeline.core.statement import open_envelope, sign
from brakeline.core.tlog.merkle import inclusion_proof, leaf_hash, reader, root
from brakeline.core.tlog.proof import Proof
from brakeline.core.tlog.tile import encode_bundle
from brakeline.node import http, logclient, peers, permits
from brakeline.node.client import Follower
from brakeline.node.disk import write_private
from brakeline.node.home import Home, load_key, new_key, save_key
from brakeline.node.logclient import BUNDLE, LogClient
from brakeline.node.permits import LiveGate
from brakeline.node.ports import clock
from brakeline.node.submit import add_verified
from brakeline.node.wire import UNTIL
from world import DAY, PARTIES, World, key


class WorldLog(LogClient):
    """The world's log, as an honest server shows it; tests override one answer to make it lie.

    `away`: it is out of reach. `judging`: what it takes is what a log's admission lets pass.
    """

    def __init__(self, world: World, *, judging: bool = False) -> None:
        self.world, self.url = world, "http://the.world"
        self.note: bytes | None = None
        self.state: bytes | None = None  # what it offers to newcomers
        self.away = False
        self.judging = judging
        self.asked: list[tuple[int, int]] = []  # ranges of entries
        self.added: list[bytes] = []
        self.promised: bytes | None = None  # a receipt that it shows, whatever is asked for

    def _reach(self) -> None:
        if self.away:
            raise Unavailable("the log is out of reach")

    def checkpoint(self, *, after: int = -1, wait: int = 0) -> bytes:
        self._reach()
        # By its entries, not by the world's state: a test may have put another history there.
        return self.note or self.world.checkpoint(root=root(list(map(leaf_hash, self.world.entries))))

    def entries(self, start: int, end: int) -> list[bytes]:
        self._reach()
        self.asked.append((start, end))
        return self.world.entries[start:end]

    def snapshot(self) -> bytes:
        self._reach()
        assert self.state is not None
        return self.state

    def receipt(self, entry: bytes) -> bytes | None:
        return self.promised

    def show(self, entry: bytes) -> None:
        self._reach()
        if self.judging:
            Admission(self.world.state).admit(entry)
        self.world.append(entry)

    def add(self, entry: bytes) -> bytes:
        self._reach()
        self.added.append(entry)
        if entry not in self.world.entries:
            if self.judging:
                Admission(self.world.state).admit(entry, alone=True)
            self.world.append(entry)
        index = self.world.entries.index(entry)
        hashes = [leaf_hash(e) for e in self.world.entries]
        return Proof(index, inclusion_proof(index, len(hashes), reader(hashes)), self.world.checkpoint()).encode()

    def add_verified(self, entry: bytes) -> int:
        return add_verified(self, lambda size: self.world.state.chain.need(size), entry)


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


# ---- the client ----


def test_a_proof_of_something_else_is_refused() -> None:
    """And the statement is kept: it may well be in the log, whatever the answer says."""
    world = World()
    world.bind()
    log = WorldLog(world)
    proof = log.add(world.entries[1])
    log.add = lambda entry: proof  # type: ignore[method-assign]
    with pytest.raises(Refused) as e:
        log.add_verified(world.entries[2])
    assert (e.value.reason, e.value.later) == (Reason.TAMPERED, True)
    assert log.add_verified(world.entries[1]) == 1


def test_a_proof_without_a_witness_quorum_is_refused_and_the_statement_kept() -> None:
    world = World()
    world.bind()
    log = WorldLog(world)
    honest = world.checkpoint
    world.checkpoint = lambda: honest(by=PARTIES[:2])  # type: ignore[method-assign]
    with pytest.raises(Refused) as e:
        log.add_verified(world.entries[1])
    assert (e.value.reason, e.value.later) == (Reason.NO_QUORUM, True)


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
    with pytest.raises(Unavailable):
        client.entries(256, 300)


def test_a_peer_fills_no_jar_with_cookies() -> None:
    """Neither a reader's nor the log's own, which asks witnesses."""
    sent = b"".join(b"Set-Cookie: c%d=%s\r\n" % (i, b"x" * 50) for i in range(100))

    def answer(listener: socket.socket) -> None:
        for _ in range(2):
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n" + sent + b"\r\nx")

    async def by_the_log(url: str) -> None:
        async with peers.wire().caller(5.0) as caller:
            assert await caller.call("GET", url, b"", 100) == (200, b"x")
            assert not caller._client.cookies  # type: ignore[attr-defined]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with peers.http_client(url) as client:
            assert peers.ask(client, "GET", "/", 100, seconds=5).content == b"x"
            assert not client.cookies
        asyncio.run(by_the_log(url))


@pytest.mark.parametrize("kind", ["heads", "chunks"])
def test_a_witness_cannot_answer_the_log_without_end(kind: str) -> None:
    """However it is cut: what is read of an answer is bounded before it is parsed."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if kind == "chunks" else b""
    piece = b"1\r\nx\r\n" if kind == "chunks" else b"HTTP/1.1 103 Early Hints\r\n\r\n"

    def answer(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer, suppress(OSError):
            peer.sendall(head)
            while True:
                peer.sendall(piece * 100)

    async def asked(url: str) -> None:
        async with peers.wire().caller(60.0) as caller:
            with pytest.raises((httpx.ReadError, Malformed)):
                await caller.call("GET", url, b"", 100_000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        asyncio.run(asked(f"http://127.0.0.1:{listener.getsockname()[1]}"))


def test_a_file_that_could_not_be_made_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "secret"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match=f"No space left on device: {path}"):
            write_private(path, b"all of it")
    assert not path.exists()
    write_private(path, b"all of it")
    assert path.read_bytes() == b"all of it"


def over(client: LogClient, answer: Callable[[httpx.Request], httpx.Response]) -> LogClient:
    client._http = httpx.Client(base_url=client.url, transport=httpx.MockTransport(answer))
    return client


BOMB = gzip.compress(bytes(10**6))


@pytest.mark.parametrize("compressed", [True, False])
def test_an_answer_has_a_bound(compressed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No log fills its readers' memory, neither with bytes nor with a small answer that unpacks to many."""
    monkeypatch.setattr(logclient, "_LIMIT", 10**5)
    headers = {"content-encoding": "gzip"} if compressed else {}
    sent: list[int] = []

    def stream() -> Iterator[bytes]:
        for _ in range(1000):
            sent.append(1000)
            yield bytes(1000)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=headers, content=BOMB if compressed else stream())

    log = over(LogClient("http://127.0.0.1:9"), answer)
    for call in (log.checkpoint, log.snapshot, lambda: log.add(b"{}"), lambda: log.entries(0, 1)):
        with pytest.raises(Malformed, match="compressed" if compressed else "over 100000 bytes"):
            call()
    assert sum(sent) <= 4 * 102_000


@pytest.mark.parametrize("answer", [BOMB, b"x" * 10**6])
def test_a_permit_signers_answer_has_a_bound(answer: bytes) -> None:
    """One dishonest signer of four neither fills the lab's memory nor keeps the others' signatures out."""
    world = World()
    world.bind()
    permit = world.request(world.opened("alpha"))
    headers = {"content-encoding": "gzip"} if answer is BOMB else {}

    def serve(request: httpx.Request) -> httpx.Response:
        party = request.url.host
        if party == "delta":
            return httpx.Response(200, headers=headers, content=answer)
        return httpx.Response(200, content=sign("permit", permit, key(party, "signer")))

    with httpx.Client(transport=httpx.MockTransport(serve)) as http_client:
        urls = {p: f"http://{p}" for p in PARTIES}
        sealed = open_envelope(permits.ask_signers(permit, urls, 3, http_client))
        assert len(sealed.signatures) == 3
        with pytest.raises(Unavailable, match="3 of 4"):
            permits.ask_signers(permit, urls, 4, http_client)


class Dripping:
    """A peer that sends a byte now and then, for ever: of the headers, or of the body."""

    def __init__(self, *, headers: bool) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.over = threading.Event()
        self.headers = headers
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._drip, args=(self.server.accept()[0],), daemon=True).start()

    def _drip(self, peer: socket.socket) -> None:
        with suppress(OSError), peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\n" + (b"x-a: " if self.headers else b"transfer-encoding: chunked\r\n\r\n"))
            while not self.over.wait(0.05):
                peer.sendall(b"x" if self.headers else b"1\r\nx\r\n")

    def close(self) -> None:
        self.over.set()
        self.server.close()


@pytest.mark.parametrize("headers", [True, False])
def test_a_peer_that_drips_holds_nobody_up(headers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request ends as a whole, not each read of it alone; so does all that is asked within one bound."""
    world = World()
    world.bind()
    permit = world.request(world.opened("alpha"))
    monkeypatch.setattr(permits, "_ANSWER", 0.4)
    with closing(Dripping(headers=headers)) as peer, peers.http_client() as web:
        began = time.monotonic()
        with pytest.raises(httpx.ReadTimeout):
            peers.ask(web, "GET", peer.url, 10**6, seconds=0.4)
        with pytest.raises(Unavailable, match="0 of 3"):
            permits.ask_signers(permit, dict.fromkeys(PARTIES, peer.url), 3, web)
        log = LogClient(peer.url)
        with peers.within(0.4):
            for _ in range(2):
                with pytest.raises(Unavailable, match="out of reach"):
                    log.entries(0, 1)
        assert time.monotonic() - began < 5
        assert UNTIL.get() == float("inf")


def test_a_log_without_a_state_says_so() -> None:
    log = over(LogClient("http://127.0.0.1:9"), lambda _: httpx.Response(404))
    with pytest.raises(Unavailable, match="offers no state"):
        log.snapshot()


# ---- errors on the wire ----


@pytest.mark.parametrize(
    ("error", "status", "later"),
    [
        (Malformed("bad", hint="mend it"), 400, False),
        (Unavailable("away", hint="wait"), 503, True),
        (Refused(Reason.FORGED, "no"), 403, False),
        (Refused(Reason.REPLAYED, "passed"), 409, False),
        (Refused(Reason.BUDGET, "spent", hint="tomorrow", later=True), 409, True),
        (Refused(Reason.NOT_YET_VALID, "too early", later=True), 409, True),
    ],
)
def test_errors_travel_whole(error: BrakelineError, status: int, later: bool) -> None:
    """Also whether the same may be granted later: on that a statement is kept, or given up."""
    response = http.error_response(error)
    body = parse(bytes(response.body), http.ErrorBody)
    assert (response.status_code, body.later) == (status, later)
    with pytest.raises(type(error), match=str(error)) as e:
        http.raise_for(httpx.Response(status, content=bytes(response.body)))
    assert e.value.hint == error.hint
    if isinstance(error, Refused):
        assert isinstance(e.value, Refused)
        assert (e.value.reason, e.value.later) == (error.reason, later)


def test_a_peers_text_is_no_command_to_a_terminal() -> None:
    body = http.error_response(Refused(Reason.FORGED, "\x1b[2Jno\nerror: all is well " + "x" * 10_000, hint="\r\u202e"))
    with pytest.raises(Refused) as e:
        http.raise_for(httpx.Response(409, content=bytes(body.body)))
    text = str(e.value)
    assert text.startswith(r"\x1b[2Jno\nerror: all is well xxx")
    assert (text.isprintable(), len(text) < 600, e.value.hint) == (True, True, r"\r\u202e")


@pytest.mark.parametrize(
    ("status", "kind"), [(429, Unavailable), (502, Unavailable), (404, Malformed), (409, Malformed)]
)
def test_an_answer_that_is_not_ours(status: int, kind: type[BrakelineError]) -> None:
    """A body without `later` is none of ours: another build's server is not understood by halves."""
    for content in (b"", b"<html>", b'{"error":"x","hint":"","reason":"replayed"}'):
        with pytest.raises(kind):
            http.raise_for(httpx.Response(status, content=content))


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
    assert (gate.status().permit, gate.status().decision.reason) == (NO_PERMIT, "no permit yet")
    gate._ask()
    assert gate.may_step()
    known = gate.status()
    assert (known.permit, known.seconds, known.phase) == (gate.permit, 10.0, Phase.CLEAR)
    assert known.flop_limit == 6 * known.declaration.step_flop
    steps[0] = 5
    assert gate.may_step()
    steps[0] = 6  # the allowance is six steps
    assert gate.decision.reason == "compute allowance used up"
    steps[0] = 0
    now[0] += 10 * 10**9
    assert gate.decision.reason == "permit lapsed"


def test_a_machine_out_of_files_ends_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of a gate nor of a follower: what comes after it is seen."""
    world, told = World(), list[BrakelineError]()
    world.bind()
    run = world.opened("alpha")
    log = WorldLog(world)
    follower = Follower(log, world.treaty)
    follower.update()
    signers = Signed(world, monkeypatch)
    failed = {"checkpoint": 0, "ask": 0}
    checkpoint = log.checkpoint

    def out_of_files(**options: int) -> bytes:
        if failed["checkpoint"] < 5:
            failed["checkpoint"] += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return checkpoint(**options)

    def no_signers(*args: object) -> bytes:
        if not failed["ask"]:
            failed["ask"] = 1
            raise OSError(errno.EMFILE, "Too many open files")
        return signers(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(permits, "ask_signers", no_signers)
    log.checkpoint = out_of_files  # type: ignore[method-assign]
    stop = threading.Event()
    following = threading.Thread(target=follower.follow, args=(stop, told.append))
    with LiveGate(follower, run.id, steps=lambda: 0) as gate:
        following.start()
        gate.wait_open(lambda _: None)
        assert failed["ask"] == 1
        world.trip()
        end = time.monotonic() + 20
        while gate.may_step():
            assert time.monotonic() < end, "it did not hear of the trip"
            time.sleep(0.02)
    assert failed["checkpoint"] == 5
    stop.set()
    following.join()
    assert len(told) <= 1, "said once"


def test_a_clock_set_back_does_not_extend_a_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate never reads a wall clock, and the clock it reads cannot be set."""
    now, steps = [10**9], [0]
    gate, _ = live(World(), monkeypatch, now, steps)
    gate._ask()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    now[0] += 10 * 10**9
    assert not gate.may_step()
    before = clock().boot_ns()
    assert 0 <= clock().boot_ns() - before < 10**9


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


def test_a_gate_hears_of_a_trip_from_whoever_folds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own watch may be waiting for the log; what was folded counts before it is written down, or if it never is."""
    world = World()
    now, steps = [10**9], [0]
    gate, _ = live(world, monkeypatch, now, steps)
    monkeypatch.setattr(gate, "_watch", lambda: None)
    monkeypatch.setattr(gate, "_renew", lambda: None)
    with gate:
        gate._ask()
        assert gate.may_step()
        world.vote("trip", "alpha", "beta")
        world.stamp()

        def full(*_: object) -> None:
            assert not gate.may_step()
            raise Unavailable("No space left on device")

        monkeypatch.setattr(gate._follower, "_settle", full)
        with pytest.raises(Unavailable):
            gate._follower.update()
        assert gate.decision.reason.startswith("brake ")
    assert gate._follower.heed == []


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
    assert follower.state.epoch == 1
    assert gate.may_step()

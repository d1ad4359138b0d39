"""A log and four witnesses as processes on loopback: killed, cut off, restored from old copies, lied to."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brakeline.core.encoding import sha256
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.keys import PrivateKey
from brakeline.core.statement import open_envelope, sign
from brakeline.core.tlog import merkle
from brakeline.core.tlog.checkpoint import Checkpoint, cosign, parse_checkpoint
from brakeline.core.tlog.note import COSIGNATURE, ED25519, Note, SignatureLine, VerifierKey, parse_note, sign_note
from brakeline.core.tlog.policy import Group, Policy, parse_policy, verify_cosigned
from brakeline.core.tlog.proof import parse_proof, verify_proof
from brakeline.core.tlog.receipt import verify_receipt
from brakeline.core.tlog.tile import ENTRIES, Tile, decode_bundle
from brakeline.node import http, logserver, queue, sequencer, witness
from brakeline.node.admission import Place, Terms
from brakeline.node.logstore import LogStore
from brakeline.node.sequencer import Sequencer, Timing
from test_logstore import in_memory, recheck

ORIGIN = "log.example/pause"
LOG = PrivateKey(b"L" * 32)
LOG_KEY = VerifierKey(ORIGIN, ED25519, LOG.public)
NAMES = ("w1", "w2", "w3", "w4")
KEYS = {name: PrivateKey(name.encode() * 16) for name in NAMES}
VKEYS = {name: VerifierKey(f"{name}.example", COSIGNATURE, key.public) for name, key in KEYS.items()}
AUTHOR = PrivateKey(b"A" * 32)
TIMING = Timing(interval=0.005, heartbeat=0.3, patience=10.0, retry=0.05)

END = b"\0"  # in no note

pytestmark = pytest.mark.real


def entry(n: int, **body: object) -> bytes:
    """Entry number `n`. `body` may say whose it is (`party`), its lane (`brake`), and what `Notary` does with it."""
    return sign("vote", {"n": n, **body}, AUTHOR)


class Notary:
    """Admits every envelope, and watches over the sequencer's side of the contract.

    `violations` is a file in the log's folder, which no test may find; `admitted` is one too, a line an admission: the
    entry's number, and how many entries were durable then.
    """

    parties = 4

    def __init__(self, store: LogStore, policy: Policy) -> None:
        self._store = store
        self.terms = Terms((policy,))
        self._log = store.entries(0, store.size)
        self._waiting: set[bytes] = set()
        self._lock = threading.Lock()

    def admit(self, data: bytes, *, alone: bool = False) -> Place:
        with self._called():
            if not data.startswith(b"{"):
                self._violation("was shown what does not look like an envelope")
            if data in self._waiting or data in self._log:
                self._violation("admits an entry that waits, or is in the log")
            if self._store.published_size > len(self._log):
                self._violation("was not told of an entry before it was published")
            body = json.loads(open_envelope(data).payload)
            if refusal := body.get("refuse"):
                raise Refused(Reason(refusal), "as it asked for", later=body["later"])
            if "sleep" in body:
                self._note("asleep", "now")
                time.sleep(body["sleep"])
                (self._store.directory / "asleep").unlink()
            self._waiting.add(data)
            self._note("admitted", f"{body['n']} {self._store.size}")
            return Place(body.get("party", "alpha"), body.get("brake", False))

    def taken(self, entries: Sequence[bytes]) -> None:
        with self._called():
            start = len(self._log)
            self._log += entries
            if self._store.entries(start, self._store.size) != list(entries) or not entries:
                self._violation("was told other entries than those that became durable")
            self._waiting.difference_update(entries)

    def dropped(self, data: bytes) -> None:
        with self._called():
            if data not in self._waiting:
                self._violation("was told of an entry dropped that did not wait")
            self._waiting.discard(data)

    @contextlib.contextmanager
    def _called(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            self._violation("is called twice at once")
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            self._violation("is called on the event loop")
        try:
            yield
        finally:
            self._lock.release()

    def _violation(self, what: str) -> None:
        self._note("violations", f"the admission {what}")

    def _note(self, name: str, line: str) -> None:
        with open(self._store.directory / name, "a") as file:
            file.write(line + "\n")


# Processes. A fork server has imported everything once, so that a process starts in milliseconds.


def serve_log(out: Path, directory: Path, policy: bytes, port: int, timing: Timing, ahead: float) -> None:
    """`ahead`: s by which its clock runs before ours."""
    _say_to(out)
    at = {"port": port, "clock": lambda: time.time() + ahead}
    logserver.serve(directory, ORIGIN, LOG, lambda store: Notary(store, parse_policy(policy)), timing=timing, **at)


def serve_small_log(*args: Any) -> None:
    """A log of 50 ordinary places a party and batches of 16, so that a small flood is one."""
    queue.CAPACITY = 50 * Notary.parties
    sequencer.MAX_BATCH = 16
    serve_log(*args)


def serve_witness(out: Path, directory: Path, name: str, port: int, ahead: float) -> None:
    _say_to(out)
    decide = witness.add_checkpoint

    def recorded(body: bytes, **context: Any) -> witness.Answer:
        with open(directory / "requests", "ab") as file:
            file.write(body.partition(b"\n\n")[2] + END)
        return decide(body, **context)

    witness.add_checkpoint = recorded
    at = {"port": port, "clock": lambda: time.time() + ahead}
    witness.serve(directory, VKEYS[name].name, KEYS[name], [LOG_KEY], **at)


def serve_liar(out: Path, how: str) -> None:
    """A witness that answers every request wrongly, in one way."""
    _say_to(out)

    async def answer(request: Request) -> Response:
        body = await request.body()
        match how:
            case "hangs":
                await asyncio.sleep(60)
            case "has seen a billion":
                return Response(b"1000000000\n", 409)
            case "has seen another number":
                return Response(b"%d\n" % random.randrange(5), 409)
            case "refuses the proof":
                return Response(b"no\n", 422)
            case "signs with another key":
                text = body.partition(b"\n\n")[2].partition(b"\n\n")[0] + b"\n"
                return Response(cosign(text, VKEYS["w4"].name, PrivateKey(b"?" * 32), 1).encode())
            case "forges a line":
                return Response(SignatureLine(VKEYS["w4"].name, VKEYS["w4"].id, bytes(72)).encode())
            case "sends junk":
                return Response(b"\xff\n\n\0" * 100)
            case "sends too much":
                return Response(b"x" * (1 << 20))
        return Response(status_code=500)

    async def history(request: Request) -> Response:
        # In our name, but not under our key.
        lie = sign_note(Checkpoint(ORIGIN, 1_000_000_000, bytes(32)).text, ORIGIN, PrivateKey(b"?" * 32)).lines[0]
        note = Note(Checkpoint(ORIGIN, 1_000_000_000, bytes(32)).text, (SignatureLine(ORIGIN, LOG_KEY.id, lie.blob),))
        return Response(note.encode())

    routes = [Route("/add-checkpoint", answer, methods=["POST"]), Route("/{id}/checkpoint", history)]
    http.run(Starlette(routes=routes), "127.0.0.1", 0)


def _say_to(out: Path) -> None:
    for stream in (1, 2):
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["brakeline.node.logserver", "brakeline.node.witness", "hypothesis.strategies", "pytest"]
)


@dataclass
class Node:
    """One server process, and how to start it again on the same port."""

    process: ForkServerProcess
    url: str
    out: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def stop(self) -> None:
        self.process.terminate()
        self.process.join(5)
        assert self.process.exitcode is not None, self.out.read_text()


@dataclass
class Network:
    """A log under a policy of 3 of 4 witnesses."""

    root: Path
    nodes: list[Node] = field(default_factory=list)
    witnesses: dict[str, Node] = field(default_factory=dict)
    liar: str = ""
    quorum: int = 3
    ahead: float = 0.0  # s, of the clocks of what is started from now on

    def start(self, target: Callable[..., None], *args: object) -> Node:
        out = self.root / f"out-{len(self.nodes)}.txt"
        process = CONTEXT.Process(target=target, args=(out, *args), daemon=True)
        process.start()
        end = time.monotonic() + 10
        while time.monotonic() < end:
            said = out.read_text() if out.exists() else ""
            if "listening on " in said and said.endswith("\n"):
                node = Node(process, said.split("listening on ")[1].split("\n")[0], out)
                self.nodes.append(node)
                return node
            if process.exitcode is not None:
                break
            time.sleep(0.01)
        process.kill()
        raise AssertionError(f"did not start (exit {process.exitcode}): {out.read_text() if out.exists() else ''}")

    def start_witness(self, name: str) -> Node:
        port = self.witnesses[name].port if name in self.witnesses else 0
        if self.liar and name == "w4":
            self.witnesses[name] = self.start(serve_liar, self.liar)
        else:
            self.witnesses[name] = self.start(serve_witness, self.root / name, name, port, self.ahead)
        return self.witnesses[name]

    @property
    def policy(self) -> Policy:
        urls = {name: (VKEYS[name], self.witnesses[name].url) for name in NAMES}
        return Policy(((LOG_KEY, None),), urls, Group(self.quorum, NAMES))

    def signed(self) -> list[Checkpoint]:
        """Every checkpoint that the log ever showed a witness, cosigned or not."""
        records = [(self.root / name / "requests").read_bytes().split(END)[:-1] for name in NAMES]
        return [parse_checkpoint(parse_note(note).text) for notes in records for note in notes]

    def start_log(
        self, port: int = 0, directory: str = "log", timing: Timing = TIMING, serve: Callable[..., None] = serve_log
    ) -> Node:
        return self.start(serve, self.root / directory, self.policy.text, port, timing, self.ahead)

    def admitted(self) -> dict[int, int]:
        """How many entries were durable when an entry was admitted last, by its number."""
        file = self.root / "log" / "admitted"
        lines = file.read_text().splitlines() if file.exists() else []
        return {int(n): int(size) for n, size in map(str.split, lines)}

    def batch(self, index: int, since: int) -> int:
        """In the how manieth batch after the log had `since` entries the entry `index` is published."""
        ends = sorted({c.size for c in self.signed() if c.size > since})
        return next(i for i, size in enumerate(ends, 1) if size > index)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with in_memory(tmp_path) as folder:
        network = Network(folder)
        yield network
        for node in network.nodes:
            node.process.kill()
        for node in network.nodes:
            node.process.join()
        assert [file.read_text() for file in folder.rglob("violations")] == []


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10, trust_env=False) as client:
        yield client


def lone_client() -> httpx.AsyncClient:
    """For one of many submitters: in a pool that they share, they would wait for one another."""
    return httpx.AsyncClient(timeout=120, trust_env=False, verify=False)


def add(client: httpx.Client, log: Node, data: bytes) -> bytes:
    response = client.post(f"{log.url}/add", content=data)
    http.raise_for(response)
    return response.content


def add_until(client: httpx.Client, log: Node, data: bytes, seconds: float = 10) -> bytes:
    end = time.monotonic() + seconds
    while True:
        try:
            return add(client, log, data)
        except (Unavailable, httpx.HTTPError):
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def wait_for(condition: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# The ordinary day


def test_submit_read_and_verify(network: Network, client: httpx.Client) -> None:
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log()
    policy = network.policy
    proofs = {n: add_until(client, log, entry(n)) for n in range(5)}
    places = {}
    for n, proof in proofs.items():
        index, cosigned = verify_proof(proof, entry(n), policy)
        places[n] = index
        assert abs(cosigned.time - time.time()) < 20
        assert len(cosigned.witnesses) >= 3
        with pytest.raises(Refused):
            verify_proof(proof, entry(n + 1), policy)
    assert len(set(places.values())) == 5

    # Submitted again, an entry keeps its place.
    assert verify_proof(add(client, log, entry(2)), entry(2), policy)[0] == places[2]

    # What is not an entry.
    note = client.get(f"{log.url}/checkpoint").content
    for bad in (b"", b"junk", b"{}", entry(0) + b"\n", note, b"{" + b"x" * 65_535):
        with pytest.raises(Malformed):
            add(client, log, bad)

    # Long poll: at once when there is more, after the wait when there is not; a heartbeat wakes it.
    size = verify_cosigned(note, policy).checkpoint.size
    began = time.monotonic()
    newer = client.get(f"{log.url}/checkpoint?after={size}&wait=20").content
    assert verify_cosigned(newer, policy).checkpoint.size - size > 0
    assert time.monotonic() - began < 15, "a stamp is due every 0.3 s"
    began = time.monotonic()
    same = client.get(f"{log.url}/checkpoint?after=1000000&wait=1")
    assert (same.status_code, time.monotonic() - began >= 1) == (200, True)
    for query in ("after=-1&wait=1", "after=01", "wait=31", "wait=1&wait=2", "after=%D9%A3"):
        with pytest.raises(Malformed):
            http.raise_for(client.get(f"{log.url}/checkpoint?{query}"))

    # The log read back from its files, as any mirror does.
    head = verify_cosigned(client.get(f"{log.url}/checkpoint").content, policy).checkpoint
    bundle = client.get(f"{log.url}/{Tile(ENTRIES, 0, head.size).path}")
    assert "immutable" in bundle.headers["cache-control"]
    data = decode_bundle(bundle.content, head.size)
    assert merkle.root([merkle.leaf_hash(e) for e in data]) == head.root
    assert [data.index(entry(n)) for n in range(5)] == [places[n] for n in range(5)]
    hashes = client.get(f"{log.url}/{Tile(0, 0, head.size).path}").content
    assert hashes == b"".join(merkle.leaf_hash(e) for e in data)

    # Stamps: checkpoints of this log, cosigned, each of a tree that ends before it; no idle second is without one.
    stamps = [(i, verify_cosigned(e, policy)) for i, e in enumerate(data) if not e.startswith(b"{")]
    assert len(stamps) >= 3
    for at, stamp in stamps:
        assert stamp.checkpoint.size <= at
        leaves = [merkle.leaf_hash(e) for e in data[: stamp.checkpoint.size]]
        assert stamp.checkpoint.root == merkle.root(leaves)
    assert [s.time for _, s in stamps] == sorted(s.time for _, s in stamps)

    # Nothing else of the disk is there.
    for path in (
        *("/tile/0/001", "/tile/0/000.p/0", "/tile/0/000.p/256", "/tile/5/000", "/tile/0/x000/000", "/tile/"),
        *("/tile/../log.db", "/tile/..%2flog.db", "/tile/0/000.p/1.new", "/tile/%2e%2e/checkpoint", "/log.db"),
    ):
        assert client.get(log.url + path).status_code == 404, path
    health = client.get(f"{log.url}/healthz")
    assert (health.status_code, health.json()["witnesses"]) == (200, dict.fromkeys(NAMES, ""))
    log.stop()
    recheck(network.root / "log")


def test_a_log_under_load_groups_its_commits(network: Network) -> None:
    """Many submitters at once, duplicates among them: one place an entry, and every proof verifies.

    A commit takes all that was admitted before it, and there is one an interval at most: fast or slow, the machine.
    """
    interval = 0.1
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log(timing=TIMING._replace(interval=interval, heartbeat=600, patience=60))

    async def worker(first: int) -> list[tuple[int, bytes]]:
        done = []
        async with lone_client() as client:
            for n in range(first, 400, 40):
                response = await client.post(f"{log.url}/add", content=entry(n % 300))
                http.raise_for(response)
                done.append((n % 300, response.content))
        return done

    async def submit() -> list[tuple[int, bytes]]:
        return [one for done in await asyncio.gather(*map(worker, range(40))) for one in done]

    began = time.monotonic()
    results = asyncio.run(submit())
    elapsed = time.monotonic() - began
    places: dict[int, set[int]] = {}
    sizes = set()
    for n, proof in results:
        sizes.add(parse_checkpoint(parse_note(parse_proof(proof).checkpoint).text).size)
        places.setdefault(n, set()).add(verify_proof(proof, entry(n), network.policy)[0])
    assert all(len(p) == 1 for p in places.values())
    assert len(set.union(*places.values())) == 300
    assert len(sizes) <= elapsed / interval + 1, "commits are shared"
    admitted = network.admitted()
    # One batch may be on its way to the disk when an entry is admitted.
    assert all(network.batch(index, admitted[n]) <= 2 for n, (index,) in places.items()), "no commit leaves any behind"
    log.stop()
    data = recheck(network.root / "log")
    assert {data.index(entry(n)) for n in range(300)} == set.union(*places.values())


# Fair queues


def test_floods_delay_nobody_else(network: Network, client: httpx.Client) -> None:
    """Attack S-29. Alpha floods both lanes, beta its ordinary one. Beta's trip vote is in within two batches all the
    same, and so is whatever gamma says."""
    for name in NAMES:
        network.start_witness(name)
    timing = TIMING._replace(interval=0.25, heartbeat=600, patience=60)
    log = network.start_log(timing=timing, serve=serve_small_log)
    add(client, log, entry(0))
    floods = [("alpha", False)] * 60 + [("alpha", True)] * 12 + [("beta", False)] * 60
    full: set[tuple[str, bool]] = set()  # has refused a statement
    stop = threading.Event()

    async def flooder(number: int, party: str, brake: bool) -> None:
        async with lone_client() as own:
            while not stop.is_set():
                try:
                    http.raise_for(await own.post(f"{log.url}/add", content=entry(number, party=party, brake=brake)))
                    number += 1000
                except Unavailable:
                    full.add((party, brake))
                    await asyncio.sleep(0.2)

    async def flood() -> None:
        await asyncio.gather(*(flooder(number, *one) for number, one in enumerate(floods, 1000)))

    with ThreadPoolExecutor() as pool:
        flooding = pool.submit(asyncio.run, flood())
        try:
            wait_for(lambda: full == set(floods), 60)
            for n in range(1, 9):
                mine = entry(n, party="beta", brake=True) if n % 2 else entry(n, party="gamma")
                index = verify_proof(add(client, log, mine), mine, network.policy)[0]
                assert network.batch(index, network.admitted()[n]) <= 2
        finally:
            stop.set()
        flooding.result()
    log.stop()
    recheck(network.root / "log")


def test_a_slow_admission_does_not_delay_readers(network: Network, client: httpx.Client) -> None:
    """Nor is what is submitted twice meanwhile admitted twice."""
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log()
    add(client, log, entry(0))
    asleep = network.root / "log" / "asleep"
    slow = entry(1, sleep=2)
    with httpx.Client(timeout=60, trust_env=False) as own, ThreadPoolExecutor() as pool:
        proofs = [pool.submit(add, own, log, slow) for _ in range(3)]
        wait_for(asleep.exists)
        for _ in range(5):
            client.get(f"{log.url}/checkpoint").raise_for_status()
        assert asleep.exists()
    assert len({verify_proof(proof.result(), slow, network.policy)[0] for proof in proofs}) == 1


def test_a_crowd_of_readers_does_not_stop_the_log(network: Network) -> None:
    """Whatever a server does in asyncio's threads, as reading a file for each of a thousand, they are not the log's."""
    for name in NAMES:
        network.start_witness(name)
    read = threading.Event()

    async def main() -> None:
        with LogStore(network.root / "log", ORIGIN) as store:
            made = Sequencer(store, LOG, Notary(store, network.policy), time.time, TIMING)
            async with made.running():
                crowd = [asyncio.create_task(asyncio.to_thread(read.wait)) for _ in range(100)]
                try:
                    verify_proof(await made.submit(entry(0)), entry(0), network.policy)
                finally:
                    read.set()
                await asyncio.gather(*crowd)

    asyncio.run(main())


def test_what_the_admission_refuses_arrives_as_it_left(network: Network, client: httpx.Client) -> None:
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log()
    for n, (reason, later) in enumerate(((Reason.FORGED, False), (Reason.BUDGET, True))):
        for _ in range(2):  # a refusal is no state
            with pytest.raises(Refused, match="as it asked for") as refusal:
                add(client, log, entry(n, refuse=reason, later=later))
            assert (refusal.value.reason, refusal.value.later) == (reason, later)
    add(client, log, entry(9))
    log.stop()
    assert [e for e in recheck(network.root / "log") if e.startswith(b"{")] == [entry(9)]


# Kills


def test_no_acknowledged_entry_is_lost_to_sigkill(network: Network, client: httpx.Client) -> None:
    """The log is killed 16 times at random moments, witnesses now and then, while three threads submit."""
    rng = random.Random(20)
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log()
    acknowledged: dict[int, bytes] = {}
    stop = threading.Event()

    def submitter(first: int) -> None:
        n = first
        with httpx.Client(timeout=3, trust_env=False) as own:
            while not stop.is_set():
                with contextlib.suppress(Unavailable, httpx.HTTPError):
                    acknowledged[n] = add(own, log, entry(n))
                    n += 3
                    continue
                time.sleep(0.005)

    def progress() -> None:
        count = len(acknowledged)
        wait_for(lambda: len(acknowledged) > count)

    threads = [threading.Thread(target=submitter, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    try:
        for round_ in range(16):
            if round_ % 2:
                progress()
            time.sleep(rng.uniform(0.0, 0.2))
            log.kill()
            if round_ % 6 == 5:
                name = rng.choice(NAMES)
                network.witnesses[name].kill()
                network.start_witness(name)
            log = network.start_log(log.port)
        progress()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(acknowledged) >= 10
    policy = network.policy
    kept = {n: add_until(client, log, entry(n)) for n in rng.sample(sorted(acknowledged), 10)}
    log.stop()

    data = recheck(network.root / "log")
    leaves = [merkle.leaf_hash(e) for e in data]
    read, roots = merkle.reader(leaves), {}
    for n, proof in acknowledged.items():
        index, cosigned = verify_proof(proof, entry(n), policy)
        assert data[index] == entry(n)
        roots[cosigned.checkpoint.size] = cosigned.checkpoint.root
    for n, proof in kept.items():
        assert data[parse_proof(proof).index] == entry(n)
    for stamp in (e for e in data if not e.startswith(b"{")):
        cosigned = verify_cosigned(stamp, policy)
        roots[cosigned.checkpoint.size] = cosigned.checkpoint.root
    # Every checkpoint ever published, and every one ever signed, is of this tree.
    shown = [*roots.items(), *((c.size, c.root) for c in network.signed())]
    assert all(merkle.subtree_root(size, read) == root for size, root in shown)
    assert len(roots) >= 10


# Witnesses that are away


def test_without_a_quorum_nothing_is_published(network: Network, client: httpx.Client) -> None:
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log(timing=TIMING._replace(heartbeat=600, patience=1.5))
    first = add_until(client, log, entry(0))
    network.witnesses["w1"].kill()
    second = add_until(client, log, entry(1))
    assert verify_proof(second, entry(1), network.policy)[1].witnesses == {"w2", "w3", "w4"}
    network.witnesses["w2"].kill()
    before = client.get(f"{log.url}/checkpoint").content
    for n in (2, 2, 3):
        with pytest.raises(Unavailable, match="no quorum"):
            add(client, log, entry(n))
    assert client.get(f"{log.url}/checkpoint").content == before
    health = client.get(f"{log.url}/healthz").json()
    assert (health["durable"] - health["published"], health["failure"]) == (1, "")
    assert [name for name, trouble in health["witnesses"].items() if trouble] == ["w1", "w2"]
    # What is durable is promised, and nothing else is.
    size = health["published"]
    promised = verify_receipt(client.get(f"{log.url}/receipt/{sha256(entry(2)).hex()}").content, LOG_KEY)
    assert (promised.index, promised.leaf) == (size, merkle.leaf_hash(entry(2)))
    assert client.get(f"{log.url}/receipt/{sha256(entry(3)).hex()}").status_code == 404
    assert client.get(f"{log.url}/receipt/x").status_code == 400
    # An entry that is published is still proven.
    assert verify_proof(add(client, log, entry(0)), entry(0), network.policy)[0] == parse_proof(first).index

    # One comes back, remembering where it was: the log catches up by itself, without a new submission.
    network.start_witness("w2")
    size = verify_cosigned(before, network.policy).checkpoint.size
    after = client.get(f"{log.url}/checkpoint?after={size}&wait=10").content
    assert verify_cosigned(after, network.policy).checkpoint.size > size
    for n in (2, 3):
        verify_proof(add_until(client, log, entry(n)), entry(n), network.policy)
    log.stop()
    data = recheck(network.root / "log")
    assert data.index(entry(2)) == size
    assert data.index(entry(3)) > size + 1, "after a stamp"


def test_a_log_that_never_had_a_quorum_publishes_nothing(network: Network, client: httpx.Client) -> None:
    for name in NAMES:
        network.start_witness(name)
    for name in ("w3", "w4"):
        network.witnesses[name].kill()
    log = network.start_log(timing=TIMING._replace(patience=1.5))
    with pytest.raises(Unavailable):
        http.raise_for(client.get(f"{log.url}/checkpoint"))
    with pytest.raises(Unavailable, match="no quorum"):
        add(client, log, entry(0))
    assert client.get(f"{log.url}/healthz").status_code == 503
    assert client.get(f"{log.url}/healthz").json()["durable"] == 0
    network.start_witness("w3")
    verify_proof(add_until(client, log, entry(0)), entry(0), network.policy)


# Stamps before statements


def stamps_in(network: Network, data: Sequence[bytes]) -> list[tuple[int, int]]:
    """(index, time) of every stamp."""
    return [(i, verify_cosigned(e, network.policy).time) for i, e in enumerate(data) if not e.startswith(b"{")]


def test_after_a_restart_a_fresh_stamp_comes_before_statements(network: Network, client: httpx.Client) -> None:
    """The published checkpoint is 40 s old by then: it is cosigned anew first. One such stamp a start."""
    timing = TIMING._replace(heartbeat=600)
    began = []
    for n in range(3):
        began.append(int(time.time() + network.ahead))
        for name in NAMES:
            network.start_witness(name)
        log = network.start_log(timing=timing)
        for one in (n, n + 10):  # at the first try: it waits for the stamp
            verify_proof(add(client, log, entry(one)), entry(one), network.policy)
        log.stop()
        for name in NAMES:
            network.witnesses[name].stop()
        network.ahead += 40
    data = recheck(network.root / "log")
    stamps = stamps_in(network, data)
    assert [index for index, _ in stamps] == [0, 3, 6]
    assert [data.index(entry(n)) for n in range(3)] == [1, 4, 7]
    for (index, stamped), start, n in zip(stamps, began, range(3), strict=True):
        assert stamped >= start
        assert network.admitted()[n] == index + 1, "it was in the log, and published, when the statement was judged"
        assert any(c.size == index + 1 for c in network.signed())


def test_after_an_outage_a_fresh_stamp_comes_before_statements(network: Network, client: httpx.Client) -> None:
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log(timing=TIMING._replace(heartbeat=600, patience=30))
    add(client, log, entry(0))
    for name in ("w1", "w2"):
        network.witnesses[name].kill()
    with pytest.raises(Unavailable, match="no quorum"):
        add(client, log, entry(1))
    with httpx.Client(timeout=60, trust_env=False) as own, ThreadPoolExecutor() as pool:
        proof = pool.submit(add, own, log, entry(2))
        time.sleep(2)  # cosignatures count whole seconds
        assert not proof.done(), "it waits, and is not refused"
        assert 2 not in network.admitted()
        back = int(time.time())
        network.start_witness("w2")
    verify_proof(proof.result(), entry(2), network.policy)
    verify_proof(add(client, log, entry(1)), entry(1), network.policy)
    log.stop()
    data = recheck(network.root / "log")
    (first, _), (second, stamped) = stamps_in(network, data)
    assert (first, second) == (0, 3)
    assert data[1:3] + data[4:] == [entry(0), entry(1), entry(2)]
    assert stamped >= back
    assert network.admitted() == {0: 1, 1: 2, 2: 4}


def test_a_clock_that_jumped_is_a_silence(network: Network) -> None:
    """A machine that slept: whatever is submitted first finds a fresh stamp, though the loop's timer had not rung."""
    for name in NAMES:
        network.start_witness(name)
    ahead = 0.0

    async def main() -> None:
        nonlocal ahead
        with LogStore(network.root / "log", ORIGIN) as store:
            timing = TIMING._replace(heartbeat=600)
            made = Sequencer(store, LOG, Notary(store, network.policy), lambda: time.time() + ahead, timing)
            async with made.running():
                for n, jump in enumerate((0, 3600, -7200)):
                    ahead += jump
                    await made.submit(entry(n))
                    await made.submit(entry(n + 10))

    asyncio.run(main())
    data = recheck(network.root / "log")
    assert [index for index, _ in stamps_in(network, data)] == [0, 3, 6]
    assert [data.index(entry(n)) for n in range(3)] == [1, 4, 7]


def test_what_was_given_up_can_be_submitted_again(network: Network, client: httpx.Client) -> None:
    """Nobody waits any more for an entry that is queued behind a round that hangs: the admission forgets it."""
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log(timing=TIMING._replace(heartbeat=600, patience=1.5))
    add_until(client, log, entry(0))
    for name in ("w1", "w2"):
        network.witnesses[name].signal(signal.SIGSTOP)
    with httpx.Client(timeout=60, trust_env=False) as own, ThreadPoolExecutor() as pool:
        first = pool.submit(add, own, log, entry(1))
        wait_for(lambda: client.get(f"{log.url}/healthz").json()["durable"] == 3)
        for _ in range(2):
            with pytest.raises(Unavailable, match="no quorum"):
                add(client, log, entry(2))
        with pytest.raises(Unavailable, match="no quorum"):
            first.result()
    for name in ("w1", "w2"):
        network.witnesses[name].signal(signal.SIGCONT)
    proofs = {n: add_until(client, log, entry(n)) for n in (1, 2)}
    assert [verify_proof(proof, entry(n), network.policy)[0] for n, proof in proofs.items()] == [2, 4]


def test_a_witness_keeps_its_state(network: Network, client: httpx.Client) -> None:
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log()
    add_until(client, log, entry(0))
    log.stop()
    url = f"{network.witnesses['w1'].url}/{sha256(ORIGIN.encode()).hex()}/checkpoint"
    before = client.get(url).content
    network.witnesses["w1"].kill()
    network.start_witness("w1")
    assert client.get(url).content == before
    note = client.get(url).content
    answer = client.post(f"{network.witnesses['w1'].url}/add-checkpoint", content=b"old 0\n\n" + note)
    assert (answer.status_code, answer.content) == (409, note.split(b"\n")[1] + b"\n")


LIES = (
    *("hangs", "has seen a billion", "has seen another number", "refuses the proof", "signs with another key"),
    *("forges a line", "sends junk", "sends too much"),
)


@pytest.mark.parametrize("how", LIES)
def test_one_liar_changes_nothing(network: Network, client: httpx.Client, how: str) -> None:
    """Neither what it signs nor what it claims to have seen: one faulty witness of four is within the policy."""
    network.liar = how
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log()
    for n in range(3):
        proof = add_until(client, log, entry(n))
        assert verify_proof(proof, entry(n), network.policy)[1].witnesses == {"w1", "w2", "w3"}
    health = client.get(f"{log.url}/healthz").json()
    assert (health["failure"], bool(health["witnesses"]["w4"])) == ("", True)


def test_a_liar_cannot_complete_a_quorum(network: Network, client: httpx.Client) -> None:
    network.liar = "forges a line"
    network.quorum = 4
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log(timing=TIMING._replace(patience=1.5))
    with pytest.raises(Unavailable):
        add(client, log, entry(0))
    with pytest.raises(Unavailable):
        http.raise_for(client.get(f"{log.url}/checkpoint"))


# Old copies


def test_a_restored_database_does_not_start(network: Network, client: httpx.Client) -> None:
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log()
    add_until(client, log, entry(0))
    log.stop()
    shutil.copytree(network.root / "log", network.root / "backup")
    log = network.start_log()
    add_until(client, log, entry(1))
    log.stop()
    for file in (network.root / "log").glob("log.db*"):
        file.unlink()
    for file in (network.root / "backup").glob("log.db*"):
        shutil.copy(file, network.root / "log" / file.name)
    with pytest.raises(AssertionError, match="the published checkpoint has"):
        network.start_log()


@pytest.mark.parametrize("tail", [1, 30], ids=["short", "long"])
@pytest.mark.parametrize("copy", ["whole", "empty"])
def test_a_restored_folder_signs_nothing(network: Network, client: httpx.Client, copy: str, tail: int) -> None:
    """The old checkpoint came back with the old database, or both are gone: only the witnesses know better.

    The copy has a tail of its own that was never published, shorter or longer than what it lacks.
    """
    for name in NAMES:
        network.start_witness(name)
    log = network.start_log()
    add_until(client, log, entry(0))
    log.stop()
    (network.root / "backup").mkdir()
    if copy == "whole":
        shutil.copytree(network.root / "log", network.root / "backup", dirs_exist_ok=True)
    log = network.start_log()
    for n in range(1, 4):
        add_until(client, log, entry(n))
    log.stop()
    urls = [f"{network.witnesses[name].url}/{sha256(ORIGIN.encode()).hex()}/checkpoint" for name in NAMES]
    before = [client.get(url).content for url in urls]
    signed = set(network.signed())

    with LogStore(network.root / "backup", ORIGIN) as store:
        store.append([entry(n) for n in range(100, 100 + tail)])
        size_of_backup = store.size
    log = network.start_log(directory="backup")
    wait_for(lambda: client.get(f"{log.url}/healthz").json()["failure"])
    assert "our signature" in client.get(f"{log.url}/healthz").json()["failure"]
    for n in (0, 9):
        with pytest.raises(Refused) as refusal:
            add(client, log, entry(n))
        assert refusal.value.reason == Reason.ROLLBACK
    time.sleep(0.4)
    assert [client.get(url).content for url in urls] == before
    shown = set(network.signed()) - signed
    assert shown <= {Checkpoint(ORIGIN, 0, merkle.EMPTY_ROOT)}, "no second history was even signed"
    log.stop()
    assert len(recheck(network.root / "backup")) == size_of_backup


def test_a_bit_flipped_in_memory_is_not_signed(network: Network) -> None:
    for name in NAMES:
        network.start_witness(name)

    async def main() -> BrakelineError | None:
        with LogStore(network.root / "log", ORIGIN) as store:
            store.append([entry(n) for n in range(8)])
            made = Sequencer(store, LOG, Notary(store, network.policy), time.time, TIMING)
            async with made.running():
                verify_proof(await made.submit(entry(8)), entry(8), network.policy)
                store._levels[3][5] ^= 4
                signed = set(network.signed())
                with pytest.raises(Refused):
                    await made.submit(entry(9))
                assert set(network.signed()) == signed
            return made.failure

    failure = asyncio.run(main())
    assert isinstance(failure, Refused)
    assert failure.reason == Reason.TAMPERED
    assert len(recheck(network.root / "log")) >= 10, "the disk is sound"


# Errors over the wire


@pytest.mark.parametrize(
    "error",
    [
        Malformed("not ours: é", hint="a hint"),
        Misuse("no such thing"),
        Unavailable("later", hint="wait"),
        # MALFORMED is the fold's word for an entry in the log; a server raises `Malformed`.
        *(Refused(reason, f"because {reason}", hint="h") for reason in Reason if reason is not Reason.MALFORMED),
        Refused(Reason.BUDGET, "tomorrow", later=True),
    ],
    ids=str,
)
def test_an_error_arrives_as_it_left(error: Malformed | Misuse | Unavailable | Refused) -> None:
    answer = http.error_response(error)
    expected = {Malformed: 400, Misuse: 400, Unavailable: 503, Refused: 409}[type(error)]
    if getattr(error, "reason", None) in (Reason.FORGED, Reason.UNKNOWN_ISSUER, Reason.WRONG_ROLE):
        expected = 403
    assert answer.status_code == expected
    assert json.loads(answer.body).keys() == {"error", "reason", "hint", "later"}
    # No peer says what mistake a user made here.
    with pytest.raises(Malformed if isinstance(error, Misuse) else type(error)) as arrived:
        http.raise_for(httpx.Response(answer.status_code, content=answer.body))
    assert (str(arrived.value), arrived.value.hint) == (str(error), error.hint)
    for name in ("reason", "later"):
        assert getattr(arrived.value, name, None) == getattr(error, name, None)


def test_a_stranger_s_error_is_told_apart() -> None:
    http.raise_for(httpx.Response(200))
    for status, kind in (
        (500, Unavailable),
        (502, Unavailable),
        (429, Unavailable),
        (404, Malformed),
        (302, Malformed),
    ):
        with pytest.raises(kind):
            http.raise_for(httpx.Response(status, content=b"<html>"))
    with pytest.raises(Malformed):
        http.raise_for(httpx.Response(409, content=b'{"error":"x","hint":"","later":false,"reason":"no-such-reason"}'))
    surrogate = http.error_response(Malformed("\udcff"))
    assert surrogate.status_code == 400

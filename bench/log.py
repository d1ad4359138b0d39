"""Entries a second that a log makes durable, integrates, signs and publishes, tiles included, on one core.

Every figure stands beside a baseline of the same run: the same batches inserted and committed by plain SQLite with
the same durability, and nothing else. The two take turns, so that a busy machine slows both. The sequencer, which
judges and queues entries and asks a witness in a process of its own, stands beside the bare signature checks.

    python bench/log.py [--entries 50000] [--bytes 300]
"""

import argparse
import asyncio
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from brakeline.core.encoding import b64encode, sha256
from brakeline.core.keys import PrivateKey
from brakeline.core.statement import open_envelope, sign, verify
from brakeline.core.tlog.checkpoint import Checkpoint
from brakeline.core.tlog.merkle import consistency_proof, inclusion_proof
from brakeline.core.tlog.note import COSIGNATURE, ED25519, VerifierKey, sign_note
from brakeline.core.tlog.policy import Group, Policy
from brakeline.core.tlog.proof import Proof, verify_proof
from brakeline.node.admission import Place, Terms
from brakeline.node.disk import connect
from brakeline.node.logstore import LogStore
from brakeline.node.sequencer import Sequencer, Timing
from brakeline.node.witness import Witness, serve

ORIGIN = "bench.example/log"
KEY = PrivateKey(bytes(range(32)))


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def quantile(times: list[float], q: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * q))] * 1e3


def show(what: str, count: int, times: list[float], baseline: list[float] | None = None) -> None:
    p50, p99 = quantile(times, 0.5), quantile(times, 0.99)
    ratio = f"{sum(baseline) / sum(times):6.2f} x" if baseline else ""
    print(f"{what:<44} {count / sum(times):>10,.0f}/s {p50:>8.2f} ms {p99:>8.2f} ms {ratio}")


def publish(store: LogStore) -> None:
    note = sign_note(Checkpoint(ORIGIN, store.size, store.root()).text, ORIGIN, KEY)
    store.publish(note.encode())


def bench_store(folder: Path, batch: int, total: int, size: int) -> None:
    db = connect(folder / f"plain-{batch}.db")
    db.execute("CREATE TABLE plain (number INTEGER PRIMARY KEY, data BLOB NOT NULL)")
    db.execute("CREATE TABLE keyed (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, data BLOB NOT NULL)")
    plain: list[float] = []
    keyed: list[float] = []
    ours: list[float] = []

    def insert(sql: str, rows: list[tuple[bytes, ...]]) -> None:
        db.execute("BEGIN IMMEDIATE")
        db.executemany(sql, rows)
        db.execute("COMMIT")

    def sequence(store: LogStore, entries: list[bytes]) -> None:
        store.append(entries)
        publish(store)

    with LogStore(folder / f"log-{batch}", ORIGIN) as store:
        for _ in range(max(1, total // batch)):
            entries = [b"{" + os.urandom(size - 1) for _ in range(batch)]
            rows = [(sha256(e), e) for e in entries]
            plain.append(timed(lambda e=entries: insert("INSERT INTO plain (data) VALUES (?)", [(x,) for x in e])))
            keyed.append(timed(lambda r=rows: insert("INSERT INTO keyed (digest, data) VALUES (?, ?)", r)))
            ours.append(timed(lambda e=entries: sequence(store, e)))
        count = store.size
    db.close()
    show(f"batch of {batch}: plain SQLite commit", count, plain)
    show(f"batch of {batch}: with a unique digest", count, keyed, plain)
    show(f"batch of {batch}: append, sign, publish", count, ours, plain)
    opening = timed(lambda: LogStore(folder / f"log-{batch}", ORIGIN).close())
    print(f"{f'  opening with full re-check of {count:,}':<44} {count / opening:>10,.0f}/s")


def bench_witness(folder: Path, rounds: int) -> None:
    """One witness, one request after another, each to a larger tree; and the offline check of a 5-of-7 proof."""
    keys = [PrivateKey(bytes([i]) * 32) for i in range(1, 8)]
    log = VerifierKey(ORIGIN, ED25519, KEY.public)
    witnesses = [Witness(folder / f"w{i}", f"w{i}.example", key, [log], time.time) for i, key in enumerate(keys, 1)]
    db = connect(folder / "plain-witness.db")
    db.execute("CREATE TABLE logs (origin TEXT PRIMARY KEY, note BLOB NOT NULL)")
    plain: list[float] = []
    ours: list[float] = []
    with LogStore(folder / "witnessed", ORIGIN) as store:
        store.append([b"{%d" % i for i in range(rounds * 10)])
        for old, new in zip(range(0, rounds * 10, 10), range(10, rounds * 10 + 1, 10), strict=True):
            note = sign_note(Checkpoint(ORIGIN, new, store.root(new)).text, ORIGIN, KEY).encode()
            proof = "".join(b64encode(h) + "\n" for h in consistency_proof(old, new, store.read))
            body = f"old {old}\n{proof}\n".encode() + note
            plain.append(timed(lambda n=note: db.execute("INSERT OR REPLACE INTO logs VALUES (?, ?)", (ORIGIN, n))))
            ours.append(timed(lambda b=body: witnesses[0].add_checkpoint(b)))
        show("witness: plain SQLite commit", rounds, plain)
        show("witness: add-checkpoint", rounds, ours, plain)

        signed = sign_note(Checkpoint(ORIGIN, store.size, store.root()).text, ORIGIN, KEY)
        body = b"old 0\n\n" + signed.encode()
        cosigned = signed.encode() + b"".join(w.add_checkpoint(body).body for w in witnesses[1:6])
        proof_data = Proof(7, inclusion_proof(7, store.size, store.read), cosigned).encode()
    names = {f"w{i}": (VerifierKey(f"w{i}.example", COSIGNATURE, k.public), None) for i, k in enumerate(keys, 1)}
    policy = Policy(((log, None),), names, Group(5, tuple(names)))
    times = [timed(lambda: verify_proof(proof_data, b"{7", policy)) for _ in range(200)]
    show("offline: verify a proof, 6 signatures", len(times), times)
    for witness in witnesses:
        witness.close()
    db.close()


class Verifier:
    """An admission that checks one signature an entry; the entries are of 30 parties in turn."""

    parties = 30

    def __init__(self, policy: Policy) -> None:
        self._count = 0
        self.terms = Terms((policy,))

    def admit(self, entry: bytes, *, alone: bool = False) -> Place:
        verify(open_envelope(entry), KEY.public)
        self._count += 1
        return Place(str(self._count % self.parties), False)

    def taken(self, entries: Sequence[bytes]) -> None:
        pass

    def dropped(self, entry: bytes) -> None:
        pass


def serve_witness(folder: Path, log: VerifierKey, port: int) -> None:
    with open(os.devnull, "w") as sys.stdout:
        serve(folder, "w.example", PrivateKey(b"w" * 32), [log], port=port)


def bench_sequencer(folder: Path, count: int, at_once: int) -> None:
    """From `submit` to the proof, without HTTP: one witness on loopback, `at_once` submitters."""
    entries = [sign("vote", {"n": n, "pad": "x" * 150}, KEY) for n in range(count)]
    checks = [timed(lambda e=entry: verify(open_envelope(e), KEY.public)) for entry in entries]
    log = VerifierKey(ORIGIN, ED25519, KEY.public)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cosigner = VerifierKey("w.example", COSIGNATURE, PrivateKey(b"w" * 32).public)
    policy = Policy(((log, None),), {"w": (cosigner, f"http://127.0.0.1:{port}")}, Group(1, ("w",)))
    process = multiprocessing.get_context("spawn").Process(target=serve_witness, args=(folder / "w", log, port))
    process.start()

    async def submit_all() -> tuple[float, list[float]]:
        with LogStore(folder / "sequenced", ORIGIN) as store:
            sequencer = Sequencer(store, KEY, Verifier(policy), time.time, Timing(patience=30, retry=0.1))
            async with sequencer.running():
                await sequencer.submit(sign("vote", {"n": -1}, KEY))  # the witness is up
                left, times = iter(entries), []

                async def submitter() -> None:
                    for entry in left:
                        start = time.perf_counter()
                        await sequencer.submit(entry)
                        times.append(time.perf_counter() - start)

                start = time.perf_counter()
                await asyncio.gather(*(submitter() for _ in range(at_once)))
                return time.perf_counter() - start, times

    wall, times = asyncio.run(submit_all())
    process.kill()
    process.join()
    show("bare signature checks", count, checks)
    p50, p99 = quantile(times, 0.5), quantile(times, 0.99)
    what = f"sequencer: submit to proof, {at_once} at once"
    print(f"{what:<44} {count / wall:>10,.0f}/s {p50:>8.2f} ms {p99:>8.2f} ms {sum(checks) / wall:6.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--bytes", type=int, default=300)
    arguments = parser.parse_args()
    print(f"{'':<44} {'rate':>12} {'p50':>11} {'p99':>11} against plain SQLite")
    with tempfile.TemporaryDirectory(prefix="bench-log-") as folder:
        for batch, total in ((1, 500), (256, arguments.entries), (1000, arguments.entries)):
            bench_store(Path(folder), batch, total, arguments.bytes)
        bench_witness(Path(folder), 500)
        bench_sequencer(Path(folder), 5000, 250)


if __name__ == "__main__":
    main()

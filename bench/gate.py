"""What the brake costs a training loop, and what it costs anybody to check a permit, a proof, a checkpoint or a log.

    python bench/gate.py [--calls 100000]

The gate is the live one, with its two threads running: it follows a log in memory, and holds a permit that three
permit signers checked and signed over loopback. Every figure stands beside a baseline that takes turns with it, so
that a busy machine slows both: an empty method call, or the Ed25519 verifications that no reader can do without.
"""

import argparse
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from machine import machine
from msgspec import structs

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from brakeline.core.encoding import parse
from brakeline.core.gate import GateState, admit
from brakeline.core.keys import PublicKey
from brakeline.core.permit import Permit
from brakeline.core.state import apply, begin
from brakeline.core.state.chain import Ground
from brakeline.core.statement import open_envelope, pae
from brakeline.core.tlog.merkle import inclusion_proof, leaf_hash, reader
from brakeline.core.tlog.note import ED25519, cosignature_message, parse_note
from brakeline.core.tlog.policy import verify_cosigned
from brakeline.core.tlog.proof import Proof, verify_proof
from brakeline.node.client import Follower
from brakeline.node.granted import Granted
from brakeline.node.permits import LiveGate
from brakeline.node.signer import Signer, app
from world import LABS, Live, World, key, log_key, witness_key

TREATY = {"permit_lifetime": '"1 h"', "permit_allowance": '"1 EFLOP"', "scope_prohibited_above": '"10000 EFLOP"'}
STEPS: Final = 10_000

Check = tuple[Ed25519PublicKey, bytes, bytes]  # key, signature, message


def sample(call: Callable[[], object], count: int) -> list[int]:
    """Nanoseconds of each of `count` calls. The timer's own cost is in every one of them, baseline or not."""
    times, now = [], time.perf_counter_ns
    for _ in range(count):
        before = now()
        call()
        times.append(now() - before)
    return times


def compare(calls: dict[str, Callable[[], object]], count: int, block: int) -> None:
    """Let the calls take turns, in blocks, and print each beside the first."""
    times: dict[str, list[int]] = {what: [] for what in calls}
    for _ in range(-(-count // block)):
        for what, call in calls.items():
            times[what] += sample(call, block)
    floor = 0.0
    for what, ns in times.items():
        ns.sort()
        p50, p99 = ns[len(ns) // 2] / 1e3, ns[len(ns) * 99 // 100] / 1e3
        floor = floor or p50
        print(f"{what:<46} {p50:>10.2f} µs {p99:>10.2f} µs {p50 / floor:>7.2f} x")
    print()


class MemoryLog:
    """A world's log, as a `LogClient` shows one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._note = world.checkpoint()

    def checkpoint(self, *, after: int = -1, wait: int = 0) -> bytes:
        if after >= len(self._world.entries):
            time.sleep(wait)  # nothing new: the long poll
        return self._note

    def stream(self, start: int, end: int) -> Iterator[bytes]:
        return iter(self._world.entries[start:end])


def following(world: World) -> Follower:
    follower = Follower(MemoryLog(world), world.treaty)  # type: ignore[arg-type]
    follower.update()
    return follower


@contextmanager
def serving(world: World, party: str, folder: Path) -> Iterator[str]:
    """A permit signer on loopback; yields its address."""
    own = lambda _: key(party, "signer")  # noqa: E731
    granted = Granted(folder / f"{party}-granted", new=True)
    signer = Signer(following(world), own, lambda: world.now, folder / f"{party}-votes", granted)
    server = uvicorn.Server(uvicorn.Config(app(signer), loop="asyncio", log_level="error", access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


class Nothing:
    def call(self) -> None:
        pass


def bench_live(world: World, run: Live, calls: int) -> bytes:
    """Time `may_step` while the gate holds a permit; returns the permit."""
    permits: list[bytes] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gate-")))
        urls = {party: stack.enter_context(serving(world, party, folder)) for party in LABS}
        parties = {n: replace(p, signer_url=urls.get(n, "")) for n, p in world.treaty.parties.items()}
        follower = following(world)
        text = structs.replace(world.state.chain.now, ground=Ground(replace(world.treaty, parties=parties)))
        chain = structs.replace(world.state.chain, texts=(text,))
        follower.state = structs.replace(follower.state, chain=chain)
        gate = LiveGate(follower, run.id, steps=lambda: 100, on_permit=permits.append)
        with gate:
            assert gate.wait_open(print), gate.trouble
            calls_ = {
                "an empty method call": Nothing().call,
                "time.monotonic_ns()": time.monotonic_ns,
                "LiveGate.may_step()": gate.may_step,
            }
            compare(calls_, calls, 1000)
            assert gate.may_step()
    return permits[-1]


def run_all(checks: Sequence[Check]) -> None:
    for public, signature, message in checks:
        public.verify(signature, message)


def check_of(public: PublicKey, signature: bytes, message: bytes) -> Check:
    return Ed25519PublicKey.from_public_bytes(public.raw), signature, message


def envelope_checks(data: bytes, keys: Sequence[PublicKey]) -> list[Check]:
    envelope = open_envelope(data)
    message = pae(envelope.kind, envelope.payload)
    by_id = {k.id: k for k in keys}
    return [check_of(by_id[keyid], signature, message) for keyid, signature in envelope.signatures]


def note_checks(world: World, data: bytes) -> list[Check]:
    note = parse_note(data)
    keys = {k.id: k for k in (log_key("delta"), *(witness_key(p) for p in world.treaty.parties))}
    checks = []
    for line in note.lines:
        vkey, time_, signature = keys[line.key_id], line.blob[:-64], line.blob[-64:]
        message = note.text
        if vkey.type != ED25519:
            message = cosignature_message(note.text, int.from_bytes(time_, "big"))
        checks.append(check_of(vkey.key, signature, message))
    return checks


def bench_offline(world: World, run: Live, permit: bytes, count: int) -> None:
    treaty, state = world.treaty, GateState(run.id)
    nonce = parse(open_envelope(permit).payload, Permit).nonce
    floor = envelope_checks(permit, tuple(treaty.signer_keys))
    compare(
        {
            f"{len(floor)} Ed25519 verifications": lambda: run_all(floor),
            "core.gate.admit()": lambda: admit(state, permit, treaty, treaty.signer_keys, nonce=nonce, asked_at=0),
        },
        count,
        20,
    )
    checkpoint, policy, index = world.checkpoint(), treaty.policy, 3
    hashes = inclusion_proof(index, len(world.entries), reader([leaf_hash(e) for e in world.entries]))
    proof = Proof(index, hashes, checkpoint).encode()
    cosigned = note_checks(world, checkpoint)
    compare(
        {
            f"{len(cosigned)} Ed25519 verifications": lambda: run_all(cosigned),
            "a checkpoint, cosigned by 4": lambda: verify_cosigned(checkpoint, policy),
            f"a tlog-proof in {len(world.entries)} entries": lambda: verify_proof(proof, world.entries[index], policy),
        },
        count,
        20,
    )


def bench_fold(world: World, run: Live, statements: int) -> None:
    """Heads and readings, with a stamp after every ninth; folded anew, chunk by chunk, against signatures alone."""
    parties = tuple(world.treaty.parties)
    for i in range(statements):
        if i % 3 == 0:
            world.train(run, i // 3 + 1)
            outcome = world.head(run, "running")
        else:
            (outcome,) = world.read("authorship", i % 70 / 100, parties[i % len(parties)])
        assert outcome.reason is None, outcome.text
        if i % 9 == 8:
            world.stamp()
    state, chunk, ours, floor, count = begin(world.treaty), 50, 0, 0, 0

    def fold(entries: Sequence[bytes]) -> None:
        nonlocal state
        for entry in entries:
            state, _ = apply(state, entry)

    keys = [p.key for p in world.treaty.parties.values()]
    for start in range(0, len(world.entries), chunk):
        entries = world.entries[start : start + chunk]
        checks = []
        for e in entries:
            checks += envelope_checks(e, keys) if e.startswith(b"{") else note_checks(world, e)
        count += len(checks)
        floor += sample(lambda c=checks: run_all(c), 1)[0]  # type: ignore[misc]
        ours += sample(lambda e=entries: fold(e), 1)[0]  # type: ignore[misc]
    assert state.root() == world.state.root()
    size = len(world.entries)
    print(f"{f'{count} Ed25519 verifications':<46} {size / floor * 1e9:>10,.0f} entries/s")
    print(f"{f'folding {size} entries':<46} {size / ours * 1e9:>10,.0f} entries/s {ours / floor:>19.2f} x\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=100_000)
    calls = parser.parse_args().calls
    print(machine())
    print(f"\n{'':<46} {'median':>13} {'p99':>13} {'median ratio':>14}")
    world = World(**TREATY)
    world.bind()
    run = world.opened("alpha", steps=STEPS)
    world.stamp()
    permit = bench_live(world, run, calls)
    bench_fold(world, run, max(45, calls // 50))
    bench_offline(world, run, permit, max(20, calls // 100))


if __name__ == "__main__":
    main()

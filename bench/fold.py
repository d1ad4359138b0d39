"""What a log costs to fold, to open from a snapshot, and to hold: ratios to the signature checks that it contains.

    python bench/fold.py [ENTRIES]         default 20,000; the README's figures are for 100,000 and 1,000,000

The log is a busy treaty's: four labs train (heads), vote, read and audit; the log stamps every eight entries, as four
parties do that log one statement a second under a heartbeat of ten. Making a log of a million entries takes minutes.
"""

import gc
import resource
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from machine import machine

from brakeline.core import keys
from brakeline.core.snapshot import pack, unpack
from brakeline.core.state import apply, begin
from brakeline.core.state.codec import decode, encode
from brakeline.core.transcript import Head
from world import ENVIRONMENT, World

STAMP_EVERY = 8
ROOT = "ab" * 32


def busy_log(size: int) -> World:
    """A world whose log has `size` entries: 70 % heads, 15 % votes, 10 % readings, 5 % declarations, and stamps."""
    w = World()
    w.bind()
    runs = {lab: w.opened(lab, name="main", steps=2**40, flop_per_step="1") for lab in ("alpha", "beta", "gamma")}
    step = dict.fromkeys(runs, 0)
    i = 0
    while len(w.entries) < size:
        i += 1
        lab = ("alpha", "beta", "gamma")[i % 3]
        kind = i % 20
        if kind < 14:
            step[lab] += 1
            n = step[lab]
            head = Head(run=runs[lab].id, steps=n, root=ROOT, state=ENVIRONMENT, flop=str(n), status="running")
            w.log(lab, "head", head)
        elif kind < 17:
            w.log(lab, "vote", {"motion": "trip", "epoch": 99, "reason": "a short reason, as people give them"})
        elif kind < 19:
            w.log("delta", "reading", w.reading("speedup", 1.0 + i % 3, subject=f"subject {i % 40}"))
        else:
            w.log(lab, "declaration", w.declaration(name=f"run {i}", steps=3))
        if i % STAMP_EVERY == 0:
            w.stamp()
        if i % 200 == 0:
            w.events.clear()
    return w


def cpu(act: object) -> float:
    gc.collect()
    start = time.process_time()
    act()  # type: ignore[operator]
    return time.process_time() - start


def signature_checks(w: World) -> list[tuple[bytes, bytes, bytes]]:
    """Every signature check that folding the log makes: key, signature, message."""
    found: list[tuple[bytes, bytes, bytes]] = []
    real = keys.PublicKey.verify

    def noting(self: keys.PublicKey, signature: bytes, message: bytes) -> bool:
        found.append((self.raw, signature, message))
        return real(self, signature, message)

    keys.PublicKey.verify = noting  # type: ignore[method-assign]
    try:
        fold(w)
    finally:
        keys.PublicKey.verify = real  # type: ignore[method-assign]
    return found


def fold(w: World) -> None:
    state = begin(w.first)
    for entry in w.entries:
        state, _ = apply(state, entry)


def check_all(checks: list[tuple[bytes, bytes, bytes]]) -> None:
    loaded = {raw: Ed25519PublicKey.from_public_bytes(raw) for raw, _, _ in checks}
    for raw, signature, message in checks:
        loaded[raw].verify(signature, message)


def flatness(w: World, window: int = 1000) -> None:
    """CPU per entry over the log, each window against the first."""
    state, first, at = begin(w.first), 0.0, 0
    marks = [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
    for mark in [m for m in marks if m <= len(w.entries)]:
        for entry in w.entries[at : mark - window]:
            state, _ = apply(state, entry)
        start = time.process_time()
        for entry in w.entries[mark - window : mark]:
            state, _ = apply(state, entry)
        spent, at = time.process_time() - start, mark
        first = first or spent
        print(f"  entries {mark - window:>9,} to {mark:>9,}: {spent / first:.2f} of the first thousand")


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(size: int) -> None:
    print(machine())
    started = time.time()
    w = busy_log(size)
    size = len(w.entries)
    each = sum(map(len, w.entries)) / size
    print(f"a log of {size:,} entries, {each:.0f} bytes each; made in {time.time() - started:.0f} s")
    part = World()
    part.first, part.entries = w.first, w.entries[: min(size, 20_000)]
    checks = signature_checks(part)
    ratios = []
    for _ in range(3):
        bare, folded = cpu(lambda: check_all(checks)), cpu(lambda: fold(part))
        ratios.append(folded / bare)
    print(
        f"refold: {sorted(ratios)[1]:.2f} times its {len(checks):,} signature checks (of 3: {min(ratios):.2f} to "
        f"{max(ratios):.2f}), {len(part.entries) / folded:,.0f} entries/s of one core"
    )
    print("per entry:")
    flatness(w)
    before = rss()
    data = pack(encode(w.state))
    opening = min(cpu(lambda: decode(unpack(data), w.first)) for _ in range(3))
    print(f"snapshot: {len(data):,} bytes, {len(data) / size:.1f} an entry; opened in {opening:.2f} s of CPU")
    del w.entries
    gc.collect()
    copy = decode(unpack(data), w.first)
    each = max(0, rss() - before) / size
    print(f"memory: the state read back takes {each:.0f} bytes an entry; runs {len(copy.runs.by_id)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)

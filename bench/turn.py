"""What a succession costs: the bytes of an amendment, and the steps that a run takes while a text turns.

    python bench/turn.py [SECONDS]      default 6: how long the run is watched before and after the turn

The run is a real one on real processes: a log, five witnesses and permit signers, one of which is replaced by the turn.
Its steps are counted from its transcript in windows of a quarter of a second; nothing stops while it is counted.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]

from machine import machine

from brakeline.core.succession import Amend
from brakeline.core.treaty import parse_treaty
from succession import joining, succeeding
from test_succession_real import Succession
from world import enrolled, treaty_text

WINDOW = 0.25  # s


def amendment(parties: int, joiners: int = 0) -> int:
    """Bytes of the entry that brings a text of so many parties."""
    lines = treaty_text().split("[party.")[0]
    faults = (parties - 1) // 3
    quorum = (parties + faults) // 2 + 1
    for name in ("permit", "lift", "witnesses"):
        lines = lines.replace(f"{name} = 3", f"{name} = {quorum}", 1)
    lines = lines.replace("faults = 1 ", f"faults = {faults} ", 1).replace("trip = 2 ", f"trip = {faults + 1} ", 1)
    lines = lines.replace("inspectors = 2", f"inspectors = {faults + 1}").replace(
        "adjudicators = 2", f"adjudicators = {faults + 1}"
    )
    for i in range(parties):
        log = '"log", ' if i == 0 else ""
        roles = f'roles = [{log}"lab", "witness", "permit-signer", "inspector"]'
        urls = f'witness_url = "https://party-{i}.example/witness"\nsigner_url = "https://party-{i}.example/signer"'
        lines += f'[party.party-{i}]\nrepresents = "a laboratory somewhere"\n{roles}\n{urls}\n'
    next_ = parse_treaty(enrolled(lines).encode())
    world = succeeding()
    names = [f"party-{i}" for i in range(joiners)]
    body = Amend(
        amends=world.treaty.digest,
        text=next_.text.decode(),
        joining=tuple(joining(world, next_, name) for name in names),
    )
    return len(world.statement("alpha", "amend", body))


def windows(circle: Succession, name: str, until: float) -> list[int]:
    """Steps taken in each window until then."""
    counts, last = [], circle.steps("alpha", name)
    while time.monotonic() < until:
        time.sleep(WINDOW)
        now = circle.steps("alpha", name)
        counts.append(now - last)
        last = now
    return counts


def turn(seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-succession-") as folder:
        circle = Succession(Path(folder) / "stage")
        try:
            circle.train("alpha", "watched", 10**6, pace=0.01)
            while circle.steps("alpha", "watched") < 50:
                time.sleep(0.1)
            before = windows(circle, "watched", time.monotonic() + seconds)
            name = circle.next_text(2, drop="gamma", join="epsilon")
            circle.serve_party("epsilon")
            stage = circle.stage
            stage.call("treaty", "amend", name, "--home", "alpha", "--joining", "epsilon.joins")
            for party in ("beta", "delta"):
                stage.call("treaty", "assent", name, "--home", party)
            during: list[int] = []
            while circle.state().chain.open or circle.version == 1:
                during += windows(circle, "watched", time.monotonic() + WINDOW)
            after = windows(circle, "watched", time.monotonic() + seconds)
        finally:
            circle.stage.close()
    usual = statistics.median(before)
    print(f"a run of {usual / WINDOW:.0f} steps/s, in windows of {WINDOW} s:")
    for what, counts in (("before", before), ("adoption to close", during), ("after", after)):
        ratios = [c / usual for c in counts]
        median, least = statistics.median(ratios), min(ratios)
        print(f"  {what:17} median {median:.2f}, least {least:.2f} of the usual, {len(counts)} windows")


def main(seconds: float) -> None:
    print(machine())
    for parties, joiners in ((4, 0), (30, 0), (30, 10), (60, 0)):
        size = amendment(parties, joiners)
        print(f"an amendment of a text of {parties} parties, {joiners} of which join: {size:,} of 65,535 bytes")
    turn(seconds)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 6)

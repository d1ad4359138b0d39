"""Every command on a log that one hostile lab, one hostile inspector and one liar have filled as the treaty allows.

Nothing that they can size may cost anybody more than they spent: heads at step 2**50, chains of parents, giant audits,
thousands of statements after an equivocation, rubbish of every kind, names that are markup.
"""

import io
import resource
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from brakeline.cli.main import main
from brakeline.core.errors import Reason
from brakeline.core.finding import Fault, Finding
from brakeline.core.state import replay
from brakeline.core.transcript import Head
from brakeline.node import desk
from brakeline.node.home import save_key
from world import World, key

HUGE = 2**50
ROOT = "ab" * 32


class Served:
    """A log client over a world, as the wire would show it; what is added goes into the world's log."""

    world: World

    def __init__(self, *_: object, **__: object) -> None:
        self.url = "http://world"

    def checkpoint(self, *, after: int = -1, wait: int = 0) -> bytes:
        if wait:
            self.world.stamp()
        return self.world.checkpoint()

    def stream(self, start: int, end: int) -> Any:
        return iter(self.world.entries[start:end])

    def snapshot(self) -> bytes:
        raise AssertionError("nobody asks for a snapshot")


def hostile() -> World:
    # By the wall clock, as the commands go.
    w = World(start=int(time.time()) - 1000, **{"audit.findings": "64", "scope_prohibited_above": '"1e40 FLOP"'})
    w.bind()
    big = w.declare("alpha", name="[bold red]x[/]", steps=HUGE, flop_per_step="1")
    assert w.head(big, "opened").reason is None
    for steps, status in ((7, "running"), (HUGE, "running")):
        flop = str(steps)
        head = Head(run=big.id, steps=steps, root=ROOT, state=ROOT, flop=flop, status=status)
        assert w.log("alpha", "head", head).reason is None
    w.stamp()
    parents: tuple[str, ...] = ()
    for i in range(300):
        w.log("alpha", "declaration", w.declaration(name=f"chain {i}", parents=parents))
        parents = (w.state.runs.names[("alpha", f"chain {i}")],)
    for j in range(6):
        places = [(a * 3, a * 3 + 3) for a in range(j * 60, j * 60 + 60)]
        findings = tuple(
            Finding(fault=Fault.REPLAY_MISMATCH, severity="violation", segment=p, detail="no") for p in places
        )
        w.audit("gamma", big, findings=findings, verdict="partial", segments=())
    for i in range(200):
        w.read("speedup", 1.0 + i % 3, "delta", subject=f"subject {i}")
    w.log("beta", "pledge", {"condition": "quorum " + "x" * 30_000})
    seq = len(w.said[("gamma", "audits")])
    for reason in ("one", "two"):
        w.append(w.statement("gamma", "retraction", {"n": reason}, seq=seq))
    for i in range(2000):
        w.append(w.statement("gamma", "vote", {"motion": "trip", "epoch": i, "reason": ""}, seq=10**6 + i))
    for rubbish in (b"{}", b"\x00" * 60_000, b"{" * 60_000, b'{"payload":"' + b"A" * 60_000 + b'"}'):
        w.append(rubbish)
    w.stamp()
    return w


@pytest.fixture(scope="module")
def world() -> World:
    return hostile()


@pytest.fixture
def home(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Delta's home, before the hostile log."""
    (tmp_path / "party").write_text("delta\n")
    (tmp_path / "treaty.toml").write_bytes(world.treaty.text)
    save_key(tmp_path / "keys" / "statement.pem", key("delta"), None)
    Served.world = world
    for module in (desk,):
        monkeypatch.setattr(module, "LogClient", Served)
    monkeypatch.setattr("brakeline.cli.status.LogClient", Served)

    def add(_: object, __: object, entry: bytes) -> int:
        world.append(entry)
        return len(world.entries) - 1

    monkeypatch.setattr(desk, "add_judged", add)
    monkeypatch.setattr(desk.Desk, "show_signers", lambda *_: 0)
    return tmp_path


def call(*args: str) -> tuple[int, str]:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as e:
        main(list(args))
    return int(e.value.code or 0), out.getvalue()


def test_the_log_is_as_hostile_as_it_should_be(world: World) -> None:
    run = next(r for r in world.state.runs.by_id.values() if r.declaration.name.startswith("["))
    assert run.steps == HUGE
    assert len(run.allegations) > 200
    assert "gamma" in world.state.members.equivocators
    assert world.state.runs.by_id[world.state.runs.names[("alpha", "chain 299")]].lineage_flop == 300 * 30 * 10**9


COMMANDS: list[tuple[str, ...]] = [
    ("status",),
    ("status", "--json"),
    ("status", "--refold"),
    ("vote", "trip", "--reason", "now"),
    ("pledge", "--if-at-least", "0"),
    ("withdraw", "--reason", "enough"),
    ("duty", "request", "alpha", "--text", "what is this?"),
    ("allegation", "retract", "alpha/chain 1", "replay-mismatch", "0-3"),
    ("designate", "alpha/chain 1", "prohibited"),
    ("audit", "alpha/[bold red]x[/]", "--evidence", "nowhere"),
]


@pytest.mark.parametrize("args", COMMANDS, ids=lambda a: " ".join(a[:2]))
def test_every_command_bears_it(args: tuple[str, ...], home: Path, world: World) -> None:
    folding = time.process_time()
    replay(world.treaty, world.entries)
    folding = time.process_time() - folding
    before, spent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    code, out = call(*args, "--home", str(home))
    spent = time.process_time() - spent
    assert code in (0, 4, 5), out
    assert "Traceback" not in out
    # A few foldings of the log: to catch up, to refold, and what a command does beside.
    assert spent < 5 * folding + 2, f"{args[0]} took {spent:.1f} s; folding the log takes {folding:.1f} s"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "kB"


def test_bundle_and_verify_bear_it(home: Path, world: World, tmp_path: Path) -> None:
    code, out = call("bundle", str(tmp_path / "x.bundle"), "--home", str(home))
    assert code == 0, out
    code, out = call("verify", str(tmp_path / "x.bundle"))
    assert (code, out.splitlines()[0]) == (0, f"VERIFIED {tmp_path / 'x.bundle'}")
    code, out = call("report", str(tmp_path / "x.bundle"), "--out", str(tmp_path / "x.html"))
    assert code == 0, out
    assert "<b>x" not in (tmp_path / "x.html").read_text()


def test_markup_in_a_name_is_text(home: Path) -> None:
    _, out = call("status", "--home", str(home))
    assert "chain 299" in out
    assert "of 301 runs" in out


def test_an_entry_after_it_costs_what_one_before_it_did(world: World) -> None:
    """Heads of a hostile lab and the rest stay where they are: nobody pays for them again."""
    w = World(scope_prohibited_above='"1e40 FLOP"')
    w.bind()

    def cost(world: World) -> float:
        entries = [world.statement("beta", "vote", {"motion": "lift", "epoch": 77, "reason": ""}) for _ in range(200)]
        start = time.process_time()
        for entry in entries:
            assert world.append(entry).reason is Reason.REPLAYED
        return time.process_time() - start

    assert cost(world) < 3 * max(cost(w) for _ in range(2))

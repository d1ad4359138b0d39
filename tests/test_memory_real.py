"""Homes copied, put back and torn, with real servers that are killed: what no test of one process shows."""

import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from test_cli import CONTEXT, SERVERS, Little, serve, wait_for
from test_logstore import in_memory
from world import PARTIES

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Little]:
    with in_memory(tmp_path_factory.mktemp("memory")) as folder:
        world = Little(folder)
        world.ahead = 0.0
        try:
            for p in PARTIES:
                world.ok("treaty", "sign", str(world.treaty_file), home=p)
            world.start(*SERVERS, "log-delta")
            wait_for(lambda: world("status", home="alpha")[0] == 0)
            for p in PARTIES[:3]:
                world.ok("pledge", "--if-at-least", "2", home=p)
            yield world
        finally:
            for process in world.processes.values():
                process.kill()
            for process in world.processes.values():
                process.join()


def said(w: Little, name: str) -> str:
    return (w.folder / f"{name}.out").read_text()


def refused(w: Little, name: str) -> str:
    """What a server says that does not start."""
    with pytest.raises(AssertionError):
        w.start(name)
    process = w.processes.pop(name)
    assert process.exitcode == 5, said(w, name)
    assert "Traceback" not in said(w, name)
    return said(w, name)


def equivocators(w: Little) -> list[str]:
    return [p["name"] for p in w.report()["parties"] if p["equivocated"]]


def test_a_copied_home_finds_out_before_it_signs(little: Little) -> None:
    """operator/copy_equivocates.sh"""
    w = little
    w.kill("signer-alpha")
    shutil.copytree(w.home("alpha"), w.home("copy"))
    w.ok("duty", "notice", "--text", "of the first", home="alpha")
    code, out = w("duty", "notice", "--text", "of the copy", home="copy")
    assert code == 4
    assert "which this home never gave" in out
    assert "brakeline key reclaim" in out
    # The brake does not wait; and whoever was first finds out in turn.
    assert "votes to trip" in w.ok("vote", "trip", "--reason", "from the copy", home="copy")
    assert w("duty", "notice", "--text", "again", home="alpha")[0] == 4
    # One of them is told to be the right one. What it did not know is its own from then on.
    assert "this home speaks for alpha" in w.ok("key", "reclaim", home="alpha")
    assert "on record" in w.ok("duty", "notice", "--text", "again", home="alpha")
    assert w("duty", "notice", "--text", "of the copy", home="copy")[0] == 4
    assert equivocators(w) == []
    w.start("signer-alpha")


def test_a_home_from_its_backup_goes_on(little: Little) -> None:
    w = little
    file = w.folder / "beta.backup"
    w.ok("backup", str(w.home("beta")), str(file))  # while its witness and its signer run
    w.ok("duty", "notice", "--text", "after the backup", home="beta")
    w.kill("witness-beta", "signer-beta")
    w.home("beta").rename(w.folder / "lost")
    w.ok("restore", str(file), str(w.home("beta")))
    out = w.ok("duty", "notice", "--text", "after the restore", home="beta")
    assert "this home is a copy: it took back" in out
    w.start("witness-beta", "signer-beta")
    assert "it took back a tree of" in said(w, "witness-beta")
    w.kill("witness-beta")
    w.start("witness-beta")
    assert "took back" not in said(w, "witness-beta"), "once is enough"
    w.kill("witness-alpha")  # the quorum is three of four: now it is needed
    assert "on record" in w.ok("duty", "notice", "--text", "cosigned by beta", home="beta")
    w.start("witness-alpha")
    assert equivocators(w) == []


def test_a_witness_without_its_memory_takes_it_back_or_does_not_start(little: Little) -> None:
    """log/d2 (5)"""
    w = little
    w.kill("witness-gamma")
    shutil.copytree(w.home("gamma") / "witness", w.folder / "old")
    shutil.rmtree(w.home("gamma") / "witness")
    w.kill("log-delta")
    assert "is out of reach" in refused(w, "witness-gamma")
    assert "is out of reach" in refused(w, "witness-gamma"), "what the first start made is no memory"
    w.start("log-delta")
    w.start("witness-gamma")
    took = re.search(r"it took back a tree of (\d+) entries", said(w, "witness-gamma"))
    assert took
    assert int(took[1]) > 0
    assert "it is no new witness" in w("witness", "--new", home="gamma")[1]
    # Yesterday's copy of its memory is found out, too, by its own signature on a larger tree.
    w.kill("witness-alpha")  # three of four: what is published now, gamma has cosigned
    w.ok("duty", "notice", "--text", "one more", home="beta")
    w.kill("witness-gamma")
    shutil.rmtree(w.home("gamma") / "witness")
    shutil.copytree(w.folder / "old", w.home("gamma") / "witness")
    w.start("witness-gamma")
    assert "it took back a tree of" in said(w, "witness-gamma")
    w.start("witness-alpha")


def start(w: Little, name: str, *more: str, ahead: float = 0.0) -> None:
    """A server with options, or with a wrong clock."""
    role, _, party = name.partition("-")
    out = w.folder / f"{name}.out"
    out.write_bytes(b"")
    args = (role, "--home", str(w.home(party)), *more)
    w.processes[name] = CONTEXT.Process(target=serve, args=(out, ahead, args), daemon=True)
    w.processes[name].start()
    wait_for(lambda: "listening on" in out.read_text() or w.died(name), 30)


def signed_at(w: Little, party: str) -> float:
    """How far ahead of now the time is that a witness has signed last, in seconds."""
    with closing(sqlite3.connect(w.home(party) / "witness" / "witness.db")) as db:
        return float(db.execute("SELECT max(time) FROM logs").fetchone()[0]) - time.time()


def test_a_clock_that_ran_ahead_is_put_right(little: Little) -> None:
    """log/d2 (6)"""
    w, years = little, 10 * 365 * 86_400.0
    w.kill("witness-gamma", "witness-alpha")
    start(w, "witness-gamma", ahead=years)
    w.ok("duty", "notice", "--text", "at a wrong time", home="beta")
    assert signed_at(w, "gamma") > years / 2
    w.kill("witness-gamma")
    start(w, "witness-gamma")
    assert "brakeline witness --clock-was-ahead" in said(w, "witness-gamma")
    w.ok("duty", "notice", "--text", "still at a wrong time", home="beta")
    assert signed_at(w, "gamma") > years / 2
    w.kill("witness-gamma")
    start(w, "witness-gamma", "--clock-was-ahead")
    assert "has not come" not in said(w, "witness-gamma")
    w.ok("duty", "notice", "--text", "at the right time", home="beta")
    assert signed_at(w, "gamma") < 60
    w.start("witness-alpha")


def test_damage_is_one_line_and_exit_5(little: Little) -> None:
    """operator/sqlite_trace.sh"""
    w = little
    w.kill("witness-gamma", "signer-gamma")
    for name, server in (("witness/witness.db", "witness-gamma"), ("signer/granted.json", "signer-gamma")):
        path = w.home("gamma") / name
        whole = path.read_bytes()
        for extra in ("-wal", "-shm"):
            path.with_name(path.name + extra).unlink(missing_ok=True)
        path.write_bytes(b"junk" * 2000)
        assert "damaged" in refused(w, server)
        path.write_bytes(whole)
    granted = w.home("gamma") / "signer" / "granted.json"
    granted.unlink()
    assert "is gone" in refused(w, "signer-gamma")
    granted.write_bytes(b"{}")
    outbox = w.home("gamma") / "outbox.sqlite"
    for extra in ("-wal", "-shm"):
        outbox.with_name(outbox.name + extra).unlink(missing_ok=True)
    outbox.write_bytes(b"junk" * 2000)
    code, out = w("duty", "notice", "--text", "x", home="gamma")
    assert code == 5
    assert "outbox.sqlite: the database is damaged" in out
    w.start("witness-gamma")


def test_a_torn_vote_is_passed_over(little: Little) -> None:
    """log/d6: half a line, and a whole one behind it, stopped a signer for good."""
    w = little
    votes = w.home("delta") / "signer" / "votes.jsonl"
    w.kill("signer-delta")
    vote = votes.read_bytes() if votes.exists() else b'{"payload":"e30="}\n'
    votes.write_bytes(vote[: len(vote) // 2] + vote + b"\xff\xfe\n" + vote[:40])
    w.start("signer-delta")
    assert "shown to" in w.ok("vote", "trip", "--reason", "is it held?", home="beta")
    wait_for(lambda: w.report()["brake"]["phase"] != "clear")

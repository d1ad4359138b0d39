"""The outbox and the desk: nothing a party said is lost, and no number is given to two statements."""

import itertools
import multiprocessing
import random
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.core.brake import Phase, Vote
from brakeline.core.duty import Notice, Request
from brakeline.core.errors import Malformed, Reason, Refused, Unavailable
from brakeline.core.pledge import Assent, Pledge
from brakeline.core.state.events import Entered, Event, Void
from brakeline.core.state.members import Last
from brakeline.core.statement import open_envelope
from brakeline.core.treaty import Lane, articles_digest
from brakeline.node import client, desk
from brakeline.node.desk import Desk, Lab
from brakeline.node.home import Home, save_key
from brakeline.node.http import error_response
from brakeline.node.machine import MachineClock
from brakeline.node.memory import RESTORED
from brakeline.node.outbox import LIFETIME, Outbox
from brakeline.node.wire import UNTIL
from disks import FullDisk
from test_logstore import in_memory
from test_node import WorldLog
from world import DAY, World, key

BODY = {"motion": "trip", "epoch": 0, "reason": "x"}
LANES: dict[str, Lane] = {"vote": "brake", "head": "runs", "audit": "audits", "reading": "rest"}


def outbox(path: Path, world: World) -> Outbox:
    return Outbox(path, world.treaty, "alpha", key("alpha"), lambda: world.now)


def refusing(reason: Reason, *, later: bool = False) -> Callable[[bytes], int]:
    def add(entry: bytes) -> int:
        raise Refused(reason, "no", later=later)

    return add


def bodies(entries: list[bytes]) -> list[str]:
    return [open_envelope(e).statement.body["reason"] for e in entries]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as path:
        yield path


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def box(folder: Path, world: World) -> Iterator[Outbox]:
    box = outbox(folder, world)
    yield box
    box.close()


# ---- numbers, lanes and crashes ----


def test_outbox_numbers_and_chains(box: Outbox, world: World) -> None:
    """Numbers run per lane, from 0, without a gap; each names the one before it."""
    log = WorldLog(world, judging=True)
    assent = Assent(text=world.treaty.digest, articles=articles_digest(world.treaty))
    for _ in range(3):
        box.write("assent", assent)
        box.write("request", Request(party="beta", text="how is it going?"))
        assert len(box.flush(log.add_verified)) == 2
    said = [open_envelope(e) for e in world.entries if e.startswith(b"{")]
    for kind in ("assent", "request"):
        lane = [e for e in said if e.kind == kind]
        assert [e.statement.seq for e in lane] == [0, 1, 2]
        assert lane[0].statement.prev == "0" * 64
        assert [e.statement.prev for e in lane[1:]] == [e.digest for e in lane[:-1]]
        assert {e.statement.expires - e.statement.not_before for e in lane} == {LIFETIME}
    assert len(world.of(Entered)) == 6
    assert (box.newest("brake"), box.newest("rest"), box.newest("runs")) == (2, 2, -1)


def test_outbox_survives_a_crash_between_sending_and_noting(folder: Path, world: World) -> None:
    """The same bytes are sent again, and nothing counts twice."""
    box, log = outbox(folder, world), WorldLog(world, judging=True)
    data = box.write("assent", {"text": world.treaty.digest})

    def lost(entry: bytes) -> int:
        log.add(entry)
        raise Unavailable("the answer was lost")

    with pytest.raises(Unavailable):
        box.flush(lost)
    box.close()
    again = outbox(folder, world)
    assert [d for _, _, d in again.pending()] == [data]
    (sent,) = again.flush(log.add_verified)
    assert world.entries.count(data) == 1
    assert (sent.data, world.entries[sent.index], again.index_of(data)) == (data, data, sent.index)
    assert again.pending() == []
    again.close()


def test_outbox_survives_a_crash_between_writing_and_sending(folder: Path, world: World) -> None:
    box = outbox(folder, world)
    written = [box.write("vote", BODY), box.write("reading", BODY), box.write("vote", BODY)]
    del box  # not even closed
    again = outbox(folder, world)
    log = WorldLog(world)
    again.flush(log.add_verified)
    assert log.added == [written[0], written[2], written[1]]
    assert again.newest("brake") == 1
    again.close()


def test_a_failed_commit_writes_nothing_and_takes_no_number(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setattr(box, "_db", FullDisk(box._db))
        with pytest.raises(Unavailable, match="disk is full"):
            box.write("vote", BODY)
    assert box.pending() == []
    assert open_envelope(box.write("vote", BODY)).statement.seq == 0


def test_a_refused_statement_does_not_block_the_next(box: Outbox) -> None:
    first = box.write("assent", {"text": "first"})
    with pytest.raises(Refused) as e:
        box.flush(refusing(Reason.FOREIGN))
    assert e.value.reason is Reason.FOREIGN
    with pytest.raises(Refused, match="does not take it: no"):
        box.index_of(first)
    box.write("assent", {"text": "second"})
    assert len(box.flush(lambda e: 7)) == 1
    assert box.pending() == []


def test_a_refused_statement_does_not_block_the_next_of_the_same_flush(box: Outbox) -> None:
    """And its refusal is told, though all others went through."""
    written = [box.write("vote", {**BODY, "reason": str(i)}) for i in range(3)]

    def add(entry: bytes) -> int:
        if entry == written[0]:
            raise Refused(Reason.FOREIGN, "no")
        return written.index(entry)

    with pytest.raises(Refused, match="no"):
        box.flush(add)
    assert [box.index_of(d) for d in written[1:]] == [1, 2]
    assert box.pending() == []


def test_the_brake_goes_first_and_no_lane_waits_for_another(box: Outbox) -> None:
    """What a lane cannot send now holds up that lane alone, in its order; it is sent again another time."""
    kinds = ["reading", "audit", "head", "vote", "head", "reading", "vote"]
    written = [box.write(kind, {**BODY, "reason": f"{kind} {i}"}) for i, kind in enumerate(kinds)]
    tried: list[bytes] = []
    stuck = {"head"}

    def add(entry: bytes) -> int:
        tried.append(entry)
        if open_envelope(entry).kind in stuck:
            raise Refused(Reason.NOT_YET_VALID, "too early", later=True)
        return written.index(entry)

    with pytest.raises(Refused) as e:
        box.flush(add)
    assert e.value.later
    assert bodies(tried) == ["vote 3", "vote 6", "head 2", "audit 1", "reading 0", "reading 5"]
    assert [(lane, seq) for lane, seq, _ in box.pending()] == [("runs", 0), ("runs", 1)]
    stuck.clear()
    assert bodies([s.data for s in box.flush(add)]) == ["head 2", "head 4"]
    assert [box.index_of(d) for d in written] == list(range(7))


@pytest.mark.parametrize("kind", LANES)
def test_an_answer_that_is_none_blocks_its_lane_alone_and_loses_nothing(box: Outbox, kind: str) -> None:
    written = {k: box.write(k, BODY) for k in LANES}

    def add(entry: bytes) -> int:
        if entry == written[kind]:
            raise Malformed("HTTP 404 without an error of ours")
        return 3

    with pytest.raises(Malformed):
        box.flush(add)
    assert [d for _, _, d in box.pending()] == [written[kind]]
    assert len(box.flush(lambda e: 9)) == 1


def test_out_of_reach_is_not_tried_for_every_statement(box: Outbox) -> None:
    for kind in LANES:
        box.write(kind, BODY)
    calls: list[bytes] = []

    def away(entry: bytes) -> int:
        calls.append(entry)
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        box.flush(away)
    assert len(calls) == 1
    assert len(box.pending()) == len(LANES)


def test_what_no_log_takes_is_not_signed(box: Outbox) -> None:
    """It would wait for ever, and all of its lane with it: a trip vote behind a long reason, say."""
    with pytest.raises(Malformed, match="the limit is 65535"):
        box.write("vote", {**BODY, "reason": "x" * 60_000})
    assert box.pending() == []
    assert open_envelope(box.write("vote", BODY)).statement.seq == 0


# ---- several processes ----


def test_two_processes_never_share_a_number(folder: Path, world: World) -> None:
    boxes = [outbox(folder, world) for _ in range(2)]

    def write(box: Outbox) -> None:
        for _ in range(20):
            box.write("assent", {"text": "x"})

    threads = [threading.Thread(target=write, args=(b,)) for b in boxes]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [seq for _, seq, _ in boxes[0].pending()] == list(range(40))


def _write_some(folder: Path, world: World) -> None:
    box = outbox(folder, world)
    for _ in range(20):
        box.write("vote", BODY)
        box.write("reading", BODY)


def test_two_real_processes_never_share_a_number(folder: Path, world: World) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_some, args=(folder, world)) for _ in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
        assert w.exitcode == 0
    box = outbox(folder, world)
    expected = [("brake", i) for i in range(40)] + [("rest", i) for i in range(40)]
    assert [(lane, seq) for lane, seq, _ in box.pending()] == expected
    said = [open_envelope(data) for lane, _, data in box.pending() if lane == "brake"]
    assert [e.statement.prev for e in said[1:]] == [e.digest for e in said[:-1]]


def test_two_processes_that_flush_at_once_send_everything_once(folder: Path, world: World) -> None:
    """Each sends all that is pending, in order: what the other has sent already keeps its place."""
    log = WorldLog(world, judging=True)
    lock = threading.Lock()

    def add(entry: bytes) -> int:
        with lock:
            return log.add_verified(entry)

    boxes = [outbox(folder, world) for _ in range(2)]
    troubles: list[BaseException] = []

    def work(box: Outbox) -> None:
        try:
            for _ in range(15):
                box.write("vote", BODY)
                box.flush(add)
        except BaseException as e:
            troubles.append(e)

    threads = [threading.Thread(target=work, args=(b,)) for b in boxes]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert troubles == []
    said = [open_envelope(e).statement.seq for e in world.entries if e.startswith(b"{")]
    assert said == list(range(30))


# ---- what must be signed anew ----


def test_a_number_that_was_passed_is_signed_anew_behind_the_logs(box: Outbox, world: World) -> None:
    log = WorldLog(world, judging=True)
    world.log("alpha", "vote", BODY, seq=41)  # a copy of this home speaks for the party, too
    passed = Last(41, open_envelope(world.entries[-1]).what)
    data = box.write("vote", {**BODY, "reason": "mine"})
    (sent,) = box.flush(log.add_verified, lambda lane: passed)
    again = open_envelope(sent.data).statement
    assert (again.seq, again.body["reason"]) == (42, "mine")
    assert box.index_of(data) == sent.index == len(world.entries) - 1
    assert box.latest(data) == sent.data == box.latest(sent.data)
    assert [e.seq for e in map(_statement, world.entries) if e] == [41, 42]
    assert box.pending() == []
    # The next is numbered behind both.
    assert _number(box.write("vote", BODY)) == 43


def _statement(entry: bytes) -> Any:
    return open_envelope(entry).statement if entry.startswith(b"{") else None


def _number(entry: bytes) -> int:
    return open_envelope(entry).statement.seq


def test_several_passed_numbers_keep_their_order(box: Outbox, world: World) -> None:
    log = WorldLog(world, judging=True)
    world.log("alpha", "vote", BODY, seq=41)
    passed = Last(41, open_envelope(world.entries[-1]).what)
    written = [box.write("vote", {**BODY, "reason": str(i)}) for i in range(4)]
    sent = box.flush(log.add_verified, lambda lane: passed)
    assert bodies([s.data for s in sent]) == ["0", "1", "2", "3"]
    assert [box.index_of(d) for d in written] == [s.index for s in sent] == sorted(s.index for s in sent)
    assert len({_number(s.data) for s in sent}) == 4


def test_a_number_passed_unseen_is_kept_and_not_guessed(box: Outbox, world: World) -> None:
    """Guessing upwards would end at the number that the log holds, and that would be to equivocate."""
    log = WorldLog(world, judging=True)
    world.log("alpha", "vote", BODY, seq=3)
    data = box.write("vote", {**BODY, "reason": "mine"})
    for _ in range(6):
        with pytest.raises(Refused, match="has not seen yet") as e:
            box.flush(log.add_verified)
        assert (e.value.reason, e.value.later) == (Reason.REPLAYED, True)
    assert [d for _, _, d in box.pending()] == [data]
    assert world.state.members.by_name["alpha"].equivocated == -1


def test_a_number_that_the_log_gave_to_another_statement_is_not_sent(box: Outbox, world: World) -> None:
    """Yesterday's copy of a home, and in it a statement that nobody sent: its number is taken by now."""
    log = WorldLog(world, judging=True)
    data = box.write("vote", {**BODY, "reason": "mine"})
    world.log("alpha", "vote", {**BODY, "reason": "the other"}, seq=0)
    view = lambda lane: world.state.members.by_name["alpha"].of(lane)  # noqa: E731
    box.flush(log.add_verified, view)
    assert data not in log.added
    assert world.state.members.by_name["alpha"].equivocated == -1
    assert [(s.seq, s.body["reason"]) for s in map(_statement, world.entries) if s] == [(0, "the other"), (1, "mine")]
    # One that was sent, and whose answer was lost, is not taken for another.
    mine = box.write("vote", BODY)
    log.add(mine)
    (sent,) = box.flush(log.add_verified, view)
    assert sent.data == mine


def test_what_is_dated_too_far_back_is_signed_anew(box: Outbox, world: World) -> None:
    """After a fortnight without the log, an honest statement still counts."""
    log = WorldLog(world, judging=True)
    written = [box.write("vote", {**BODY, "reason": str(i)}, lifetime=30 * DAY) for i in range(3)]
    world.stamp(14 * DAY)
    sent = box.flush(log.add_verified)
    assert bodies([s.data for s in sent]) == ["0", "1", "2"]
    assert {open_envelope(s.data).statement.not_before for s in sent} == {world.now}
    assert {open_envelope(s.data).statement.expires for s in sent} == {world.now + 30 * DAY}
    assert [box.index_of(d) for d in written] == [s.index for s in sent]
    assert len(world.of(Entered)) == 3


def test_what_has_expired_is_given_up_and_told(box: Outbox, world: World) -> None:
    """It was meant for its time. What follows it is not held up."""
    log = WorldLog(world, judging=True)
    data = box.write("vote", BODY, lifetime=DAY)
    world.stamp(2 * DAY)
    after = box.write("vote", BODY)
    with pytest.raises(Refused) as e:
        box.flush(log.add_verified)
    assert (e.value.reason, e.value.later) == (Reason.EXPIRED, False)
    with pytest.raises(Refused, match="expired"):
        box.index_of(data)
    assert box.index_of(after) == len(world.entries) - 1


def test_a_clock_far_behind_signs_nothing_anew(folder: Path, world: World) -> None:
    """It would be as far behind as the first, for ever."""
    clock = [1000.0]
    box = Outbox(folder, world.treaty, "alpha", key("alpha"), lambda: clock[0])
    log = WorldLog(world, judging=True)
    box.write("vote", BODY, lifetime=2**40)
    with pytest.raises(Refused, match="dated more than 7 days"):
        box.flush(log.add_verified)
    assert (len(log.added), box.newest("brake")) == (1, 0)
    clock[0] = world.now
    assert len([box.write("vote", BODY)]) == len(box.flush(log.add_verified)) == 1


def test_what_a_clock_that_ran_ahead_dated_is_signed_anew(folder: Path, world: World) -> None:
    """It would hold up its lane until that date."""
    clock = [world.now + 400.0 * DAY]
    box = Outbox(folder, world.treaty, "alpha", key("alpha"), lambda: clock[0])
    log = WorldLog(world, judging=True)
    first = box.write("vote", BODY)
    for _ in range(2):  # while the clock is wrong, the same would happen again
        with pytest.raises(Refused, match=r"not valid before 20\d\d-\d\d-\d\d .* UTC; the log's time is 20\d\d-"):
            box.flush(log.add_verified)
    assert box.newest("brake") == 0
    clock[0] = world.now
    second = box.write("vote", {**BODY, "reason": "the clock is right"})
    box.flush(log.add_verified)
    assert box.index_of(first) is not None
    assert box.index_of(second) is not None
    assert box.pending() == []


def test_a_spent_day_waits_for_the_next_and_is_then_signed_anew(folder: Path) -> None:
    """The day of a statement is the issuer's: the same bytes would be over that day's budget for ever."""
    world = World(**{"budget.brake": "16", "budget.bytes": '"1 MiB"'})
    box, log = outbox(folder, world), WorldLog(world, judging=True)
    written = [box.write("vote", {**BODY, "reason": str(i)}) for i in range(18)]
    with pytest.raises(Refused) as e:
        box.flush(log.add_verified)
    assert (e.value.reason, e.value.later) == (Reason.BUDGET, True)
    box.write("reading", BODY)
    with pytest.raises(Refused):
        box.flush(log.add_verified)
    assert [(lane, seq) for lane, seq, _ in box.pending()] == [("brake", 16), ("brake", 17)]
    world.stamp(DAY)
    sent = box.flush(log.add_verified)
    assert bodies([s.data for s in sent]) == ["16", "17"]
    assert [box.index_of(d) is not None for d in written] == [True] * 18


def test_what_is_signed_anew_and_refused_is_given_up_too(box: Outbox, world: World) -> None:
    world.stamp(14 * DAY)
    world.now -= 14 * DAY
    data = box.write("vote", BODY)
    world.now += 14 * DAY

    def add(entry: bytes) -> int:
        if entry == data:
            raise Refused(Reason.EXPIRED, "dated too far back")
        raise Refused(Reason.FOREIGN, "never")

    with pytest.raises(Refused, match="never"):
        box.flush(add)
    with pytest.raises(Refused, match="never"):
        box.index_of(data)
    assert box.pending() == []


def test_another_process_that_signs_anew_first_is_followed(folder: Path, world: World) -> None:
    """Two processes meet the same stale statement: it is said once."""
    mine, theirs = outbox(folder, world), outbox(folder, world)
    data = mine.write("vote", BODY, lifetime=30 * DAY)
    world.stamp(14 * DAY)
    log = WorldLog(world, judging=True)

    def add(entry: bytes) -> int:
        if entry == data:
            theirs.flush(log.add_verified)
        return log.add_verified(entry)

    mine.flush(add)
    assert len(world.of(Entered)) == len(world.entries) - 2 == 1
    assert mine.index_of(data) == 2


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.sampled_from(["say", "say", "say", "write", "lose", "away", "copy", "restore", "day"]),
        min_size=3,
        max_size=14,
    ),
    st.integers(0, 2**16),
)
def test_no_copy_of_a_home_ever_equivocates(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], seed: int
) -> None:
    """Copied at any time and put back at any other, with the log there, away, or taking without answering.

    And at the end all that stands in the home is in the log, once.
    """
    pick = random.Random(seed)
    world = World()
    log = WorldLog(world, judging=True)
    with in_memory(tmp_path_factory.mktemp("home")) as folder:
        copies: list[Path] = []
        box = outbox(folder / "home", world)
        view = lambda lane: world.state.members.by_name["alpha"].of(lane)  # noqa: E731

        def lost(entry: bytes) -> int:
            log.add(entry)
            raise Unavailable("the answer was lost")

        def write() -> None:
            lane: Lane = pick.choice(("brake", "rest"))
            kind = "vote" if lane == "brake" else "reading"
            after = -1 if log.away else view(lane).seq
            box.write(kind, {**BODY, "reason": str(len(world.entries))}, after=after)

        def flush(add: Callable[[bytes], int]) -> None:
            with suppress(Unavailable, Refused):
                box.flush(add, view)  # a view that is fresh: a desk sends nothing without one

        for step in (*steps, "say", "say"):
            match step:
                case "say":
                    log.away = False
                    write()
                    flush(log.add_verified)
                case "write":
                    write()
                case "lose":
                    log.away = False
                    write()
                    flush(lost)
                case "away":
                    log.away = True
                    write()
                case "copy":
                    box.close()
                    copies.append(folder / f"copy{len(copies)}")
                    shutil.copytree(folder / "home", copies[-1])
                    box = outbox(folder / "home", world)
                case "restore" if copies:
                    box.close()
                    shutil.rmtree(folder / "home")
                    shutil.copytree(pick.choice(copies), folder / "home")
                    box = outbox(folder / "home", world)
                case "day":
                    world.stamp(DAY)
            assert world.state.members.by_name["alpha"].equivocated == -1
        assert box.pending() == []
        rows = sqlite3.connect(folder / "home" / "outbox.sqlite").execute("SELECT idx, refused, instead FROM said")
        for idx, refused, instead in rows:
            assert (idx is not None) or (refused, instead is None) == ("signed anew", False)
        box.close()
    world.check()


# ---- a damaged or locked outbox (operator/sqlite_trace.sh) ----


def test_a_damaged_outbox_is_an_error_of_ours(folder: Path, world: World) -> None:
    (folder / "outbox.sqlite").write_bytes(b"junk" * 100)
    with pytest.raises(Unavailable, match=r"outbox\.sqlite: the database is damaged") as e:
        outbox(folder, world)
    assert "an older one is safe" in e.value.hint


def test_an_outbox_damaged_inside_is_an_error_of_ours(folder: Path, world: World) -> None:
    box = outbox(folder, world)
    for _ in range(200):
        box.write("vote", BODY)
    box.close()
    file = folder / "outbox.sqlite"
    image = bytearray(file.read_bytes())
    image[4096:] = b"\xff" * (len(image) - 4096)
    file.write_bytes(image)
    calls: list[Callable[[], object]] = [
        lambda: box.write("vote", BODY),
        box.pending,
        lambda: box.newest("brake"),
        lambda: box.flush(lambda e: 0),
    ]
    try:
        box = outbox(folder, world)
    except (Refused, Unavailable):
        return
    for call in calls:
        with pytest.raises((Refused, Unavailable), match="the database"):
            call()


def test_a_read_only_outbox_is_an_error_of_ours(box: Outbox) -> None:
    data = box.write("vote", BODY)
    box._db.execute("PRAGMA query_only=ON")  # as root, a file's mode stops nobody
    for call in (lambda: box.write("vote", BODY), lambda: box.flush(lambda e: 0), lambda: box.renew("brake", 0)):
        with pytest.raises(Unavailable, match="the database cannot be used now"):
            call()
    assert [d for _, _, d in box.pending()] == [data]


@pytest.mark.parametrize("at", ["folder", "database"])
def test_an_outbox_that_cannot_be_made_is_an_error_of_ours(folder: Path, world: World, at: str) -> None:
    if at == "folder":
        (folder / "home").write_text("a file where the folder should be")
    else:
        (folder / "home" / "outbox.sqlite").mkdir(parents=True)
    with pytest.raises(Unavailable):
        outbox(folder / "home", world)


# ---- the desk ----


class Told(Desk):
    """A desk at a world's log, on a world's clock; what it tells is kept, and permit signers are those of the test."""

    def __init__(self, home: Home, shown: list[bytes] | None = None) -> None:
        self.texts: list[str] = []
        self.shown = [] if shown is None else shown
        super().__init__(home, tell=self.texts.append)

    def show_signers(self, envelope: bytes) -> int:
        self.shown.append(envelope)
        return 4


@pytest.fixture
def log(world: World, monkeypatch: pytest.MonkeyPatch) -> WorldLog:
    log = WorldLog(world, judging=True)
    monkeypatch.setattr(desk, "LogClient", lambda url: log)
    monkeypatch.setattr(MachineClock, "wall", staticmethod(lambda: world.now))
    return log


def home(folder: Path, world: World, party: str = "alpha", *, knows: bool = True) -> Home:
    """A party's home, which has said all that the world's log holds of it, unless it `knows` nothing of that."""
    path = folder / party
    if not path.exists():
        save_key(path / "keys" / "statement.pem", key(party), None)
        (path / "party").write_text(f"{party}\n")
        (path / "treaty.toml").write_bytes(world.treaty.text)
        if knows:
            with closing(Outbox(path, world.treaty, party, key(party), lambda: world.now)) as box:
                box.take_back(enumerate(world.entries))
    return Home(path)


def trip(reason: str = "x", epoch: int = 0) -> Vote:
    return Vote(motion="trip", epoch=epoch, reason=reason)


def test_saying_it_is_seeing_what_it_did(folder: Path, world: World, log: WorldLog) -> None:
    world.bind()
    alpha = Told(home(folder, world))
    effect = alpha.say("vote", trip())
    assert world.entries[effect.entry] == effect.data
    assert effect.digest == open_envelope(effect.data).digest
    (entered,) = [e for e in effect.events if isinstance(e, Entered)]
    assert (entered.issuer, entered.kind, entered.digest) == ("alpha", "vote", effect.digest)
    assert alpha.state.phase is Phase.CLEAR
    assert Told(home(folder, world, "beta")).say("vote", trip()).events[-1] == world.events[-1]
    assert world.state.epoch == 1


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("vote", {"motion": "trip", "epoch": 7, "reason": "another epoch"}, Reason.REPLAYED),
        ("audit", {"no": "audit"}, Reason.MALFORMED),
        ("pledge", Pledge(condition="group a all beta gamma\nquorum a\n"), Reason.PROHIBITED),
    ],
)
def test_what_has_no_effect_is_refused_with_the_folds_reason(
    folder: Path, world: World, log: WorldLog, kind: str, body: object, reason: Reason
) -> None:
    """house/pledge_no_effect: it is in the log, and nobody says that it did what it did not do."""
    world.bind()
    alpha = Told(home(folder, world))
    with pytest.raises(Refused, match="has no effect") as e:
        alpha.say(kind, body)
    assert e.value.reason is reason
    assert f"entry {len(world.entries) - 1} " in str(e.value)


def test_an_outage_loses_nothing(folder: Path, world: World, log: WorldLog) -> None:
    """log/b_outage_cli, log/b_outage_loses_statements. Votes of an hour without the log count once it is back."""
    world.bind()
    alpha, beta = (Told(home(folder, world, p)) for p in ("alpha", "beta"))
    alpha.follower.update()
    log.away = True
    for when in (40, 3600):
        world.now += when
        with pytest.raises(Unavailable, match="out of reach") as e:
            alpha.say("vote", trip(f"after {when} s"))
        assert "kept" in e.value.hint
    assert bodies(alpha.shown) == ["after 40 s", "after 3600 s"]
    log.away = False
    world.stamp()  # what a log does first when it is back
    alpha.catch_up()
    assert alpha.outbox.pending() == []
    assert views_trip(world) == {"alpha"}
    beta.say("vote", trip())
    assert world.phase in (Phase.TRIPPED, Phase.PAUSED)


def views_trip(world: World) -> set[str]:
    return set(world.state.ballot.trip)


def test_a_log_whose_stamp_is_old_takes_it_later(folder: Path, world: World, log: WorldLog) -> None:
    """log/b_heartbeat_over_30s: too early is not never."""
    world.bind()
    alpha = Told(home(folder, world))
    world.now += world.treaty.skew + 1
    with pytest.raises(Unavailable, match="the log takes it later: not valid before") as e:
        alpha.say("vote", trip())
    assert "kept" in e.value.hint
    world.stamp(0)
    alpha.catch_up()
    assert views_trip(world) == {"alpha"}


def test_what_waits_and_what_was_refused_is_told(folder: Path, world: World, log: WorldLog) -> None:
    world.bind()
    alpha = Told(home(folder, world))
    alpha.outbox.write("reading", {"forged": True}, lifetime=5)
    world.stamp(10)
    alpha.say("vote", trip())  # an expired statement of another lane neither stops it nor goes unmentioned
    assert any("another statement was refused: expired" in t for t in alpha.texts)
    alpha.outbox.write("reading", {"forged": True}, lifetime=5)
    world.stamp(10)
    alpha.catch_up()
    assert any(t.startswith("a statement was refused: expired") for t in alpha.texts)


def test_the_effect_is_that_of_what_was_signed_anew(folder: Path, world: World, log: WorldLog) -> None:
    """A lab takes its run's id from it."""
    world.bind()
    world.log("alpha", "vote", {**BODY, "reason": "of a copy"}, seq=7)
    alpha = Told(home(folder, world, knows=False))
    log.away = True
    with pytest.raises(Unavailable):
        alpha.say("vote", trip("mine"))
    log.away = False
    effect = alpha.say("vote", trip("mine, too"))
    assert [s.seq for s in map(_statement, world.entries) if s and s.issuer == "alpha"][-2:] == [9, 10]
    assert effect.digest == open_envelope(world.entries[effect.entry]).digest == open_envelope(effect.data).digest
    assert world.state.members.by_name["alpha"].equivocated == -1


def test_a_restored_home_goes_on_behind_the_log_and_says_so(folder: Path, world: World, log: WorldLog) -> None:
    """operator/copy_equivocates: one command from yesterday's copy must not void a party's word for ever."""
    world.bind("beta", "gamma", "delta")
    alpha = Told(home(folder, world))
    alpha.say("assent", Assent(text=world.treaty.digest, articles=articles_digest(world.treaty)))
    alpha.outbox.write("pledge", Pledge(condition="quorum none\n"))  # signed, and not sent
    alpha.outbox.close()
    shutil.copytree(folder / "alpha", folder / "copy")
    alpha = Told(home(folder, world))
    alpha.say("pledge", Pledge(condition="quorum none\n"))
    for i in range(3):
        alpha.say("vote", trip(str(i)))
    assert alpha.texts == ["shown to 4 permit signers"] * 3
    restored = Told(Home(folder / "copy"))
    assert restored.outbox.newest("brake") == 1
    assert restored.say("vote", trip("from the copy")).entry
    assert any("it is an old copy, or another one speaks" in t for t in restored.texts)
    assert world.state.members.equivocators == frozenset()
    # And the first home, in turn, goes on behind the second.
    assert alpha.say("vote", trip("again")).entry
    assert world.state.members.equivocators == frozenset()
    # The brake does not wait for people to find out which home is the right one; all else does.
    for one in (alpha, restored):
        given = one.outbox.newest("rest")
        with pytest.raises(Refused, match="this home never gave") as e:
            one.say("notice", Notice(about=-1, text="who am I?"))
        assert (e.value.reason, e.value.later) == (Reason.EQUIVOCATION, True)
        assert one.outbox.newest("rest") == given, "found before it was signed"
    numbers = [s.seq for s in map(_statement, world.entries) if s and s.issuer == "alpha"]
    assert numbers == sorted(set(numbers))


def test_a_home_that_is_a_copy_takes_back_what_the_log_holds_of_it(folder: Path, world: World, log: WorldLog) -> None:
    """And what waits in it under a number that the log gave to something else is said anew, once."""
    world.bind()
    alpha = Told(home(folder, world))
    alpha.outbox.write("notice", Notice(about=-1, text="waiting"))
    alpha.outbox.close()
    shutil.copytree(folder / "alpha", folder / "copy")
    other = Told(Home(folder / "alpha"))
    other.outbox.write("notice", Notice(about=-1, text="of the other"))
    other.catch_up()  # "waiting" goes, too
    log.away = True
    (folder / "copy" / RESTORED).touch()
    copy = Told(Home(folder / "copy"))
    with pytest.raises(Unavailable, match="says nothing before it has read the log"):
        copy.say("notice", Notice(about=-1, text="too early"))
    with pytest.raises(Unavailable):
        copy.outbox.flush(log.add_verified)
    log.away = False
    assert copy.say("notice", Notice(about=-1, text="after")).entry == len(world.entries) - 1
    assert copy.texts == ["this home is a copy: it took back two statements from the log"]
    assert not copy.outbox.restored
    assert copy.outbox.pending() == []
    texts = [s.body["text"] for s in map(_statement, world.entries) if s and "text" in s.body and s.issuer == "alpha"]
    assert texts[-3:] == ["waiting", "of the other", "after"]
    assert world.state.members.equivocators == frozenset()


@pytest.mark.parametrize("restored", [False, True])
def test_a_copy_that_cannot_see_what_was_shown_to_others_votes_far_behind_it(
    restored: bool, folder: Path, world: World, log: WorldLog
) -> None:
    """The log is away, and two homes of one party show votes to trip to the permit signers."""
    world.bind()
    alpha = Told(home(folder, world))
    alpha.say("notice", Notice(about=-1, text="hello"))
    shutil.copytree(folder / "alpha", folder / "copy")
    if restored:
        (folder / "copy" / RESTORED).touch()
    log.away = True
    copy = Told(Home(folder / "copy"))
    for one, reason in ((alpha, "the first"), (copy, "the second"), (alpha, "the third"), (copy, "the fourth")):
        with pytest.raises(Unavailable):
            one.say("vote", trip(reason))
        assert one.texts[-1] == "shown to 4 permit signers"
    votes = [open_envelope(data).statement for one in (alpha, copy) for _, _, data in one.outbox.pending()]
    assert len({vote.seq for vote in votes}) == 4
    log.away = False
    for one in (alpha, copy, alpha):
        one.look(soon=False)
    assert world.state.members.equivocators == frozenset()
    assert len(world.state.ballot.trip) == 1


def test_two_homes_that_speak_at_one_moment_do_not_equivocate(folder: Path, world: World, log: WorldLog) -> None:
    """Both have read the log before either speaks: only the log itself can tell the second one."""
    world.bind()
    alpha = Told(home(folder, world))
    alpha.outbox.close()
    shutil.copytree(folder / "alpha", folder / "copy")
    one, two = Told(Home(folder / "alpha")), Told(Home(folder / "copy"))
    one.update()
    two.update()
    two.update = two.follower.update = lambda *a, **b: None  # type: ignore[assignment, method-assign, return-value]
    one.say("notice", Notice(about=-1, text="of the first"))
    with pytest.raises(Unavailable, match="number 0 of alpha's lane rest is taken by another statement"):
        two.say("notice", Notice(about=-1, text="of the second"))
    assert world.state.members.equivocators == frozenset()
    again = Told(Home(folder / "copy"))
    again.catch_up()
    assert any("which this home never gave" in text for text in again.texts)
    (folder / "copy" / RESTORED).touch()
    Told(Home(folder / "copy")).catch_up()
    texts = [s.body["text"] for s in map(_statement, world.entries) if s and "text" in s.body]
    assert texts[-2:] == ["of the first", "of the second"]
    assert world.state.members.equivocators == frozenset()


def test_a_number_that_another_home_used_is_given_up_in_a_copy(folder: Path, world: World) -> None:
    box = outbox(folder, world)
    box.write("vote", {**BODY, "reason": "mine"})
    world.log("alpha", "vote", {**BODY, "reason": "the other"}, seq=0)
    world.log("beta", "vote", BODY, seq=0)
    forged = world.statement("alpha", "vote", {**BODY, "reason": "forged"}, seq=1)
    entries = [*world.entries, forged.replace(b'"sig":"', b'"sig":"AAAA')]
    assert box.take_back(enumerate(entries)) == 1
    assert [(_number(d), open_envelope(d).statement.body["reason"]) for _, _, d in box.pending()] == [(1, "mine")]
    assert box.gave("brake", world.state.members.by_name["alpha"].of("brake"))


def test_a_restored_home_sends_nothing_before_it_has_seen_the_log(folder: Path, world: World, log: WorldLog) -> None:
    """Its number may be the one that the log holds: that is found before anything is sent."""
    world.bind()
    alpha = Told(home(folder, world, knows=False))
    taken = alpha.outbox.newest("brake")
    assert taken == -1  # a home put back from before its first word
    log.away = True
    for reason in ("a", "b", "c"):  # the log holds numbers 0 and 1
        with pytest.raises(Unavailable):
            alpha.say("vote", trip(reason))
    log.away = False
    alpha.catch_up()
    assert world.state.members.equivocators == frozenset()
    assert bodies([e for e in world.entries if e.startswith(b"{")][-3:]) == ["a", "b", "c"]
    assert alpha.outbox.pending() == []


@pytest.mark.parametrize("meanwhile", ["flushes", "writes", "signs"])
def test_another_process_of_the_home_meanwhile(folder: Path, world: World, log: WorldLog, meanwhile: str) -> None:
    """house/vote_race: the trainer of the same home flushes the vote, or writes a head, while signers are shown it."""
    world.bind()
    home(folder, world)  # its outbox is shared
    trainer = outbox(folder / "alpha", world)
    trainer.flush(log.add_verified)

    class Racing(Told):
        def show_signers(self, envelope: bytes) -> int:
            if meanwhile == "flushes":
                trainer.flush(log.add_verified, self.logged)
            else:
                kind = "head" if meanwhile == "writes" else "vote"
                body = {"no": "head"} if kind == "head" else {**BODY, "reason": "of the other"}
                trainer.write(kind, body, after=self.logged(LANES[kind]).seq)
            return 4

    desk_ = Racing(Home(folder / "alpha"))
    effect = desk_.say("vote", trip("mine"))
    assert bodies([world.entries[effect.entry]]) == ["mine"]
    assert desk_.outbox.pending() == []
    assert world.state.members.equivocators == frozenset()


def test_a_log_that_forks_keeps_no_vote_from_the_permit_signers(folder: Path, world: World, log: WorldLog) -> None:
    """Treaty 4.7. The vote is signed and shown, whatever the log shows; nothing else is said on such a log."""
    world.bind()
    alpha = Told(home(folder, world))
    alpha.follower.update()
    world.entries[-1] = world.statement("beta", "vote", {**BODY, "reason": "another history"})
    with pytest.raises(Refused) as e:
        alpha.say("vote", trip("alarm"))
    assert e.value.reason is Reason.EQUIVOCATION
    assert bodies(alpha.shown) == ["alarm"]
    with pytest.raises(Refused):
        alpha.say("pledge", Pledge(condition="quorum none\n"))
    assert [open_envelope(d).kind for _, _, d in alpha.outbox.pending()] == ["vote"]
    assert log.added == []


def test_a_vote_during_an_outage_is_for_the_epoch_last_seen(folder: Path, world: World, log: WorldLog) -> None:
    """A log of few entries: its state is not written down for its size, but it is for its epoch."""
    world.bind()
    for _ in range(2):
        world.vote("trip", "alpha", "beta")
        world.stamp(30)
        world.vote("lift", "alpha", "beta", "gamma")
        world.stamp(30)
    assert (world.phase, world.state.epoch) == (Phase.CLEAR, 2)
    Told(home(folder, world)).follower.update()
    assert world.state.size < client._SAVE_EVERY
    log.away = True
    assert Told(home(folder, world)).state.epoch == 2


def test_a_desk_shows_its_votes_to_every_signer(folder: Path, world: World, log: WorldLog, monkeypatch: Any) -> None:
    """One that is away, one that refuses and one that answers rubbish hide it from nobody else; who refuses is told."""
    asked: list[str] = []
    number = itertools.count(1)
    together = threading.Barrier(4)  # all at once: whoever drips keeps nobody waiting
    refusal = error_response(Refused(Reason.STALE, "this signer has not seen the log yet", later=True))

    def ask(client: object, method: str, url: str, limit: int, *, seconds: float, content: bytes) -> Any:
        asked.append(url)
        assert (method, content, seconds) == ("POST", data, 3.0)
        together.wait(10)
        match next(number):
            case 1:
                raise OSError("no route")
            case 2:
                raise Malformed("answer over 4096 bytes")
            case 3:
                return httpx.Response(refusal.status_code, content=bytes(refusal.body))
        return httpx.Response(204)

    monkeypatch.setattr(desk, "ask", ask)
    texts: list[str] = []
    alpha = Desk(home(folder, world), tell=texts.append)
    data = alpha.outbox.write("vote", trip())
    assert alpha.show_signers(data) == 1
    assert len(asked) == 4
    assert len(texts) == 3
    assert any(t.endswith("permit signer does not hold it: this signer has not seen the log yet") for t in texts)


def test_a_vote_that_the_log_does_not_hold_is_shown_again(folder: Path, world: World, log: WorldLog) -> None:
    """The signers may have been restarted in the outage: they held nothing then. The newest vote is enough."""
    world.bind()
    alpha = Told(home(folder, world))
    log.away = True
    for reason in ("a", "b"):
        with pytest.raises(Unavailable):
            alpha.say("vote", trip(reason))
    again = Told(home(folder, world))
    for _ in range(2):  # not in every turn of a loop
        with pytest.raises(Unavailable):
            again.catch_up()
    assert bodies(again.shown) == ["b"]
    log.away = False
    again.catch_up()
    last = Told(home(folder, world))
    last.catch_up()
    assert last.shown == []


def test_a_log_that_drips_keeps_no_vote_from_the_permit_signers(
    folder: Path, world: World, log: WorldLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the log does, looking at it before the vote ends."""
    world.bind()
    alpha = Told(home(folder, world))
    bounds: list[float] = []

    def checkpoint(**_: Any) -> bytes:
        bounds.append(UNTIL.get() - time.monotonic())
        raise Unavailable("too slow")

    monkeypatch.setattr(log, "checkpoint", checkpoint)
    assert not alpha.look(soon=True)
    with pytest.raises(Unavailable):
        alpha.say("vote", trip("alarm"))
    assert bodies(alpha.shown) == ["alarm"]
    assert max(bounds[:2]) <= desk._LOOKING
    assert alpha.texts[0] == "the log does not answer: too slow"


def test_one_lying_refusal_loses_no_statement(folder: Path, world: World, log: WorldLog) -> None:
    """A log's word that it will never take what this home finds in order is not enough; nothing is sent past it."""
    world.bind()
    alpha = Told(home(folder, world))
    honest = log.add
    log.add = refusing(Reason.FORGED)  # type: ignore[method-assign,assignment]
    with pytest.raises(Unavailable, match="the log refuses what this home finds in order: no") as e:
        alpha.say("vote", trip("mine"))
    assert "kept" in e.value.hint
    assert len(alpha.outbox.pending()) == 1
    log.add = honest  # type: ignore[method-assign]
    alpha.outbox.write("vote", {"motion": "trip"}, lifetime=5)
    world.stamp(10)
    alpha.catch_up()
    assert views_trip(world) == {"alpha"}
    assert alpha.outbox.pending() == [], "what its own state refuses, too, is given up"


def test_a_log_that_refuses_what_it_has_taken_loses_no_statement(folder: Path, world: World, log: WorldLog) -> None:
    """This home's own state has it already, and would refuse it as well: that is no reason to give it up."""
    world.bind()
    alpha = Told(home(folder, world))
    honest = log.add

    def take_and_refuse(entry: bytes) -> bytes:
        honest(entry)
        raise Refused(Reason.UNKNOWN_ISSUER, "no party says this")

    log.add = take_and_refuse  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="the log refuses what it holds"):
        alpha.say("vote", trip("mine"))
    assert views_trip(world) == {"alpha"}
    log.add = honest  # type: ignore[method-assign]
    alpha.catch_up()
    assert alpha.outbox.pending() == []
    assert len(log.added) == 2


def test_a_log_that_lies_about_itself_loses_no_statement(folder: Path, world: World, log: WorldLog) -> None:
    world.bind()
    alpha = Told(home(folder, world))
    alpha.follower.update()
    old, log.add = world.checkpoint(), refusing(Reason.EXPIRED)  # type: ignore[method-assign,assignment]
    alpha.outbox.write("vote", trip())
    world.stamp()
    alpha.follower.update()
    log.note = old
    with pytest.raises(Refused) as e:
        alpha.outbox.flush(alpha.add, alpha.logged)
    assert e.value.later
    assert len(alpha.outbox.pending()) == 1


def test_a_junk_proof_says_that_the_statement_is_kept(folder: Path, world: World, log: WorldLog) -> None:
    world.bind()
    alpha = Told(home(folder, world))
    log.add = lambda entry: b"junk"  # type: ignore[method-assign]
    with pytest.raises(Malformed, match="the log's proof is none") as e:
        alpha.say("vote", trip())
    assert "signed and kept" in e.value.hint


def test_a_proved_entry_that_is_not_shown_is_not_waited_for_for_ever(
    folder: Path, world: World, log: WorldLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.bind()
    alpha = Told(home(folder, world))
    clock = itertools.count(0.0, 10.0)
    monkeypatch.setattr(MachineClock, "monotonic", staticmethod(lambda: next(clock)))
    monkeypatch.setattr(client, "_PACE", 0.0)
    log.note = world.checkpoint()
    with pytest.raises(Unavailable, match=r"the log proved entry \d+ and does not show it"):
        alpha.say("vote", trip())


def test_what_was_kept_and_has_no_effect_is_told_once(folder: Path, world: World, log: WorldLog) -> None:
    """A vote kept in an outage, for an epoch that was over when the log came back."""
    world.bind()
    alpha = Told(home(folder, world))
    alpha.follower.update()
    log.away = True
    with pytest.raises(Unavailable):
        alpha.say("vote", trip("the log is down"))
    log.away = False
    world.vote("trip", "beta", "gamma")
    later = Told(home(folder, world))
    later.catch_up()
    entry = len(world.entries) - 1
    said = f"what was kept, entry {entry}, has no effect: vote for epoch 0; the brake is in epoch 1"
    assert later.texts.count(said) == 1
    again = Told(home(folder, world))
    again.catch_up()
    with pytest.raises(Refused, match="has no effect"):  # what is said now is told by itself, and not once more
        again.say("vote", trip("still"))
    again.catch_up()
    assert not any(t.startswith("what was kept") for t in again.texts)


def test_an_effect_that_is_not_known_is_not_taken_for_none(box: Outbox, folder: Path, world: World) -> None:
    """Another process of this home has folded it; a later one may still tell. It is asked for once a process."""
    asked: list[int] = []
    box.write("vote", BODY)
    box.flush(lambda entry: 7)

    def unknown(index: int) -> tuple[Event, ...]:
        asked.append(index)
        return ()

    for _ in range(3):
        assert box.review(unknown, 8, lambda _: Last()) == ()
    assert asked == [7]
    void = Void(entry=7, kind="vote", issuer="alpha", reason=Reason.REPLAYED, text="of another epoch")
    with closing(outbox(folder, world)) as again:
        assert again.review(lambda _: (void,), 8, lambda _: Last()) == (void,)
        assert again.review(lambda _: (void,), 8, lambda _: Last()) == ()


# ---- a lab's heads ----


class Waits:
    """Stands in for an event that is waited on: no test sleeps."""

    def __init__(self) -> None:
        self.waits: deque[float] = deque()
        self.then: Callable[[], None] = lambda: None

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.then()


def test_heads_that_the_log_takes_later_are_sent_later(folder: Path, world: World, log: WorldLog) -> None:
    """A lab's thread neither drops nor forgets what is refused for now, though no further head comes."""
    world.bind()
    run = world.declare("alpha")
    lab = Lab(home(folder, world))
    waits = Waits()
    lab._pause = waits  # type: ignore[assignment]
    waits.then = lambda: world.stamp(0) and None  # type: ignore[func-returns-value]
    world.now += world.treaty.skew + 5
    done = threading.Event()
    lab.outbox.flush, flush = (lambda *a: (flush(*a), done.set())[0]), lab.outbox.flush  # type: ignore[method-assign]
    lab.commit(world.head_of(run, "opened"))
    assert done.wait(20)
    assert run.head is not None
    assert list(waits.waits) == [1.0]


@pytest.mark.parametrize("trouble", ["rollback", "refusal"])
def test_a_lab_neither_spins_nor_repeats_itself(folder: Path, world: World, log: WorldLog, trouble: str) -> None:
    """A log that shows less than before is no log that refused a head."""
    world.bind()
    run = world.declare("alpha")
    old = world.checkpoint()
    world.stamp()
    texts: list[str] = []
    lab = Lab(home(folder, world), tell=texts.append)
    lab.follower.update()
    enough, over = threading.Event(), threading.Event()
    waits = Waits()
    lab._pause = waits  # type: ignore[assignment]

    def then() -> None:
        if len(waits.waits) == 5:
            enough.set()
            over.wait(20)

    waits.then = then
    if trouble == "rollback":
        log.note = old
    else:
        log.add = refusing(Reason.FORGED)  # type: ignore[method-assign,assignment]
    lab.commit(world.head_of(run, "opened"))
    assert enough.wait(20)
    assert set(waits.waits) == {1.0}
    assert len(texts) == 1
    assert texts[0].startswith("heads wait for the log: ")
    over.set()
    log.away = True

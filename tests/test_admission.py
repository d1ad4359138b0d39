"""What a log takes: what the fold will not void for its number, its date or its budget, by what waits before it."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.core.admission import Admission
from brakeline.core.encoding import b64encode, canonical
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.evidence import Evidence
from brakeline.core.snapshot import pack, unpack
from brakeline.core.state import apply, begin
from brakeline.core.state import events as ev
from brakeline.core.state.codec import decode, digest, encode
from brakeline.core.statement import seal
from brakeline.node import disk, judge
from brakeline.node.admission import Place, Terms
from brakeline.node.judge import LogJudge
from brakeline.node.logserver import app
from brakeline.node.logstore import LogStore
from succession import NOTICE, adopted, next_text, succeeding
from test_logstore import in_memory
from world import DAY, World, key, log_key, treaty

BRAKE, RUNS, REST = (
    ("vote", {"motion": "trip", "epoch": 0, "reason": "x"}),
    ("head", {"no": "head"}),
    ("request", {"party": "beta", "text": "how is it going?"}),
)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as path:
        yield path


@pytest.fixture
def world() -> World:
    world = World(**{"budget.brake": "16", "budget.rest": "16", "budget.runs": "40", "budget.bytes": '"1 MiB"'})
    world.bind()
    world.stamp(DAY)  # a fresh day
    return world


@pytest.fixture
def admission(world: World) -> Admission:
    return Admission(world.state)


def said(world: World, party: str = "alpha", lane: tuple[str, Any] = BRAKE, /, **changes: Any) -> bytes:
    return world.statement(party, *lane, **changes)


def refused(admission: Admission, entry: bytes) -> Refused:
    with pytest.raises(Refused) as e:
        admission.admit(entry)
    return e.value


def take(admission: Admission, *entries: bytes) -> None:
    for _ in admission.taken(entries):
        pass


# ---- who and where ----


def test_where_it_queues(world: World, admission: Admission) -> None:
    assert admission.parties == 4
    assert admission.admit(said(world)) == ("alpha", True)
    assert admission.admit(said(world, "beta", RUNS)) == ("beta", False)
    assert admission.admit(said(world, "gamma", REST)) == ("gamma", False)
    evidence = Evidence(first="a", second="b")
    assert admission.admit(said(world, "delta", ("evidence", evidence))) == ("delta", True)
    assert admission.admit(said(world, "delta", ("kind-of-later-rules", {}))) == ("delta", False)


def test_what_is_no_partys_statement_costs_nothing_and_is_not_taken(world: World, admission: Admission) -> None:
    good = said(world)
    for entry, reason in (
        (said(world, by=key("beta")), Reason.FORGED),
        (said(world, issuer="beta"), Reason.FORGED),
        (said(world, by=key("stranger")), Reason.UNKNOWN_ISSUER),
        (said(world, treaty="0" * 64), Reason.FOREIGN),
    ):
        assert refused(admission, entry).reason is reason
    for entry in (b"{}", good[:-1], good + b"\n", said(world, seq=2**53 - 1), said(world, expires=world.now - 1)):
        with pytest.raises((Malformed, Refused)):
            admission.admit(entry)
    assert admission.admit(good)


# ---- dates ----


@pytest.mark.parametrize(
    ("changes", "reason", "later"),
    [
        ({"not_before": 91, "expires": DAY}, Reason.NOT_YET_VALID, True),
        ({"not_before": -8 * DAY, "expires": DAY}, Reason.EXPIRED, False),
        ({"not_before": -DAY, "expires": 0}, Reason.EXPIRED, False),
    ],
)
def test_dates(changes: dict[str, int], reason: Reason, later: bool) -> None:
    """Relative to the log's time. Too early is kept by whoever sent it; too late is signed anew."""
    world = World(**{"log.heartbeat": '"60 s"', "log.stale_after": '"300 s"', "permit.lifetime": '"600 s"'})
    admission = Admission(world.state)
    dates = {k: world.now + v for k, v in changes.items()}
    e = refused(admission, said(world, **dates))
    assert (e.reason, e.later) == (reason, later)
    outcome = world.append(said(world, **dates))
    assert outcome.reason is reason, "and the fold would say the same"
    # Its number was not spent by being refused.
    assert Admission(world.state).admit(said(world, seq=7))


def test_a_log_without_a_stamp_takes_it_later(world: World) -> None:
    e = refused(Admission(begin(world.treaty)), said(world))
    assert (e.reason, e.later) == (Reason.NOT_YET_VALID, True)


def test_a_long_heartbeat_refuses_no_honest_statement() -> None:
    """log/b_heartbeat_over_30s: honest clocks may be ahead by a whole heartbeat."""
    world = World(**{"log.heartbeat": '"120 s"', "log.stale_after": '"300 s"', "permit.lifetime": '"600 s"'})
    assert Admission(world.state).admit(said(world, not_before=world.now + 120 + 30))
    assert refused(Admission(world.state), said(world, not_before=world.now + 151)).later


# ---- numbers, by what waits ----


def test_what_waits_has_its_number(world: World, admission: Admission) -> None:
    first, second = said(world), said(world)
    admission.admit(second)
    e = refused(admission, first)
    assert (e.reason, e.later) == (Reason.REPLAYED, False)
    admission.dropped(second)
    assert admission.admit(first) == ("alpha", True)
    assert admission.admit(second) == ("alpha", True)
    take(admission, first, second)
    assert refused(admission, first).reason is Reason.REPLAYED


def test_lanes_count_apart(world: World, admission: Admission) -> None:
    entries = [said(world, "alpha", lane) for lane in (BRAKE, RUNS, REST)]
    assert len(set(entries)) == 3
    for entry in reversed(entries):
        admission.admit(entry)
    take(admission, *entries)
    assert [e for e in admission.state.members.by_name["alpha"].last if e.seq >= 0]


def test_numbers_may_jump(world: World, admission: Admission) -> None:
    """A home that was put back from a copy goes on behind what it may have forgotten."""
    assert admission.admit(said(world, seq=10**6))
    assert admission.admit(said(world, seq=2**53 - 2))


def test_two_of_one_number_are_both_taken(world: World, admission: Admission) -> None:
    """They are evidence: whoever refused the second would hide an equivocation."""
    one = said(world, seq=50)
    two = said(world, "alpha", ("vote", {"motion": "lift", "epoch": 0, "reason": "x"}), seq=50)
    for entry in (one, two):
        assert admission.admit(entry) == ("alpha", True)
    take(admission, one, two)
    assert admission.state.members.equivocators == {"alpha"}


@pytest.mark.parametrize("logged", [0, 1, 2])
def test_a_third_of_one_number_proves_nothing_more(world: World, admission: Admission, logged: int) -> None:
    """And is not charged: without an end to it a party that has nothing left to lose fills the log for nothing."""
    entries = [said(world, "alpha", ("vote", {**BRAKE[1], "reason": str(i)}), seq=50) for i in range(40)]
    for entry in entries[:2]:
        admission.admit(entry)
    take(admission, *entries[:logged])
    for entry in entries[2:]:
        assert refused(admission, entry).reason is Reason.EQUIVOCATION
    # Of what waits, the second is dropped: then another may take its place.
    if logged == 0:
        admission.dropped(entries[1])
        assert admission.admit(entries[5])
    # Its duties go on, and so does its word about them.
    assert admission.admit(said(world, "alpha", RUNS))


def test_one_statement_under_many_signatures_is_taken_once(world: World, admission: Admission) -> None:
    """Ed25519 signatures can be made anew without end by whoever holds the key; each would be an entry, uncharged."""
    entry = said(world)
    admission.admit(entry)
    e = refused(admission, resigned(entry))
    assert (e.reason, e.later) == (Reason.DUPLICATE, False)
    take(admission, entry)
    assert refused(admission, resigned(entry)).reason is Reason.DUPLICATE
    assert world.append(entry).reason is None
    assert world.append(resigned(entry)).reason is Reason.DUPLICATE


def resigned(entry: bytes) -> bytes:
    """The statement under another valid signature of the same key, made with another nonce (RFC 8032 §5.1.6)."""
    from brakeline.core.statement import open_envelope, pae

    envelope = open_envelope(entry)
    message = pae(envelope.kind, envelope.payload)
    ((keyid, _),) = envelope.signatures
    signature = _sign(key("alpha").seed, message, nonce=12345)
    assert key("alpha").public.verify(signature, message)
    again = seal(envelope.kind, envelope.payload, [(keyid, signature)])
    assert again != entry
    return again


_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_BASE = (
    15112221349535400772501151409588531511454012693041857206046113283949847762202,
    46316835694926478169428394003475163141307993866256225615783033603165251855960,
)


def _add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    (x1, y1), (x2, y2) = a, b
    t = _D * x1 * x2 * y1 * y2
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, _P) % _P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, _P) % _P


def _times(n: int) -> bytes:
    found, point = (0, 1), _BASE
    while n:
        if n & 1:
            found = _add(found, point)
        point, n = _add(point, point), n >> 1
    return (found[1] | (found[0] & 1) << 255).to_bytes(32, "little")


def _sign(seed: bytes, message: bytes, nonce: int) -> bytes:
    from hashlib import sha512

    h = sha512(seed).digest()
    a = (int.from_bytes(h[:32], "little") & ((1 << 254) - 8)) | 1 << 254
    public, r = _times(a), _times(nonce)
    k = int.from_bytes(sha512(r + public + message).digest(), "little")
    return r + ((nonce + k * a) % _L).to_bytes(32, "little")


# ---- budgets, by what waits ----


def test_what_waits_is_charged_and_what_is_dropped_given_back(world: World, admission: Admission) -> None:
    entries = [said(world) for _ in range(17)]
    for entry in entries[:16]:
        admission.admit(entry)
    e = refused(admission, entries[16])
    assert (e.reason, e.later) == (Reason.BUDGET, True)
    admission.dropped(entries[15])
    assert admission.admit(entries[16])
    admission.admit(said(world, "alpha", RUNS))  # another lane is another budget
    admission.admit(said(world, "beta"))  # and another party's
    take(admission, *entries[:15])
    assert refused(admission, said(world)).reason is Reason.BUDGET
    take(admission, entries[16])
    assert refused(admission, said(world)).reason is Reason.BUDGET
    for entry in (*entries[:15], entries[16]):
        assert world.append(entry).reason is None
    assert world.append(said(world)).reason is Reason.BUDGET


def test_what_is_dropped_twice_or_was_never_there_gives_nothing_back(world: World, admission: Admission) -> None:
    entries = [said(world) for _ in range(17)]
    for entry in entries[:16]:
        admission.admit(entry)
    take(admission, entries[0])
    for entry in (entries[0], entries[16], b"{}"):
        admission.dropped(entry)
    assert refused(admission, entries[16]).reason is Reason.BUDGET


def test_bytes_count_too_but_not_against_the_brake(world: World, admission: Admission) -> None:
    entries = [said(world, "alpha", ("head", {"text": "x" * 40_000})) for _ in range(40)]
    fit = 2**20 // len(entries[0])
    assert 10 < fit < 40
    for entry in entries[:fit]:
        admission.admit(entry)
    e = refused(admission, entries[fit])
    assert (e.reason, e.later) == (Reason.BUDGET, True)
    assert admission.admit(said(world))
    admission.dropped(entries[3])
    assert admission.admit(entries[fit])


def test_yesterdays_budget_is_yesterdays(world: World, admission: Admission) -> None:
    for _ in range(16):
        admission.admit(said(world))
    assert refused(admission, said(world)).reason is Reason.BUDGET
    assert admission.admit(said(world, not_before=world.now - DAY))


def test_dropping_a_crowd_is_cheap(world: World) -> None:
    """A thousand submitters hang up: what each costs must not grow with how many wait."""
    world = World()
    world.bind()
    admission = Admission(world.state)
    entries = [said(world, "alpha", REST) for _ in range(1024)]

    def cost(act: Callable[[bytes], object]) -> float:
        began = time.process_time()
        for entry in entries:
            act(entry)
        return time.process_time() - began

    admitting = cost(admission.admit)
    assert cost(admission.dropped) < admitting
    assert admission.admit(entries[0])


# ---- it judges as the fold does ----


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["alpha", "alpha", "beta"]),
            st.sampled_from([0, 1, 2]),  # lane
            st.integers(0, 6),  # seq
            st.integers(0, 2),  # which of several statements of that number
            st.sampled_from([0, 0, 0, -3 * DAY, -8 * DAY, 20, 100]),  # date
            st.sampled_from(["admit", "admit", "admit", "drop", "take", "take all"]),
        ),
        max_size=25,
    )
)
def test_what_is_taken_is_not_void_for_its_number_date_or_budget(
    history: list[tuple[str, int, int, int, int, str]],
) -> None:
    """Whatever comes, waits, is dropped and is logged, as long as each party's lane is logged in its order.

    Alpha is honest: no two of its statements bear one number. Of beta's the second of a number is void, once in all.
    """
    world, admission = bare(), Admission(BARE)
    waiting: list[bytes] = []
    honest: dict[tuple[int, int], bytes] = {}
    proofs = 0

    def log(entries: list[bytes]) -> None:
        nonlocal proofs
        for entry in entries:
            waiting.remove(entry)
            outcome = world.append(entry)
            proofs += any(isinstance(e, ev.Equivocated) for e in outcome.events)
            if outcome.issuer == "alpha":
                assert not any(isinstance(e, ev.Void) and e.unjudged for e in outcome.events), outcome.text
                assert outcome.reason not in (Reason.DUPLICATE, Reason.EQUIVOCATION)
        take(admission, *entries)
        assert admission.state.size == world.state.size

    for party, lane, seq, version, date, then in history:
        kind, body = (BRAKE, RUNS, REST)[lane]
        dates = {"not_before": world.now + date, "expires": world.now + 30 * DAY}
        entry = world.statement(party, kind, {**body, "n": version}, seq=seq, **dates)
        if party == "alpha":
            entry = honest.setdefault((lane, seq), entry)
        if entry not in waiting and entry not in world.entries:
            with suppress(Refused):
                admission.admit(entry)
                waiting.append(entry)
        if then == "drop" and waiting:
            admission.dropped(waiting.pop(version % len(waiting)))
        elif then == "take" and waiting:
            log(waiting[:1])
        elif then == "take all":
            log(list(waiting))
    log(list(waiting))
    assert proofs <= 1
    assert digest(admission.state) == digest(world.state)


def bare() -> World:
    return World(**{"budget.brake": "16", "budget.rest": "16", "budget.runs": "40", "budget.bytes": '"1 MiB"'})


BARE = bare().state


# ---- the judge of a real store ----


def store_of(world: World, path: Path) -> LogStore:
    store = LogStore(path, log_key("delta").name)
    if world.entries[store.size :]:
        store.append(world.entries[store.size :])
    return store


def small(every: int = 16, **changes: str) -> World:
    world = World(**{"log.snapshot_every": str(every)}, **changes)
    world.bind()
    while world.state.size % every != 3:
        world.stamp()
    return world


def test_a_judge_follows_its_store(tmp_path: Path) -> None:
    world = small()
    with store_of(world, tmp_path / "log") as store:
        mine = LogJudge(world.treaty, store, tmp_path / "state")
        assert mine.parties == 4
        entry = said(world)
        assert mine.admit(entry) == Place("alpha", True)
        mine.dropped(entry)
        assert mine.admit(entry) == Place("alpha", True)
        store.append([entry])
        mine.taken([entry])
        world.append(entry)
        assert digest(mine._admission.state) == digest(world.state)
        with pytest.raises(Refused):
            mine.admit(said(world, seq=0))


def test_a_judge_offers_the_state_where_signers_state_it(tmp_path: Path) -> None:
    world = small()
    with store_of(world, tmp_path / "log") as store:
        mine = LogJudge(world.treaty, store, tmp_path / "state")
        size = world.state.size // 16 * 16
        state = begin(world.treaty)
        for entry in world.entries[:size]:
            state, _ = apply(state, entry)
        assert mine.offered() == pack(encode(state))
        new = [said(world, "alpha", REST) for _ in range(40)]
        store.append(new)
        mine.taken(new)
        for entry in new:
            world.append(entry)
            state = world.state if world.state.size % 16 == 0 else state
        assert mine.offered() == pack(encode(state)), "the newest that is due"


def test_a_judge_without_a_state_offers_none(tmp_path: Path) -> None:
    world = World()
    with store_of(world, tmp_path / "log") as store:
        assert LogJudge(world.treaty, store, tmp_path / "state").offered() is None


@pytest.mark.parametrize("damage", ["torn", "junk", "foreign", "ahead", "another log", "gone"])
def test_a_judge_trusts_its_state_no_further_than_its_store(tmp_path: Path, damage: str) -> None:
    world = small()
    file = tmp_path / "state"
    with store_of(world, tmp_path / "log") as store:
        LogJudge(world.treaty, store, file)
    whole = file.read_bytes()
    other = small()
    other.vote("trip", "gamma")
    while other.state.size % 16:
        other.stamp()
    match damage:
        case "torn":
            file.write_bytes(whole[: len(whole) // 2])
        case "junk":
            file.write_bytes(b"junk")
        case "foreign":
            file.write_bytes(pack(encode(begin(treaty(lift_delay='"9 s"')))))
        case "ahead" | "another log":
            assert other.state.size > world.state.size
            file.write_bytes(pack(encode(other.state)))
            if damage == "another log":
                while world.state.size < other.state.size:
                    world.stamp()
        case "gone":
            file.unlink()
    with store_of(world, tmp_path / "log") as store:
        mine = LogJudge(world.treaty, store, file)
        assert digest(mine._admission.state) == digest(world.state)


def test_a_full_disk_does_not_stop_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state it keeps is a convenience; what the log holds it must follow to the entry."""
    world = small()
    with store_of(world, tmp_path / "log") as store:
        mine = LogJudge(world.treaty, store, tmp_path / "state")
        before = mine.offered()

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        new = [said(world, "alpha", REST) for _ in range(20)]
        store.append(new)
        with monkeypatch.context() as context:
            context.setattr(disk, "replace_file", full)
            mine.taken(new)
        for entry in new:
            world.append(entry)
        assert digest(mine._admission.state) == digest(world.state)
        assert mine.offered() == before
        more = [said(world, "alpha", REST) for _ in range(16)]
        store.append(more)
        mine.taken(more)
        assert mine.offered() != before


class Counted:
    """Counts how many entries are folded, whoever folds them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0

        def counted(state: Any, entry: bytes) -> Any:
            self.count += 1
            return apply(state, entry)

        monkeypatch.setattr("brakeline.core.admission.apply", counted)


def test_a_log_of_twenty_thousand_entries_opens_from_its_own_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """house/first_add, log/e1: nothing is folded again, neither on opening nor on the event loop by whoever asks first.

    The entries are not statements, so that making them costs no signatures: the fold takes each as void.
    """
    world = World()  # a state is due every thousand entries
    world.bind()
    size, rubbish = 20_050, len(world.entries)
    counted = Counted(monkeypatch)
    with LogStore(tmp_path / "log", log_key("delta").name) as store:
        store.append(world.entries)
        for start in range(rubbish, size, 5000):
            store.append([b"{%d" % i for i in range(start, min(start + 5000, size))])
        LogJudge(world.treaty, store, tmp_path / "state")
        assert counted.count == size
        counted.count = 0
        mine = LogJudge(world.treaty, store, tmp_path / "state")
        assert counted.count == size % 1000
        assert mine._admission.state.size == size
        counted.count = 0
        costs = []
        for _ in range(3):
            entry = said(world)
            began = time.process_time()
            mine.admit(entry)
            costs.append(time.process_time() - began)
        assert counted.count == 0
        assert costs[0] < 50 * max(costs[1:])


def test_reading_the_offered_state_is_off_the_event_loop(tmp_path: Path) -> None:
    """`GET /snapshot` reads a file: it is read in a thread, and 404 before there is one."""
    import threading

    import httpx

    from brakeline.node.sequencer import Sequencer

    world = World()
    seen: list[str] = []
    found: list[bytes | None] = [None, b"state"]

    def offered() -> bytes | None:
        seen.append(threading.current_thread().name)
        return found.pop(0)

    async def ask() -> list[httpx.Response]:
        with store_of(world, tmp_path / "log") as store:
            admission = LogJudge(world.treaty, store, tmp_path / "state")
            sequencer = Sequencer(store, key("delta", "log"), admission, lambda: world.now)
            transport = httpx.ASGITransport(app(sequencer, offered))
            async with httpx.AsyncClient(transport=transport, base_url="http://log") as web:
                return [await web.get("/snapshot") for _ in range(2)]

    first, second = asyncio.run(ask())
    assert (first.status_code, second.status_code, second.content) == (404, 200, b"state")
    assert threading.main_thread().name not in seen


# ---- what it costs whoever asks without a key (log/c_unauth_cost) ----


def test_a_stranger_makes_nobody_work(world: World, admission: Admission) -> None:
    """What is not signed is not parsed: it costs what its bytes cost to hash, whatever is in it."""

    def envelope(payload: bytes) -> bytes:
        return seal("vote", payload, [("0" * 16, bytes(64))])

    def statement(body: object) -> bytes:
        fields = {"treaty": world.treaty.digest, "issuer": "alpha", "seq": 0, "prev": "0" * 64, "expires": 1}
        return canonical({**fields, "not_before": 0, "body": body})

    deep: dict[str, Any] = {}
    node = deep
    for _ in range(300):
        node["a"] = {}
        node = node["a"]
    bodies: list[Any] = [
        {"a": [0] * 23_000},
        {"a": [[]] * 15_000},
        {f"{i:x}": 0 for i in range(5000)},
        {"a": [5e-324] * 6000},
        {"a": [""] * 15_000},
        {"a": "\x01" * 7000},
        deep,
    ]
    many = b64encode(bytes(64))
    signatures = ",".join(f'{{"keyid":"{i:016x}","sig":"{many}"}}' for i in range(400)).encode()
    hostile = [envelope(statement(body)) for body in bodies]
    hostile.append(envelope(b"")[: envelope(b"").index(b"[") + 1] + signatures + b"]}")

    def cost(entry: bytes, times: int) -> float:
        began = time.process_time()
        for _ in range(times):
            with pytest.raises((Malformed, Refused)):
                admission.admit(entry)
        return (time.process_time() - began) / times

    genuine = said(world, by=key("beta"))  # one signature check, and no more
    unit = min(cost(genuine, 30) for _ in range(3))
    for entry in hostile:
        assert len(entry) <= 65_535
        assert min(cost(entry, 5) for _ in range(3)) < 12 * unit, entry[:80]


def test_the_judge_is_what_the_log_command_uses() -> None:
    """What is tested here is what runs."""
    from brakeline.cli import log

    assert log.LogJudge is judge.LogJudge


def test_a_log_keeps_the_terms_of_the_text_in_force(tmp_path: Path) -> None:
    """Whom it asks, how often it stamps and what it offers follow a turn without a restart. Treaty 6.3, 6.6"""
    world = succeeding(**{"log.heartbeat": '"4 s"', "log.stale_after": '"9 s"'})
    with store_of(world, tmp_path / "log") as store:
        judge_ = LogJudge(world.first, store, tmp_path / "state")
        assert judge_.terms == ((world.treaty.policy,), (), 4, 9)
        quicker = {"log.heartbeat": '"1 s"', "log.snapshot_every": "16"}
        next_ = next_text(world.treaty, drop="gamma", join="epsilon", **quicker)

        def told() -> Terms:
            judge_.taken(world.entries[judge_._admission.state.size :])
            return judge_.terms

        adopted(world, next_)
        assert told() == ((world.first.policy,), (next_.policy,), 4, 9)
        world.stamp(NOTICE)
        assert told() == ((world.first.policy, next_.policy), (), 1, 9)
        world.stamp()
        assert told() == ((next_.policy,), (), 1, 9)
        while world.state.size % 16:
            world.stamp()
        told()
        kept = judge_.offered()
        assert kept is not None
        assert decode(unpack(kept), world.first).size == world.state.size

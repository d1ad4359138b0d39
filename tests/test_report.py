"""The report: facts of a real, verified bundle in; one page out that asks nothing of the network and runs nothing."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("matplotlib")

from brakeline.cli.report import command
from brakeline.core import words
from brakeline.core.brake import Phase
from brakeline.core.bundle import Bundle, Proven, verify_bundle
from brakeline.core.encoding import sha256
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.finding import Fault, Finding
from brakeline.core.state import events as e
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.merkle import root as tree_root
from brakeline.core.transcript import NONE, Head, Leaf
from brakeline.core.treaty import articles_digest, parse_treaty
from brakeline.report import ReportTimes, StopTime, render, write_report
from brakeline.report.drawing import COLOURS
from brakeline.report.figures import duration, utc
from brakeline.report.page import LISTED, PICTURED
from brakeline.report.story import Clock, Story, Told, chronicle
from brakeline.report.strips import accused, audit_strips, clipped
from brakeline.report.timeline import lane
from world import DAY, ENVIRONMENT, LABS, PARTIES, START, STEP_FLOP, Live, Outcome, World, treaty_text

CHEAT = "<script>alert('$x^{$')</script>"
SHA = "5" * 64
TRIP = START + 21.4


def work(world: World, run: Live, steps: int, status: str, drop: float = 30.0) -> None:
    """Record steps whose loss falls as one of a real training does, and log a head."""
    leaves = world.leaves[run.id]
    for s in range(len(leaves), steps + 1):
        loss = 1.7 + 2.6 * math.exp(-s / drop) + 0.09 * math.sin(2.1 * s + len(run.owner))
        state = sha256(run.id.encode(), b"%d" % s)
        leaves.append(Leaf(s, state, sha256(b"batch"), NONE, loss, s * STEP_FLOP))
    assert world.head(run, status).reason is None


def accuse(world: World, inspector: str, run: Live, *bad: tuple[int, int], detail: str = "state differs") -> Outcome:
    """An audit that finds the segments `bad` to be false."""
    findings = tuple(Finding(fault=Fault.REPLAY_MISMATCH, severity="violation", segment=s, detail=detail) for s in bad)
    segments = tuple(sorted({*world.required(inspector, run), *bad}))
    outcome = world.audit(inspector, run, *findings, segments=segments)
    assert outcome.reason is None, outcome.text
    return outcome


def prove(world: World, *runs: Live) -> Proven:
    world.check()
    return verify_bundle(world.bundle(*runs).encode(), treaty_digest=world.treaty.digest)


def story() -> tuple[World, tuple[Live, Live, Live]]:
    """A treaty, three runs (one killed, one a cheat), a trip by votes, audits, a lift, and honest runs that end."""
    world = World()
    for p in PARTIES:
        others = " ".join(x for x in PARTIES if x != p)
        world.bind(p, condition="quorum none\n" if p == "delta" else f"group others 2 {others}\nquorum others\n")
    careful = world.declare("alpha", name="careful", steps=90)
    unlucky = world.declare("beta", name="unlucky", steps=90)
    cheat = world.declare("gamma", name=CHEAT, steps=90)
    runs = (careful, unlucky, cheat)
    for run in runs:
        world.head(run, "opened")
    for step in range(6, 49, 6):
        world.stamp(2)
        work(world, careful, step, "running")
        if step < 24 or step > 30:
            work(world, unlucky, step - 4, "running", 25)
        if step == 30:
            work(world, unlucky, 14, "opened")
        work(world, cheat, step + 2, "running", 18)
    world.vote("trip", "delta")
    world.stamp(2)
    world.vote("trip", "delta", "alpha")
    world.stamp()
    for run, step in zip(runs, (52, 48, 54), strict=True):
        work(world, run, step, "stopped")
    world.stamp()
    for inspector in ("delta", "beta"):
        world.audit(inspector, careful)
    for inspector in ("delta", "alpha"):
        world.audit(inspector, unlucky)
        world.stamp()
        accuse(world, inspector, cheat, (12, 15), (30, 33))
        world.stamp()
    world.vote("lift", "alpha", "beta", "delta")
    world.stamp(2)
    assert world.phase is Phase.CLEAR
    for run in (careful, unlucky):
        work(world, run, len(world.leaves[run.id]) - 1, "opened")
    world.stamp(6)
    work(world, careful, 90, "ended")
    world.stamp(2)
    work(world, unlucky, 90, "ended")
    world.stamp()
    return world, runs


def measured(world: World, *runs: Live, equal: bool | None = True) -> ReportTimes:
    late = zip(runs, ((312.4, 1), (187.6, 0), (641.7, 2)), strict=True)
    stops = tuple(
        StopTime(run.declaration.name, run.owner, h.head.steps, ms, n, n * STEP_FLOP)
        for run, (ms, n) in late
        for h in world.heads(run)
        if h.head.status == "stopped"
    )
    return ReportTimes(TRIP, stops, equal)


@pytest.fixture(scope="module")
def told() -> tuple[World, tuple[Live, Live, Live]]:
    return story()


@pytest.fixture(scope="module")
def proven(told: tuple[World, tuple[Live, Live, Live]]) -> Proven:
    world, runs = told
    return prove(world, *runs)


@pytest.fixture(scope="module")
def times(told: tuple[World, tuple[Live, Live, Live]]) -> ReportTimes:
    world, runs = told
    return measured(world, *runs)


@pytest.fixture(scope="module")
def page(proven: Proven, times: ReportTimes) -> str:
    return render(proven, times)


class Page(HTMLParser):
    """Refuses tags that do not nest; keeps the text, the attributes, and the cells of each table row."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.rows: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "tr" in self.open:
            self.rows[-1] += f" {data.strip()}"

    def row(self, *parts: str) -> str:
        """The one table row that has all of `parts`, spaces evened out."""
        found = [" ".join(row.split()) for row in self.rows if all(p in row for p in parts)]
        assert len(found) == 1, found
        return found[0]


# --- what the page says


def test_the_page_says_what_the_bundle_proves(page: str, proven: Proven) -> None:
    read = Page(page)
    checkpoint = proven.cosigned.checkpoint
    assert "Two votes stopped three training runs in 642 ms" in read.text
    assert f"brakeline verify demo.bundle --sha256 {proven.treaty.digest}" in read.text
    assert f"{checkpoint.size} entries" in read.row("log", checkpoint.root.hex())
    assert "alpha, beta, delta, gamma" in read.row("cosigned")
    assert read.row("an AI safety institute").endswith("yes pledged without condition")
    assert "yes pledged if 2 of beta, gamma, delta are bound: beta, delta and gamma are" in read.row("alpha a lab")
    assert read.row("642 ms").endswith(f"{CHEAT} gamma 54 642 ms 2 2.00e+09 FLOP")
    assert "barred : replay-mismatch at steps 12-15" in read.row("54 of 90", "9.00e+10 FLOP", CHEAT)
    assert "delta: pass up to step 52 beta: pass up to step 52 passed so far" in read.row("careful", "90 of 90")
    for where in ("steps 12 to 15", "steps 30 to 33"):
        assert "delta, alpha upheld" in read.row("replay-mismatch", where, CHEAT)
    for line in (
        "alpha, beta, gamma and delta signed the treaty.",
        "alpha, beta, delta and gamma are bound now.",
        "alpha declared the run “careful”: 90 steps, 9.00e+10 FLOP, in the tier covered.",
        "The brake tripped: votes of alpha, delta. Every covered run must stop.",
        "“unlucky” broke off without a word and went on from step 14.",
        "“careful” stopped at step 52.",
        "“careful” went on from step 52.",
        "“unlucky” finished at step 90.",
        "of “careful” again: pass.",
        "again: fail, two violations.",
        f"“{CHEAT}” was barred: replay-mismatch at steps 12-15.",
        "alpha, beta and delta voted to lift, and the treaty's conditions were met.",
        "The delay of 2 seconds had passed: training may go on.",
        "the same state, bit for bit",
        f"“{CHEAT}” broke the rules and is barred from training.",
        "Every other run they looked at passed.",
    ):
        assert line in read.text, line


def test_the_page_names_what_judged_it(page: str, proven: Proven) -> None:
    read = Page(page)
    assert "version 2, which the treaty names" in read.row("rules")
    assert proven.treaty.digest in read.row("its text", "demo, version 1")
    assert articles_digest(proven.treaty) in read.row("the numbered articles")
    assert proven.digest in read.row("what follows from", f"{proven.state.size} log entries")
    assert len({proven.treaty.digest, proven.digest, articles_digest(proven.treaty)}) == 3


def test_what_permit_signers_say_of_the_state_is_shown() -> None:
    world = World(log_snapshot_every="16")
    world.bind()
    world.vote("trip", *["alpha"] * 10)
    body = {"rules": 2, "size": 16, "root": SHA, "state": "6" * 64}
    assert world.log("beta", "snapshot", body).reason is None
    read = Page(render(prove(world)))
    assert "beta signed the state after 16 entries" in read.row("stated", "6" * 64)
    assert "beta stated the digest of the state after 16 entries." in read.text


def test_the_chronicle_is_in_the_order_of_the_log(proven: Proven, times: ReportTimes) -> None:
    lines = list(chronicle(Story.of(proven, times)))
    seconds = [line.seconds for line in lines]
    assert seconds == sorted(seconds)
    assert [line.kind for line in lines if line.kind in set(Phase)] == ["tripped", "paused", "lifting", "clear"]
    assert {line.kind for line in lines} == {"word", "run", "good", "bad", *("tripped", "paused", "lifting", "clear")}
    assert all(line.text.endswith(".") for line in lines)


def test_without_measured_times_the_page_says_nothing_of_them(proven: Proven, page: str) -> None:
    bare = render(proven)
    assert bare == render(proven, ReportTimes())
    read = Page(bare)
    assert "Two votes pulled the brake on AI training" in read.text
    for said in ("measured on the machine", "trained again", "the order to stop is published", " ms "):
        assert said not in read.text
    assert "How fast did they stop?" in Page(page).text
    assert "How fast did they stop?" not in read.text
    assert "the order to stop is published" in Page(page).text


def test_an_order_before_or_after_the_log_is_not_drawn(proven: Proven) -> None:
    for at in (0.0, START - 1.0, START + 1e9, 1e300, -math.inf):
        assert "the order to stop is published" not in render(proven, ReportTimes(at))
    for at in (START + 1.0, START + 30.0):
        assert "the order to stop is published" in render(proven, ReportTimes(at))


# --- what the page may not do


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(page: str) -> None:
    read = Page(page)
    assert read.tags.count("svg") == 3
    assert not {"script", "link", "img", "iframe", "object", "image", "foreignobject", "base", "form"} & {*read.tags}
    assert not {"src", "srcset", "action", "onload"} & {name for name, _ in read.attributes}
    bare = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert "http://" not in bare
    assert "https://" not in bare
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_names_of_runs_are_never_markup(page: str) -> None:
    assert "<script" not in page.lower()
    assert page.count("&lt;script&gt;alert(") > 5


def test_pictures_share_no_id_and_take_their_colours_from_the_page(page: str) -> None:
    attributes = Page(page).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len({*ids})
    used = set(re.findall(r"url\(#([\w-]+)\)", page)) | {v[1:] for n, v in attributes if n == "xlink:href"}
    assert used == {*ids}
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}", drawn) == []
    light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    assert dict(re.findall(r"--([\w-]+): (#\w+)", light)) == COLOURS
    assert {*re.findall(r"--([\w-]+):", dark)} == {*COLOURS} - {"on-tripped"}
    assert {*re.findall(r"var\(--([\w-]+)\)", page)} <= {*COLOURS}


def test_the_same_evidence_gives_the_same_page(page: str, proven: Proven, times: ReportTimes, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", proven, times)
    assert (tmp_path / "report.html").read_text() == page


def test_a_page_that_cannot_be_written_is_the_worlds_fault(proven: Proven, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        write_report(tmp_path / "file" / "report.html", proven, ReportTimes(TRIP, (), None))


# --- pictures


def of(proven: Proven, run: Live) -> Told:
    return next(t for t in Story.of(proven, ReportTimes()).runs if t.run.id == run.id)


def test_a_killed_run_leaves_a_gap_until_it_comes_back(told: tuple[World, Any], proven: Proven) -> None:
    _, unlucky, cheat = told[1]
    bars, marks = lane(of(proven, unlucky).heads, Clock.of(proven))
    assert bars[:3] == [(3, 9, True), (9, 13, False), (13, 22, True)]
    assert [said for _, _, said in bars[3:]] == [True]
    assert [(m.kind, m.step) for m in marks] == [
        ("opened", 0),
        ("killed", 14),
        ("stopped", 48),
        ("opened", 48),
        ("ended", 90),
    ]
    assert accused(of(proven, cheat)) == [(12, 15), (30, 33)]
    assert accused(of(proven, unlucky)) == []


def test_a_run_that_goes_on_is_hatched_to_the_end(proven: Proven) -> None:
    head = Head(run=SHA, steps=0, root=SHA, state=SHA, flop="0", status="opened")
    opened = e.Committed(entry=1, head=head, leaf=b"", time=START + 4, epoch=0, concerned=True)
    when = Clock.of(proven)
    assert lane([opened], when)[0] == [(4, 4, True), (4, when.end - START, False)]
    assert lane([], when) == ([], [])


def test_the_log_has_its_own_time(proven: Proven) -> None:
    when = Clock.of(proven)
    assert (when.start, when.end) == (START, proven.cosigned.time)
    stamps = [x for x in proven.events if isinstance(x, e.Stamped)]
    assert when.at(0) == 0
    for before, after in pairwise(stamps):
        assert when.at(after.entry - 1) == before.time - START
        assert when.at(after.entry) == after.time - START
    assert when.at(10**9) == when.end - START
    assert when.since(START - 50) == 0


def test_numbers_and_names_made_to_break_the_pictures_do_not() -> None:
    world = World()
    world.bind()
    wild = world.declare("alpha", name="$\\frac{</svg><b>" + "名" * 40, steps=30)
    for n in range(PICTURED):
        world.declare("beta", name=f"filler-{n}", steps=3)
    world.head(wild, "opened")
    losses = (math.nan, math.inf, -math.inf, 1e308, 3.0)
    for step, loss in enumerate(losses, 1):
        world.leaves[wild.id].append(Leaf(step, sha256(b"%d" % step), sha256(b"x"), NONE, loss, step * STEP_FLOP))
    world.head(wild, "running")
    world.stamp(100_000)
    accuse(world, "delta", wild, (0, 0), detail="state differs <i>so</i>")
    page = render(prove(world, wild), ReportTimes(1e300, (), False))
    read = Page(page)
    assert {"b", "i"} & {*read.tags} == {"b", "i"}  # the page's own
    assert "<i>so" not in page
    assert "4 values not numbers" in read.text
    assert "The first 12 of 13 runs are drawn." in read.text
    assert "replay-mismatch" in read.row("the whole run")
    assert "another state" in read.text
    assert accused(of(prove(world), wild)) == [(0, 5)]
    assert clipped(((-5, 2**53 - 1), (9, 4), (2, 4), (5, 8)), 5) == [(0, 5), (2, 4)]


def test_a_head_that_claims_more_steps_than_anybody_can_draw() -> None:
    world = World()
    world.bind()
    run = world.opened("alpha", name="boast", steps=2**52)
    flop = str(2**52 * STEP_FLOP)
    claim = Head(run=run.id, steps=2**52, root=SHA, state=SHA, flop=flop, status="running")
    assert world.log("alpha", "head", claim).reason is None
    world.stamp()
    world.audit("delta", run)
    read = Page(render(prove(world), ReportTimes(TRIP, (), None)))
    assert f"{2**52} of {2**52}" in read.row("boast")


# --- what may be in a log


def test_a_log_without_runs_has_a_page() -> None:
    world = World()
    articles = articles_digest(world.treaty)
    world.log("alpha", "assent", {"text": world.treaty.digest, "articles": articles})
    world.vote("lift", "beta", epoch=7)
    read = Page(render(prove(world), ReportTimes(0.0, (), None)))
    assert "No training runs under treaty, and no brake pulled" in read.text
    assert "has logged no pledge" in read.row("alpha a lab")
    assert "has not signed the treaty" in read.row("beta a lab")
    assert "replayed: vote for epoch 7" in read.row("vote", "beta")
    assert "No inspector reported anything." in read.text
    assert read.tags.count("svg") == 1


def test_a_log_without_time_has_a_page() -> None:
    world = World()
    entries = (world.statement("alpha", "withdrawal", {"reason": "x"}), b"rubbish", b"{")
    checkpoint = world.checkpoint(3, root=tree_root([leaf_hash(x) for x in entries]))
    proven = verify_bundle(Bundle(world.treaty.text, checkpoint, entries, {}).encode())
    read = Page(render(proven))
    assert "3 log entries had no effect" in read.text
    assert "not-yet-valid: the log has recorded no time yet" in read.row("withdrawal", "alpha")
    empty = world.checkpoint(0, root=sha256(b""))
    Page(render(verify_bundle(Bundle(world.treaty.text, empty, (), {}).encode())))


def test_times_that_no_calendar_has() -> None:
    assert utc(START) == "2026-01-01 02:46:40"
    assert utc(2**62) == str(2**62)


def test_readings_stand_in_the_page_once_two_parties_found_them() -> None:
    world = World()
    world.bind()
    world.read("authorship", 0.85, "alpha", subject=CHEAT, value=0.9, upper=0.95)
    assert "What the gauges read" not in render(prove(world))
    world.read("authorship", 0.86, "beta", subject=CHEAT, value=0.9, upper=0.96)
    world.read("authorship", 0.1, "gamma", subject=CHEAT, value=0.1, upper=0.2)
    world.read("lineage", 0.2, "alpha", "delta", subject=CHEAT, alarms=("ancestry",))
    page = render(prove(world))
    shown = Page(page)
    assert CHEAT not in page
    assert "alpha and beta" in shown.row("authorship", "0.85 to 0.96 share", "reached")
    assert "ancestry" in shown.row("lineage", "reached")
    assert "and gamma (entry" in shown.text
    assert "alpha and gamma disagree on authorship" in shown.text
    assert "Warning signs pulled the brake" in shown.text


def test_a_proven_violation_is_told_as_one() -> None:
    world = World()
    world.bind()
    run = world.finished("alpha")
    for inspector in ("beta", "gamma"):
        accuse(world, inspector, run, (0, 3))
    read = Page(render(prove(world)))
    assert "A proven violation pulled the brake on AI training" in read.text
    assert "upheld finding on run" in read.text
    assert "Every run they looked at passed" not in read.text


def test_what_becomes_of_an_allegation() -> None:
    # Treaty 7.7, 7.9
    world = World()
    world.bind()
    run = world.finished("alpha", steps=12)
    accuse(world, "beta", run, (0, 3), (3, 6), (6, 9))
    world.log("alpha", "answer", {"run": run.id, "fault": "replay-mismatch", "segment": [3, 6], "text": "it <b>is</b>"})
    world.log("beta", "retraction", {"run": run.id, "fault": "replay-mismatch", "segment": [6, 9]})
    read = Page(render(prove(world)))
    assert read.row("replay-mismatch", "steps 0 to 3").endswith("beta alleged")
    assert "alpha answers: it <b>is</b>" in read.row("replay-mismatch", "steps 3 to 6")
    assert read.row("replay-mismatch", "steps 6 to 9").endswith("beta fell taken back by beta")
    assert "disputed" in read.row("12 of 30")
    assert "beta took back what it alleged of “run”: replay-mismatch at steps 6-9." in read.text
    assert "alpha answered what is alleged of “run”: replay-mismatch at steps 3-6." in read.text
    every = tuple((i, i + 3) for i in range(0, 12, 3))
    for inspector in ("gamma", "delta"):
        assert world.audit(inspector, run, segments=every).reason is None
    read = Page(render(prove(world)))
    assert read.row("replay-mismatch", "steps 0 to 3").endswith("beta fell")
    assert "What was alleged of “run” fell: replay-mismatch at steps 0-3." in read.text
    assert "“run” was settled up to its last head." in read.text
    assert "settled" in read.row("12 of 30")


def test_a_run_that_is_held_back_and_one_that_is_only_examined() -> None:
    # Treaty 5.7: it waits, and the page says so.
    world = World(lift_delay='"0 s"', lift_settle_within='"1 h"')
    world.bind()
    run = world.finished("alpha", name="murky")
    world.trip()
    gap = Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=(0, 0), detail="no <b>answer</b>")
    for inspector in ("beta", "gamma"):
        assert world.audit(inspector, run, gap).reason is None
    assert "examined, not passed" in Page(render(prove(world))).row("murky", "12 of 30")
    world.stamp(3600)
    world.vote("lift", *LABS)
    assert world.phase is Phase.CLEAR
    assert run.held
    read = Page(render(prove(world)))
    assert "runs held back" in read.text
    assert read.row("murky", "12 of 30").endswith("held back until settled")
    assert "Only “murky” is held back until settled." in read.text
    assert "gap" in read.row("not-replayed", "the whole run", "no <b>answer</b>")
    assert "alpha, held back" in read.text  # in the picture


def test_each_run_shows_its_tiers() -> None:
    # Treaty 3.1, 3.2, 3.7
    world = World()
    world.bind()
    small = world.declare("alpha", name="small", steps=3)
    world.declare("beta", name="large", steps=30)
    world.declare("gamma", name="huge", steps=2 * 10**9)
    world.declare("alpha", name="kind", steps=30, purpose="safety-research")
    for party in LABS:
        world.log(party, "designation", {"run": small.id, "tier": "covered"})
    read = Page(render(prove(world)))
    assert "alpha covered (by decision) 0 of 3" in read.row("small")
    assert "beta covered 0 of 30" in read.row("large")
    assert "gamma covered, prohibited 0 of" in read.row("huge")
    assert "alpha covered; exempt: safety-research 0 of 30" in read.row("kind")
    assert "A quorum put “small” in the tier covered." in read.text
    other = World()
    other.bind()
    other.declare("alpha", name="tiny", steps=1)
    assert "alpha not covered 0 of 1" in Page(render(prove(other))).row("tiny")


def test_what_is_due_what_was_done_and_what_lapsed() -> None:
    # Article 10: Treaty 10.1-10.4
    world = World()
    world.bind(expires=START + 1000 * DAY)
    assert "What was owed" not in render(prove(world))
    for _ in range(2):
        assert world.log("beta", "request", {"party": "alpha", "text": "how is <b>it</b>?"}).reason is None
    first, second = (x.about for x in world.of(e.Due))
    assert world.log("alpha", "report", {"about": first, "text": "it is well"}).reason is None
    known = world.now - 4 * DAY
    assert world.log("gamma", "incident", {"incident": "safety", "known": known, "text": "late"}).reason is None
    world.log("gamma", "incident", {"incident": "safety", "known": world.now, "text": "in time"})
    read = Page(render(prove(world)))
    assert "report" in read.row("alpha", "done, entry")
    assert utc(world.now + world.treaty.report_clock) in read.row("alpha report", f" {second} ")
    assert read.row("alpha report", f" {second} ").endswith("15 d from then due")
    assert read.row("gamma incident", "done late")
    assert "duties not done in time" in read.text
    assert "how is <b>it</b>?" in read.text
    assert read.row("incident: safety", "in time")
    world.stamp(world.treaty.report_clock)
    assert read.row("alpha report", f" {second} ") == Page(render(prove(world))).row("alpha report", f" {second} ")
    world.stamp(1)
    read = Page(render(prove(world)))
    assert read.row("alpha report", f" {second} ").endswith("not done in time")
    for line in (
        "beta asked another party for a report.",
        "alpha owes a report within 15 days.",
        f"alpha gave in time what it owed since entry {first}.",
        f"alpha did not give the report that it owed since entry {second}.",
        "gamma reported an incident: safety.",
        "gamma reported an incident later than the treaty allows.",
    ):
        assert line in read.text, line


def test_a_notice_is_due_for_a_run_that_others_made_large() -> None:
    # Treaty 10.2
    world = World()
    world.bind()
    run = world.declare("alpha", name="small", steps=3)
    for party in LABS:
        world.log(party, "designation", {"run": run.id, "tier": "covered"})
    (due,) = world.of(e.Due)
    assert Page(render(prove(world))).row("alpha notice").endswith("14 d from then due")
    assert world.log("alpha", "notice", {"about": due.entry, "text": "we know"}).reason is None
    assert Page(render(prove(world))).row("alpha notice", "done, entry")


def test_who_is_bound_and_who_is_not_and_why() -> None:
    # Treaty 2.1-2.5
    world = World()
    world.bind("alpha", condition="quorum beta\n")
    world.bind("gamma", expires=world.now + 50)
    read = Page(render(prove(world)))
    assert read.row("gamma a lab").endswith("yes pledged without condition")
    assert read.row("alpha a lab").endswith("no pledged if beta is bound: they are not")
    world.bind("beta", condition="group g all alpha gamma\nquorum g\n", expires=world.now + 1000 * DAY)
    world.bind("delta", expires=world.now + 1000 * DAY)
    assert "if alpha and gamma are bound: alpha and gamma are" in Page(render(prove(world))).row("beta a lab")
    world.withdraw("delta")
    assert Page(render(prove(world))).row("safety institute").endswith("it has given notice that it leaves")
    assert "delta gave notice that it leaves." in Page(render(prove(world))).text
    world.stamp(50)
    assert (
        Page(render(prove(world))).row("gamma a lab").endswith("no pledged without condition; the pledge has expired")
    )
    world.stamp(world.treaty.withdrawal_notice)
    assert "withdrew, and the notice has passed" in Page(render(prove(world))).row("safety institute")
    assert "Nobody is bound now." in Page(render(prove(world))).text
    early = World(start=START - 20_000)
    early.bind("delta")
    assert "the treaty is not yet in force" in Page(render(prove(early))).row("safety institute")


def test_a_party_that_contradicts_itself_is_named() -> None:
    # Treaty 2.4
    world = World()
    world.bind()
    world.append(world.statement("alpha", "vote", {"motion": "trip", "epoch": 0, "reason": "x"}, seq=1))
    read = Page(render(prove(world)))
    assert "alpha contradicted itself in two signed statements: its word is void." in read.text
    assert "so its word is void" in read.row("alpha a lab")
    assert "equivocation: alpha signed two different statements number 1" in read.row("vote", "alpha")


def test_long_logs_have_short_tables() -> None:
    world = World()
    world.bind()
    for n in range(LISTED + 3):
        world.log("beta", "notice", {"about": -1, "text": f"word {n}"})
        world.vote("trip", "alpha", epoch=9)
    page = render(prove(world))
    read = Page(page)
    assert re.search(r"… and \d+ more of this kind", read.text)
    assert f"{LISTED + 3} log entries had no effect" in read.text
    assert page.count("vote for epoch 9") == LISTED
    assert f"word {LISTED - 1}" in page
    assert f"word {LISTED}" not in page


# --- words


def test_every_fault_and_phase_has_its_words() -> None:
    assert {*words.FAULTS} == {*Fault}
    assert {*words.PHASES} == {*Phase}


def test_every_event_is_told_or_stands_in_a_table(proven: Proven) -> None:
    """An event without a sentence is one that a table shows; a new kind of event must choose."""
    in_tables = {"Entered", "Void", "Stamped", "Told", "Alleged", "Read"}
    kinds = {kind.__name__ for kind in e.Event.__subclasses__()}
    source = Path(words.__file__).read_text()
    told = set(re.findall(r"case e\.(\w+)", source))
    assert told - {"Entered"} == kinds - in_tables


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 ms"), (999.7, "1.0 s"), (61_000, "61 s"), (300_000, "5 min"), (7.2e6, "2.0 h"), (9e8, "10 d")],
)
def test_durations_read_well(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text


# --- the command


def call(*args: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in args])


def raised(result: Result) -> BrakelineError:
    assert isinstance(result.exception, BrakelineError), result.output
    return result.exception


@pytest.fixture
def bundle(told: tuple[World, Any], tmp_path: Path) -> Path:
    world, runs = told
    path = tmp_path / "my evidence.bundle"
    path.write_bytes(world.bundle(*runs).encode())
    (tmp_path / "treaty.toml").write_bytes(world.treaty.text)
    return path


def test_the_command_writes_the_page_beside_the_bundle(bundle: Path, proven: Proven) -> None:
    result = call(bundle)
    assert result.exit_code == 0, result.output
    page = bundle.with_suffix(".html")
    assert page.read_text() == render(proven, bundle=bundle.name)
    assert f"brakeline verify 'my evidence.bundle' --sha256 {proven.treaty.digest}" in Page(page.read_text()).text
    assert result.output.startswith(f"{page}: {page.stat().st_size} bytes, {proven.state.size} log entries\n")
    assert proven.treaty.digest in result.output
    assert "compare this digest with the one you know" in result.output
    assert call(bundle).exit_code == 0  # over its own earlier page


@pytest.mark.parametrize("how", ["--treaty", "--sha256"])
def test_the_command_knows_the_treaty_that_is_trusted(how: str, bundle: Path, proven: Proven, tmp_path: Path) -> None:
    good = tmp_path / "treaty.toml" if how == "--treaty" else proven.treaty.digest
    out = tmp_path / "deep" / "page.html"
    result = call(bundle, "--out", out, how, good)
    assert (result.exit_code, "as you trust it" in result.output) == (0, True)
    assert out.exists()
    assert not bundle.with_suffix(".html").exists()


def test_a_bundle_that_does_not_verify_gives_no_page(bundle: Path, proven: Proven, tmp_path: Path) -> None:
    data = bundle.read_bytes()
    out = tmp_path / "page.html"
    with pytest.raises(Refused) as same:
        verify_bundle(data, treaty_digest=SHA)
    error = raised(call(bundle, "--out", out, "--sha256", SHA))
    assert (str(error), getattr(error, "reason", None)) == (str(same.value), Reason.FOREIGN)
    bundle.write_bytes(data[:300] + bytes([data[300] ^ 1]) + data[301:])
    error = raised(call(bundle, "--out", out))
    assert isinstance(error, Refused)
    assert error.reason is Reason.TAMPERED
    bundle.write_bytes(b"no bundle")
    assert isinstance(raised(call(bundle, "--out", out)), Malformed)
    assert isinstance(raised(call(tmp_path / "nowhere", "--out", out)), Unavailable)
    assert not out.exists()


def test_the_command_overwrites_nothing_but_a_page(bundle: Path, proven: Proven, tmp_path: Path) -> None:
    before = bundle.read_bytes()
    for out in (bundle, tmp_path / "treaty.toml"):
        kept = out.read_bytes()
        assert isinstance(raised(call(bundle, "--out", out)), Misuse)
        assert out.read_bytes() == kept
    assert isinstance(raised(call(bundle, "--treaty", tmp_path / "treaty.toml", "--sha256", SHA)), Misuse)
    assert bundle.read_bytes() == before


def test_a_bundle_without_transcripts_has_no_curves(told: tuple[World, Any], proven: Proven) -> None:
    world, runs = told
    bare = verify_bundle(replace(world.bundle(*runs), transcripts={}).encode())
    read = Page(render(bare))
    assert "The runs from the inside" not in read.text
    assert read.tags.count("svg") == 2
    assert ENVIRONMENT not in read.text


def test_a_cell_of_the_strips_is_a_segment_of_its_run() -> None:
    """Each run says how long its segments are, and a move cuts one."""
    text = treaty_text().replace("segment_steps = 3", "segment_steps = 3\nsegment_most = 6")
    world = World(treaty=parse_treaty(text.encode()))
    world.bind()
    run = world.declare("alpha", name="long", steps=12, segment_steps=6)
    world.head(run, "opened")
    world.stamp()
    moved = {"run": run.id, "steps": 8, "environment": run.declaration.environment, "ranks": 2}
    assert world.log("alpha", "moved", moved).reason is None
    work(world, run, 12, "ended")
    world.stamp()
    world.audit("beta", run)
    figure = audit_strips([of(prove(world, run), run)])
    assert figure is not None
    cells = figure.axes[0].collections[0].get_paths()
    assert [round(float(cell.get_extents().x0)) for cell in cells] == [0, 6, 8]

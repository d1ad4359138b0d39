"""The report: facts of a real, verified bundle in; one page out that asks nothing of the network and runs nothing."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("matplotlib")

from brakeline.cli.demo import report
from brakeline.cli.demo.report import ReportTimes, StopTime, render, write_report
from brakeline.core.brake import Phase, Vote
from brakeline.core.bundle import Bundle, Proven, verify_bundle
from brakeline.core.encoding import Wire, b64encode, sha256
from brakeline.core.errors import Unavailable
from brakeline.core.finding import Audit, Fault, Finding, verdict
from brakeline.core.fold import Fold, RunRecord
from brakeline.core.keys import PrivateKey
from brakeline.core.pledge import Assent, Pledge
from brakeline.core.reading import Reading
from brakeline.core.run import Declaration
from brakeline.core.sampling import ticket_message
from brakeline.core.statement import GENESIS, Statement, open_envelope, sign
from brakeline.core.tlog.checkpoint import Checkpoint, cosign
from brakeline.core.tlog.merkle import Frontier, leaf_hash
from brakeline.core.tlog.note import COSIGNATURE, ED25519, VerifierKey, sign_note
from brakeline.core.transcript import NONE, Head, Leaf
from brakeline.core.treaty import parse_treaty

EXAMPLE = Path(__file__).resolve().parents[1] / "examples/treaties/demo.toml"
PARTIES = ("alpha", "beta", "gamma", "delta")
START = 1_780_000_000
CHEAT = "<script>alert('$x^{$')</script>"
SHA = "5" * 64
TRIP = START + 20.4


def key(party: str, purpose: str = "statement") -> PrivateKey:
    return PrivateKey(sha256(f"{party}/{purpose}".encode()))


def signed_treaty() -> bytes:
    """The example treaty with a key for each of its parties and roles."""
    text = re.sub(r"segment_steps = \d+", "segment_steps = 3", EXAMPLE.read_text())
    for p in PARTIES:
        lines = [f"[party.{p}]", f'key = "{key(p).public.text}"']
        lines.append(f'witness_key = "{VerifierKey(f"{p}/witness", COSIGNATURE, key(p, "witness").public).text}"')
        lines.append(f'signer_key = "{key(p, "signer").public.text}"')
        if p == "delta":
            lines.append(f'log_key = "{VerifierKey("delta/log", ED25519, key(p, "log").public).text}"')
        text = text.replace(f"[party.{p}]", "\n".join(lines))
    return text.encode()


class Log:
    """A log with everything in it signed for real; its clock is `now`."""

    def __init__(self) -> None:
        self.treaty = parse_treaty(signed_treaty())
        self.fold = Fold(self.treaty)
        self.entries: list[bytes] = []
        self.leaves: dict[str, list[Leaf]] = {}
        self.now = START
        self._last: dict[str, tuple[int, str]] = {}

    def add(self, party: str, kind: str, body: Wire) -> str:
        """Log a statement; returns why it did not take effect, or nothing."""
        seq, prev = self._last.get(party, (0, GENESIS))
        payload = Statement(
            treaty=self.treaty.digest,
            issuer=party,
            seq=seq,
            prev=prev,
            not_before=self.now,
            expires=self.now + 10_000,
            body=msgspec.to_builtins(body),
        )
        data = sign(kind, payload, key(party))
        self._last[party] = (seq + 1, open_envelope(data).digest)
        self.entries.append(data)
        return self.fold.apply(data).text

    def checkpoint(self) -> bytes:
        text = Checkpoint("delta/log", self.fold.size, self.fold.roots[-1]).text
        lines = (cosign(text, f"{p}/witness", key(p, "witness"), self.now) for p in PARTIES[:3])
        return sign_note(text, "delta/log", key("delta", "log")).with_lines(*lines).encode()

    def tick(self, seconds: int = 1) -> None:
        """Time passes, and a stamp says so."""
        self.now += seconds
        data = self.checkpoint()
        self.entries.append(data)
        assert self.fold.apply(data).text == ""

    def declare(self, lab: str, name: str, steps: int) -> RunRecord:
        body = Declaration(
            name=name,
            rung="re-executable",
            recipe=SHA,
            dataset=SHA,
            environment=SHA,
            steps=steps,
            segment_steps=3,
            flop_per_step="2000000000",
            parents=(),
            purpose="",
        )
        assert self.add(lab, "declaration", body) == ""
        run = [*self.fold.runs.values()][-1]
        self.leaves[run.id] = [Leaf(0, sha256(b"start"), NONE, NONE, 0.0, 0)]
        return run

    def head(self, run: RunRecord, steps: int, status: str, drop: float = 30.0) -> None:
        leaves = self.leaves[run.id]
        for s in range(len(leaves), steps + 1):
            loss = 1.7 + 2.6 * math.exp(-s / drop) + 0.09 * math.sin(2.1 * s + len(run.owner))
            leaves.append(Leaf(s, sha256(run.id.encode(), b"%d" % s), sha256(b"b"), sha256(b"p"), loss, s * 2 * 10**9))
        frontier = Frontier(0, ())
        for leaf in leaves:
            frontier = frontier.append(leaf_hash(leaf.encode()))
        body = Head(
            run=run.id,
            steps=steps,
            root=frontier.root().hex(),
            state=leaves[-1].state.hex(),
            flop=str(steps * 2 * 10**9),
            status=status,
        )  # type: ignore[arg-type]
        assert self.add(run.owner, "head", body) == ""

    def audit(self, inspector: str, run: RunRecord, bad: tuple[tuple[int, int], ...] = (), extra: str = "") -> None:
        logged = run.heads[-1]
        beacon = self.fold.beacon_for(logged.index)
        assert beacon is not None
        ticket = key(inspector).sign(ticket_message(logged.leaf, beacon.beacon))
        required = self.fold.required_sample(run, logged, inspector, ticket)
        segments = tuple(sorted({*required, *bad}))
        findings = tuple(
            Finding(fault=Fault.REPLAY_MISMATCH, severity="violation", segment=s, detail=f"state differs{extra}")
            for s in bad
        )
        body = Audit(
            run=run.id,
            head=logged.index,
            beacon=beacon.index,
            ticket=b64encode(ticket),
            segments=segments,
            environment=SHA,
            flop=str(len(segments) * 6 * 10**9),
            findings=findings,
            verdict=verdict(findings),
        )
        assert self.add(inspector, "audit", body) == ""

    def vote(self, motion: str, *voters: str) -> None:
        for p in voters:
            epoch = self.fold.brake.epoch
            self.add(p, "vote", Vote(motion=motion, epoch=epoch, reason="it is time"))  # type: ignore[arg-type]

    def prove(self) -> Proven:
        transcripts = {run: b"".join(x.encode() for x in leaves) for run, leaves in self.leaves.items()}
        data = Bundle(self.treaty.text, self.checkpoint(), tuple(self.entries), transcripts).encode()
        return verify_bundle(data, treaty_digest=self.treaty.digest)


def story() -> Log:
    """A treaty, three runs (one killed, one a cheat), a trip by votes, audits, a lift, and honest runs that end."""
    log = Log()
    for p in PARTIES:
        log.add(p, "assent", Assent(text=log.treaty.digest))
        others = " ".join(x for x in PARTIES if x != p)
        condition = "quorum none\n" if p == "delta" else f"group others 2 {others}\nquorum others\n"
        log.add(p, "pledge", Pledge(condition=condition))
    log.tick()
    runs = [log.declare("alpha", "careful", 90), log.declare("beta", "unlucky", 90), log.declare("gamma", CHEAT, 90)]
    log.tick()
    careful, unlucky, cheat = runs
    for run in runs:
        log.head(run, 0, "opened")
    for step in range(6, 49, 6):
        log.tick(2)
        log.head(careful, step, "running")
        if step < 24 or step > 30:
            log.head(unlucky, step - 4, "running", 25)
        if step == 30:
            log.head(unlucky, 14, "opened")
        log.head(cheat, step + 2, "running", 18)
    log.vote("trip", "delta")
    log.tick(2)
    log.vote("trip", "delta", "alpha")
    log.tick()
    for run, step in zip(runs, (52, 48, 54), strict=True):
        log.head(run, step, "stopped", 30)
    log.tick()
    for inspector in ("delta", "beta"):
        log.audit(inspector, careful)
    for inspector in ("delta", "alpha"):
        log.audit(inspector, unlucky)
        log.tick()
        log.audit(inspector, cheat, ((12, 15), (30, 33)))
        log.tick()
    for _ in range(3):
        if log.fold.brake.phase is not Phase.CLEAR:
            log.vote("lift", "alpha", "beta", "delta")
            log.tick(2)
            log.tick(2)
    assert log.fold.brake.phase is Phase.CLEAR
    for run in (careful, unlucky):
        log.head(run, len(log.leaves[run.id]) - 1, "opened")
    log.tick(6)
    log.head(careful, 90, "ended")
    log.tick(2)
    log.head(unlucky, 90, "ended")
    log.tick()
    return log


def measured(runs: list[RunRecord], equal: bool | None = True) -> ReportTimes:
    late = zip(runs, ((312.4, 1), (187.6, 0), (641.7, 2)), strict=True)
    stops = tuple(
        StopTime(r.declaration.name, r.owner, h.head.steps, ms, n, n * 2 * 10**9)
        for r, (ms, n) in late
        for h in r.heads
        if h.head.status == "stopped"
    )
    return ReportTimes(TRIP, stops, equal)


@pytest.fixture(scope="module")
def proven() -> Proven:
    return story().prove()


@pytest.fixture(scope="module")
def page(proven: Proven) -> str:
    return render(proven, measured([*proven.fold.runs.values()]))


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


def test_the_page_says_what_the_bundle_proves(page: str, proven: Proven) -> None:
    read = Page(page)
    checkpoint = proven.cosigned.checkpoint
    assert "Two votes stopped three training runs in 642 ms" in read.text
    assert f"brakeline verify demo.bundle --sha256 {proven.treaty.digest}" in read.text
    assert f"{checkpoint.size} entries" in read.row("log", checkpoint.root.hex())
    assert "alpha, beta, gamma" in read.row("cosigned")
    assert read.row("an AI safety institute").endswith("yes pledged without condition")
    assert "yes pledged if 2 of beta, gamma, delta are bound: beta, delta and gamma are" in read.row("alpha a lab")
    assert read.row("642 ms").endswith(f"{CHEAT} gamma 54 642 ms 2 4.00e+09 FLOP")
    assert "barred : replay-mismatch at steps " in read.row("54 of 90", "1.80e+11 FLOP", CHEAT)
    assert "delta: pass up to step 52 beta: pass up to step 52 passed so far" in read.row("careful", "90 of 90")
    assert "delta, alpha upheld" in read.row("replay-mismatch", "steps 30 to 33", CHEAT)
    for line in (
        "The brake tripped: votes of alpha, delta. Every covered run must stop.",
        "“unlucky” broke off without a word and went on from step 14.",
        "“careful” stopped at step 52.",
        "“careful” went on from step 52.",
        "“unlucky” finished at step 90.",
        "of “careful” again: pass.",
        "the same state, bit for bit",
    ):
        assert line in read.text, line


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
    assert dict(re.findall(r"--([\w-]+): (#\w+)", light)) == report.COLOURS
    assert {*re.findall(r"--([\w-]+):", dark)} == {*report.COLOURS} - {"on-tripped"}
    assert {*re.findall(r"var\(--([\w-]+)\)", page)} <= {*report.COLOURS}


def test_the_same_evidence_gives_the_same_page(page: str, proven: Proven, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", proven, measured([*proven.fold.runs.values()]))
    assert (tmp_path / "report.html").read_text() == page


def test_a_killed_run_leaves_a_gap_until_it_comes_back(proven: Proven) -> None:
    _, unlucky, cheat = proven.fold.runs.values()
    when = report.Clock.of(proven)
    bars, marks = report.lane(unlucky.heads, when)
    assert bars[:3] == [(1, 7, True), (7, 11, False), (11, 20, True)]
    assert [said for _, _, said in bars[3:]] == [True]
    assert [(m.kind, m.step) for m in marks] == [
        ("opened", 0),
        ("killed", 14),
        ("stopped", 48),
        ("opened", 48),
        ("ended", 90),
    ]
    assert report.accused(cheat) == [(12, 15), (30, 33)]


def test_a_log_without_runs_or_stamps_has_a_page() -> None:
    log = Log()
    log.add("alpha", "assent", Assent(text=log.treaty.digest))
    log.add("beta", "vote", Vote(motion="lift", epoch=7, reason="replayed"))
    read = Page(render(log.prove(), ReportTimes(0.0, (), None)))
    assert "No training runs under treaty, and no brake pulled" in read.text
    assert "has logged no pledge" in read.row("alpha a lab")
    assert "has not signed the treaty" in read.row("beta a lab")
    assert "replayed: vote for epoch 7" in read.row("vote", "beta")
    assert read.tags.count("svg") == 1


def test_readings_stand_in_the_page_once_two_parties_found_them() -> None:
    log = Log()
    for p in PARTIES:
        log.add(p, "assent", Assent(text=log.treaty.digest))
        log.add(p, "pledge", Pledge(condition="quorum none\n"))
    log.tick()

    def read(party: str, gauge: str, unit: str, lower: float, *alarms: str) -> None:
        body = Reading(
            gauge=gauge, subject=CHEAT, inputs=SHA, value=lower, lower=lower, upper=lower + 0.1, unit=unit,
            complete=True, alarms=alarms, evidence=SHA,
        )  # fmt: skip
        assert log.add(party, "reading", body) == ""

    read("alpha", "authorship", "share", 0.85)
    assert "What the gauges read" not in render(log.prove(), ReportTimes(0.0, (), None))
    read("beta", "authorship", "share", 0.86)
    read("gamma", "authorship", "share", 0.1)
    read("alpha", "lineage", "growth", 0.2, "ancestry")
    read("delta", "lineage", "growth", 0.2, "ancestry")
    page = render(log.prove(), ReportTimes(0.0, (), None))
    shown = Page(page)
    assert CHEAT not in page
    assert "alpha and beta" in shown.row("authorship", "reached")
    assert "ancestry" in shown.row("lineage", "reached")
    assert "gamma (entry" in shown.text
    assert "Warning signs pulled the brake" in shown.text


def test_numbers_and_names_made_to_break_the_pictures_do_not() -> None:
    log = Log()
    log.tick()
    wild = log.declare("alpha", "$\\frac{</svg><b>" + "名" * 40, 30)
    for n in range(report.PICTURED):
        log.declare("beta", f"filler-{n}", 3)
    log.tick()
    log.head(wild, 0, "opened")
    losses = (math.nan, math.inf, -math.inf, 1e308, 3.0)
    for step, loss in enumerate(losses, 1):
        log.leaves[wild.id].append(Leaf(step, sha256(b"%d" % step), SHA.encode()[:32], NONE, loss, step * 2 * 10**9))
    log.head(wild, 5, "running")
    log.tick(100_000)
    log.audit("delta", wild, ((0, 0),), " <i>so</i>")
    for run in [*log.fold.runs.values()][1:]:
        del log.leaves[run.id]
    page = render(log.prove(), ReportTimes(1e300, (), False))
    read = Page(page)
    assert {"b", "i"} & {*read.tags} == {"b", "i"}  # the page's own
    assert "<i>so" not in page
    assert "4 values not numbers" in read.text
    assert "The first 12 of 13 runs are drawn." in read.text
    assert "replay-mismatch" in read.row("the whole run")
    assert "another state" in read.text
    assert report.accused(wild) == [(0, 5)]
    assert report.clipped(((-5, 2**53 - 1), (9, 4), (2, 4), (5, 8)), 5) == [(0, 5), (2, 4)]


def test_a_head_that_claims_more_steps_than_anybody_can_draw() -> None:
    log = Log()
    run = log.declare("alpha", "boast", 2**52)
    log.tick()
    log.head(run, 0, "opened")
    flop = str(2**52 * 2 * 10**9)
    claim = Head(run=run.id, steps=2**52, root=SHA, state=SHA, flop=flop, status="running")
    assert log.add("alpha", "head", claim) == ""
    log.tick()
    log.audit("delta", run)
    del log.leaves[run.id]
    read = Page(render(log.prove(), ReportTimes(TRIP, (), None)))
    assert f"{2**52} of {2**52}" in read.row("boast")


def test_every_fault_and_phase_has_its_words() -> None:
    assert {*report.FAULTS} == {*Fault}
    assert {*report.PHASES} == {*Phase}


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 ms"), (999.7, "1.0 s"), (61_000, "61 s"), (300_000, "5 min"), (7.2e6, "2.0 h"), (9e8, "10 d")],
)
def test_durations_read_well(milliseconds: float, text: str) -> None:
    assert report.duration(milliseconds) == text


def test_a_page_that_cannot_be_written_is_the_worlds_fault(proven: Proven, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        write_report(tmp_path / "file" / "report.html", proven, ReportTimes(TRIP, (), None))

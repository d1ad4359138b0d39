"""What happened, gathered from the events of a proven log: its clock, the brake's phases, each run's heads, audits."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from brakeline.core import views, words
from brakeline.core.brake import Phase
from brakeline.core.bundle import Proven
from brakeline.core.state import events as e
from brakeline.core.state.events import Event
from brakeline.core.state.runs import Run
from brakeline.core.words import count, names
from brakeline.report.figures import duration, short
from brakeline.report.measured import ReportTimes

_GOOD: Final = (e.Settled, e.Met)
_BAD: Final = (e.Equivocated, e.Forked, e.Barred, e.Lapsed, e.Disagreed)
_SIGNED: Final = (("assent", "signed the treaty"), ("pledge", "pledged to keep it, on conditions of their own"))


class Clock(NamedTuple):
    """The log's own time, from its first stamp to the bundle's checkpoint (POSIX s); entry and time of each stamp."""

    start: int
    end: int
    entries: tuple[int, ...]
    times: tuple[int, ...]

    @classmethod
    def of(cls, proven: Proven) -> "Clock":
        stamps = [x for x in proven.events if isinstance(x, e.Stamped)]
        start = stamps[0].time if stamps else proven.cosigned.time
        end = max(proven.cosigned.time, proven.state.time, start + 1)
        return cls(start, end, tuple(s.entry for s in stamps), tuple(s.time for s in stamps))

    def at(self, entry: int) -> int:
        """Seconds from the start to the newest stamp up to `entry`."""
        newest = bisect_right(self.entries, entry)
        return self.since(self.times[newest - 1] if newest else self.start)

    def since(self, time: int) -> int:
        """Seconds from the start to `time`: what was logged before the first stamp counts as logged with it."""
        return max(time - self.start, 0)


class Told(NamedTuple):
    """A run at the bundle's checkpoint, with every head and every audit of it that counts, in order."""

    run: Run
    heads: Sequence[e.Committed]
    audits: Sequence[e.Audited]

    @property
    def name(self) -> str:
        return self.run.declaration.name

    @property
    def held(self) -> bool:
        """Whether it waits for its inspectors while others go on. Treaty 5.7."""
        return self.run.held and self.run.settlement != "settled"


class Story(NamedTuple):
    """All that the page needs of a proven log, gathered once. Runs are in the order of their declarations.

    `moves` are the phases that the brake came to, and when (POSIX s).
    """

    proven: Proven
    times: ReportTimes
    when: Clock
    runs: tuple[Told, ...]
    moves: tuple[tuple[Phase, int], ...]

    @classmethod
    def of(cls, proven: Proven, times: ReportTimes) -> "Story":
        heads: dict[str, list[e.Committed]] = {}
        audits: dict[str, list[e.Audited]] = {}
        for event in proven.events:
            if isinstance(event, e.Committed):
                heads.setdefault(event.head.run, []).append(event)
            elif isinstance(event, e.Audited):
                audits.setdefault(event.audit.run, []).append(event)
        runs = views.by_declaration(proven.state)
        told = tuple(Told(r, heads.get(r.id, ()), audits.get(r.id, ())) for r in runs)
        moves = tuple((phase, move.time) for phase, move in views.phases(proven.events))
        return cls(proven, times, Clock.of(proven), told, moves)

    @property
    def replayed(self) -> int:
        """Segments that inspectors ran again, each as often as it was."""
        return sum(len(a.audit.segments) for told in self.runs for a in told.audits)


class Happening(NamedTuple):
    """One line of the chronicle: seconds since the start, what kind it is, what happened."""

    seconds: int
    kind: str
    text: str


def chronicle(story: Story) -> Iterator[Happening]:
    """What happened, in the order of the log."""
    state, before = story.proven.state, dict[str, str]()
    signed = _signed(story.proven.events)
    bound = {story.when.at(x.entry): x for x in story.proven.events if isinstance(x, e.Bound)}
    for event in story.proven.events:
        if isinstance(event, e.Bound) and bound[story.when.at(event.entry)] is not event:
            continue  # one second, one line: the last
        if isinstance(event, e.Entered) and event.entry in signed:
            yield Happening(story.when.at(event.entry), "word", signed[event.entry])
            continue
        earlier = before.get(event.head.run, "") if isinstance(event, e.Committed) else ""
        if text := words.sentence(event, state, earlier):
            yield Happening(story.when.at(event.entry), _kind(event), text)
        if isinstance(event, e.Committed):
            before[event.head.run] = event.head.status


def _signed(events: Sequence[Event]) -> dict[int, str]:
    """Who signed the treaty and who pledged, each told once, at the entry of the last of them."""
    found: dict[int, str] = {}
    for kind, did in _SIGNED:
        logged = [x for x in events if isinstance(x, e.Entered) and x.kind == kind]
        if logged:
            found[logged[-1].entry] = f"{names(dict.fromkeys(x.issuer for x in logged))} {did}."
    return found


def _kind(event: Event) -> str:
    """The class of the line, which the page colours."""
    for phase, _ in views.phases([event]):
        return phase
    if isinstance(event, e.Committed):
        return "run"
    if isinstance(event, e.Audited):
        return "bad" if views.accuses(event.audit) else "good"
    return "bad" if isinstance(event, _BAD) else "good" if isinstance(event, _GOOD) else "word"


def headline(story: Story) -> str:
    """One line that the evidence and the measurement bear out."""
    first = next((x for x in story.proven.events if isinstance(x, e.Tripped)), None)
    if first is None:
        return f"{count(len(story.runs), 'training run').capitalize()} under treaty, and no brake pulled"
    match first.cause:
        case e.ByVotes(parties):
            who = count(len(parties), "vote")
        case e.ByReadings():
            who = "warning signs"
        case e.ByFinding():
            who = "a proven violation"
    stops = story.times.stops
    if not stops:
        return f"{who.capitalize()} pulled the brake on AI training"
    stopped = count(len({(s.lab, s.run) for s in stops}), "training run")
    return f"{who.capitalize()} stopped {stopped} in {duration(max(s.milliseconds_after_quorum for s in stops))}"


def deck(story: Story) -> str:
    """The paragraph under the headline."""
    treaty, active = story.proven.treaty, story.proven.state.active
    said = [f"{count(len(treaty.parties), 'party', 'parties').capitalize()} share the treaty"]
    said[0] += f" “{treaty.title}”; {count(len(active), 'of them is', 'of them are')} bound by it."
    audits = [a for told in story.runs for a in told.audits]
    if audits:
        inspectors = count(len({a.inspector for a in audits}), "inspector").capitalize()
        said.append(f"{inspectors} ran {count(story.replayed, 'piece')} of the training again.")
    barred = [told.name for told in story.runs if told.run.bar]
    if barred:
        verb = "broke the rules and is" if len(barred) == 1 else "broke the rules and are"
        said.append(f"{names(f'“{short(b)}”' for b in barred)} {verb} barred from training.")
    passed = [told for told in story.runs if told.audits and all(a.audit.verdict == "pass" for a in told.audits)]
    if audits and len(passed) == sum(bool(told.audits) and not told.run.bar for told in story.runs):
        said.append("Every other run they looked at passed." if barred else "Every run they looked at passed.")
    if story.times.shadow_equal:
        said.append("An honest run lost nothing but time: trained again without the pause, it ends in the same state.")
    return " ".join(said)

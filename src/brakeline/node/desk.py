"""A party at the log: it can read everything, and it can say something."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Final, NamedTuple

import httpx

from brakeline.core import words
from brakeline.core.brake import Phase, Vote
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.grant import check_hope, is_trip
from brakeline.core.kinds import lane_of
from brakeline.core.run import Declaration
from brakeline.core.state import State
from brakeline.core.state.events import Event, Void
from brakeline.core.state.members import Last
from brakeline.core.state.runs import Run
from brakeline.core.statement import open_envelope
from brakeline.core.succession import KeyChange, Purpose
from brakeline.core.transcript import Head
from brakeline.core.treaty import Lane, Party, Treaty
from brakeline.core.treaty.parties import digest_of
from brakeline.core.units import about_flop
from brakeline.node.client import Follower, Trail
from brakeline.node.home import Home
from brakeline.node.http import raise_for
from brakeline.node.logclient import LogClient, Progress
from brakeline.node.moving import FILE
from brakeline.node.outbox import Outbox
from brakeline.node.peers import ask, http_client, within
from brakeline.node.ports import Thread, clock
from brakeline.node.speech import alone, compared, newest, promoted, settled
from brakeline.node.submit import add_judged

_ATTEMPTS: Final = 3  # to say one thing: a keeper of the log may void it by the order in which it logs
_PAUSE: Final = 0.25  # s between looks at the log while waiting
_ANSWER: Final = 4096  # bytes of a permit signer's answer to a vote
_SHOWING: Final = 3.0  # s that a permit signer has to take a vote
_AGAIN: Final = 30.0  # s until a vote is shown again to signers who did not take it
_LOOKING: Final = 30.0  # s that a vote to trip waits for a log that drips
_IN_VAIN: Final = 30.0  # s without growth until a log that proved an entry is said not to show it
_KEPT: Final = "what was said is signed and kept, and sent with the next command"


class Effect(NamedTuple):
    """What a statement did: its envelope and digest (hex), its log entry, and the events it caused."""

    data: bytes
    digest: str
    entry: int
    events: tuple[Event, ...]


def _trips(data: bytes) -> bool:
    envelope = open_envelope(data)
    try:
        return envelope.kind == "vote" and is_trip("vote", envelope.statement.body_as(Vote))
    except Malformed:  # kept by another build
        return False


class Desk:
    """Opens a home, its treaty, its outbox, and a follower of the treaty's log. `tell` tells a person what goes on."""

    def __init__(self, home: Home, *, tell: Callable[[str], None] = lambda _: None) -> None:
        self.home = home
        first = home.treaty
        home.me(first)
        self.tell = tell
        url = first.with_role("log")[0].log_url
        self._client = LogClient(url)
        self.follower = Follower(LogClient(url), first, home.path / "seen", put=home.path / FILE)
        box = Outbox(home.path, first, home.name, home.key("statement"), clock().wall)
        self.outbox = settled(home, box, self.state)
        self._held = set[bytes]()  # votes that every permit signer holds
        self._show_at = 0.0
        self._told: dict[str, str] = {}

    @property
    def state(self) -> State:
        """The newest state that this home has seen."""
        return self.follower.state

    @property
    def treaty(self) -> Treaty:
        """The text in force, as far as this home has seen the log."""
        return self.follower.treaty

    @property
    def me(self) -> Party:
        """This home's party, by the newest text that has it."""
        return self.state.chain.party(self.home.name) or self.home.newest.parties[self.home.name]

    def update(self, progress: Progress = lambda done, total: None) -> None:
        """Read what is new in the log, and speak from here on under its text and with its key. Raises as `Follower`."""
        self.follower.update(progress=progress)
        self.outbox = settled(self.home, self.outbox, self.state)
        if self.outbox.restored:
            found = compared(self.outbox, self.follower.client, self.state)
            self.tell(f"this home is a copy: it took back {words.count(found, 'statement')} from the log")

    def add(self, entry: bytes) -> int:
        """Bring an entry to the log and verify the proof that it is there. Raises as `add_judged`."""
        return add_judged(self._client, self.follower, entry)

    def say(self, kind: str, body: object) -> Effect:
        """Sign a statement, bring it to the log, and see what it does there: the one way to say something.

        Raises:
            Refused: it has no effect, for the reason that the fold gives, or the log will never take it.
            Unavailable: the log is out of reach, or takes it later; it is kept, and sent with the next command.
        """
        try:  # the numbers that the log holds, where it can be asked
            with within(_LOOKING) if is_trip(kind, body) else nullcontext():
                self.update()
        except Unavailable:
            pass
        except BrakelineError as e:
            if not is_trip(kind, body):
                raise
            self.tell(str(e))  # a log that shows what does not hold must not keep a vote from the permit signers
        data = self.write(kind, body)
        for attempt in range(_ATTEMPTS):
            index = self._bring(data)
            events = self._effect(index)
            void = next((e for e in events if isinstance(e, Void)), None)
            data = self.outbox.latest(data)
            if events and (void is None or not void.unjudged):
                self.outbox.heed(index)
            if void is None:
                return Effect(data, open_envelope(data).digest, index, events)
            if attempt + 1 == _ATTEMPTS or not void.unjudged:
                raise Refused(void.reason, f"entry {index} has no effect: {void.text}")
            data = self._renew(data)
        raise AssertionError("the last attempt returns or raises")

    def rekey(self, purpose: Purpose) -> int:
        """Go on to the next key (Treaty 12.1), and commit to the one after it; returns the entry that says so.

        Raises: as `say`.
        """
        self.home.tidy(purpose)
        if not self.home.holds(purpose, "next"):
            hint = "the next text enters new keys: brakeline treaty amend"
            raise Misuse(f"this home holds no next {purpose} key", hint=hint)
        before = self.outbox.key
        self.update()
        # A crash may have come between the log and this home.
        if self.outbox.key != before or promoted(self.home, purpose, self.state):
            return self.state.keyring.of[self.home.name].of(purpose).since
        after = self.home.new_after(purpose)
        new = self.home.key(purpose, "next").public
        body = KeyChange(purpose=purpose, key=new.text, next=digest_of(after.public))
        if purpose == "signer":
            entry = self.say("key", body).entry
            promoted(self.home, purpose, self.state)
        else:
            # With the next key: it begins with the number 0, and is the same statement after a crash.
            box = self.outbox.with_key(self.home.key(purpose, "next"))
            if not box.pending():
                box.write("key", body)
            entry = box.flush(self.add)[-1].index
            self._effect(entry)
        self.update()
        return entry

    def _bring(self, data: bytes) -> int:
        """The log index of a statement of the outbox, once it is there, or of what was signed in its place."""
        try:
            self.follower.update()
            try:
                self.outbox.flush(self.add, self.logged)
            except (Refused, Malformed) as e:
                final = isinstance(e, Refused) and not e.later
                if self.outbox.index_of(data) is None:
                    if isinstance(e, Malformed):
                        raise
                    what = "another statement goes first" if final else "the log takes it later"
                    raise Unavailable(f"{what}: {e}") from e
                self.tell(f"another statement {'was refused' if final else 'waits'}: {e}")
        except (Unavailable, Malformed) as e:
            raise type(e)(str(e), hint=_KEPT) from e
        index = self.outbox.index_of(data)
        return self.add(data) if index is None else index  # another process of ours may be sending it right now

    def _effect(self, index: int) -> tuple[Event, ...]:
        self.follower.update()
        since = clock().monotonic()
        while self.state.size <= index:
            if self.follower.update(wait=5):
                since = clock().monotonic()
            elif clock().monotonic() - since >= _IN_VAIN:
                raise Unavailable(f"the log proved entry {index} and does not show it")
        return self.follower.effect(index)

    def _renew(self, data: bytes) -> bytes:
        envelope = open_envelope(data)
        lane = lane_of(envelope.kind, self.treaty.rules)
        return self.outbox.renew(lane, envelope.statement.seq, after=self.logged(lane).seq)

    def write(self, kind: str, body: object) -> bytes:
        """Sign and keep a statement; a vote to trip is shown to the permit signers at once. It counts when logged."""
        lane = lane_of(kind, self.treaty.rules)
        try:
            alone(self.state, self.outbox, lane)
        except Refused as e:
            if not is_trip(kind, body):
                raise
            self.tell(str(e))  # the brake does not wait for people to find out which home is the right one
            self.outbox.contest()
        after, trip = newest(self.state, self.outbox, lane).seq, is_trip(kind, body)
        data = self.outbox.write(kind, body, after=after, apart=trip)
        if trip:
            self._show(data)
        return data

    def logged(self, lane: Lane) -> Last:
        """This party's newest statement of a lane that the log holds, as far as this home has seen.

        Raises: as `alone`, but not of the brake's lane.
        """
        return (newest if lane == "brake" else alone)(self.state, self.outbox, lane)

    def show_signers(self, envelope: bytes) -> int:
        """Show a vote to trip to every permit signer, so that nobody who keeps the log can hide it. Treaty 4.7.

        Returns how many hold it now.
        """

        def show(party: Party) -> str:
            try:
                url = f"{party.signer_url.rstrip('/')}/vote"
                raise_for(ask(client, "POST", url, _ANSWER, seconds=_SHOWING, content=envelope))
            except (httpx.HTTPError, OSError) as e:
                return f"{party.name}'s permit signer is out of reach: {e}"
            except BrakelineError as e:
                return f"{party.name}'s permit signer does not hold it: {e}"
            return ""

        signers = self.treaty.with_role("permit-signer")
        # At once: one that drips must not keep the vote from the others.
        with http_client() as client:
            troubles = [text for text in clock().at_once(show, signers) if text]
        for text in troubles:
            self.tell(text)
        if not troubles:
            self._held.add(envelope)
        return len(signers) - len(troubles)

    def _show(self, vote: bytes) -> None:
        self.tell(f"shown to {self.show_signers(vote)} permit signers")

    def _show_again(self) -> None:
        """Show the newest vote to trip that the log does not hold yet to the signers who may have been away."""
        votes = [data for lane, _, data in self.outbox.pending() if lane == "brake" and _trips(data)]
        if votes and votes[-1] not in self._held and clock().monotonic() >= self._show_at:
            self._show_at = clock().monotonic() + _AGAIN
            self._show(votes[-1])

    def catch_up(self, progress: Progress = lambda done, total: None) -> None:
        """Read what is new, and send what is pending. What the log takes later, or never, is told and left.

        What was sent and is void for its number or its date alone is signed anew: it goes with the next.
        """
        self._show_again()
        self.update(progress)
        self._review()
        if not self.outbox.pending() and self.outbox.last_index() < self.state.size:
            return
        text = ""
        try:
            self.outbox.flush(self.add, self.logged)
        except (Refused, Malformed) as e:
            final = isinstance(e, Refused) and not e.later
            text = f"a statement was refused: {e}" if final else f"a statement waits: {e}"
        self._tell_new("statement", text)
        self.update()
        self._review()

    def look(self, *, soon: bool) -> bool:
        """As `catch_up`, before a vote: whether it is done. A log that is away or lies must not keep a vote from the
        permit signers, so that is told; with `soon`, nor does one that drips.
        """
        try:
            with within(_LOOKING) if soon else nullcontext():
                self.catch_up()
            return True
        except Unavailable as e:
            self.tell(f"the log does not answer: {e}")
        except BrakelineError as e:
            self.tell(f"the log shows what does not hold: {e}")
        return False

    def _review(self) -> None:
        for void in self.outbox.review(self.follower.effect, self.state.size, self.logged):
            self.tell(f"what was kept, entry {void.entry}, has no effect: {void.text}")

    def _tell_new(self, about: str, text: str) -> None:
        """Tell what goes on, unless it is what was told last; nothing, when it goes on no more."""
        if text and text != self._told.get(about):
            self.tell(text)
        self._told[about] = text

    def history(self, progress: Progress = lambda done, total: None) -> Trail:
        """The whole log, folded anew from its first entry. Raises as `Follower.trail`."""
        return self.follower.trail(progress)


class Lab(Desk):
    """A lab's side of a run: declare, wait, commit. It outlives the log's absence; nothing it said is lost."""

    def __init__(self, home: Home, *, tell: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(home, tell=tell)
        self._pause = clock().event()
        self._due = clock().event()
        self._sender: Thread | None = None

    def declared(self, name: str, recipe: str, declaration: Callable[[], Declaration]) -> str:
        """The id of this lab's run `name`, with its seed known; declares it if it is not yet.

        Raises:
            Refused: TAMPERED, it was declared with another recipe; or as the log's rules void the declaration.
        """
        self._until_there(self.catch_up)
        run = self.state.runs.names.get((self.me.name, name))
        if run is None:
            d = declaration()
            effect = self.say("declaration", d)
            run = effect.digest
            self.tell(f"declared {name}: {about_flop(d.total_flop)}, entry {effect.entry}")
        elif self.state.run(run).declaration.recipe != recipe:
            raise Refused(
                Reason.TAMPERED,
                f"the recipe of {name} is not the one that was declared",
                hint="a changed recipe is a new run: give it another name, and this one as its parent",
            )
        if not self.state.run(run).seed:
            self.tell(f"waiting: the log's next stamp gives {name} its seed")
        while not self.state.run(run).seed:
            self._until_there(lambda: self.follower.update(wait=5))
        return run

    def clear(self, run: str) -> Run:
        """Wait until the log is there and the brake is off for `run`. Opening a run during a pause would un-stop it.

        Raises:
            Refused: BARRED, PROHIBITED, ALLOWANCE: waiting would be in vain.
        """
        while True:
            try:
                self.catch_up()
                state = self.state
                found = state.run(run)
                check_hope(state, found)
                if state.phase is Phase.CLEAR or not state.concerned(found):
                    self._tell_new("run", "")
                    return found
                text = f"waiting: the brake is {state.phase} ({words.cause(state.ballot.cause)})"
            except Unavailable as e:
                text = f"waiting: {e}"
            self._tell_new("run", text)
            self._pause.wait(_PAUSE)

    def commit(self, head: Head) -> None:
        """Write a head down; a thread brings it to the log. While the log is away or hangs, heads wait, and training
        goes on until its permit lapses: it never waits for a network.
        """
        self.outbox.write("head", head, after=newest(self.state, self.outbox, "runs").seq)
        self._due.set()
        if self._sender is None:
            self._sender = clock().start("brakeline-heads", self._send)

    def _send(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            seen, text = False, ""
            try:
                if self.outbox.pending():
                    self.update()
                    seen = True
                    self.outbox.flush(self.add, self.logged)
            except BrakelineError as e:
                final = seen and isinstance(e, Refused) and not e.later
                text = f"the log refused a head: {e}" if final else f"heads wait for the log: {e}"
            self._tell_new("heads", text)
            if text:
                self._pause.wait(1.0)
                self._due.set()  # for what is left

    def _until_there(self, act: Callable[[], object]) -> None:
        """Do it until the log is there; anything but absence is raised."""
        while True:
            try:
                act()
                self._tell_new("log", "")
                return
            except Unavailable as e:
                self._tell_new("log", f"waiting: {e}")
                self._pause.wait(1.0)

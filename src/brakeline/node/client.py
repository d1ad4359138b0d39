"""Who follows a log: everything is asked of it, and nothing is believed."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused, Unavailable
from brakeline.core.grant import stands_still
from brakeline.core.reopening import Reopening
from brakeline.core.snapshot import Snapshot, check_stated, pack, unpack
from brakeline.core.state import State, apply, begin
from brakeline.core.state.codec import decode, digest, encode
from brakeline.core.state.events import Event
from brakeline.core.state.said import authenticate
from brakeline.core.statement import open_envelope
from brakeline.core.tlog.checkpoint import Checkpoint, checkpoint_in
from brakeline.core.tlog.merkle import EMPTY_ROOT, leaf_hash, root
from brakeline.core.tlog.policy import Cosigned, verify_all
from brakeline.core.treaty import Treaty
from brakeline.node import ports
from brakeline.node.disk import disk_errors, write_atomic
from brakeline.node.evidence import keep_notes, keep_proof, shows
from brakeline.node.logclient import BUNDLE, LogClient, Progress
from brakeline.node.memory import REOPENED, STAMPED, Seen, era, stamped_in
from brakeline.node.moving import Moves, begins, is_news, read_reopening
from brakeline.node.trouble import PASSING, Trouble

_SAVE_EVERY: Final = 500  # entries; folding as many costs as much as writing a state down
_UNVOUCHED: Final = 2**16  # entries without a stamp among them that are folded before a quorum vouches for them
_RECENT: Final = 10_000  # events kept in memory
_PACE: Final = 0.25  # s that waiting in vain takes at least
_DAMAGED: Final = "the log sent entries that are not those of its checkpoint of {}"
_ROLLED: Final = "the log shows {} entries; it had more before"
_FORKED: Final = "the log shows another history than before"
_TILE: Final = "a tile is damaged, on its disk or on the way: try again, or ask its keeper"


class Trail(NamedTuple):
    """A log folded from its first entry: its state, and all that happened."""

    state: State
    events: tuple[Event, ...]


class _Folded(NamedTuple):
    """The state at a checkpoint, what happened on the way there, what is to be stated of it, and who vouches for it."""

    state: State
    events: deque[Event]
    stated: tuple[int, str, str] | None
    cosigned: Cosigned


class Follower:
    """A log followed entry by entry. `state` is the newest; it never changes, it is replaced, under `lock`.

    `memory` keeps the newest checkpoint seen, so that after a restart a log that was rolled back is refused, and now
    and then the state itself, so that the log need not be folded again. When the log shows two histories, both
    checkpoints are kept in `memory/forks`, and the proof in `memory/proofs`; the follower refuses to go on.
    """

    def __init__(
        self,
        client: LogClient,
        treaty: Treaty,
        memory: Path | None = None,
        *,
        stating: bool = False,
        put: Path | None = None,
    ) -> None:
        """With `stating`, `stated` is what a permit signer says of the state, at the newest size where it is due.

        `put` is a file into which somebody may put a reopening of the log (Treaty 11.8).
        """
        self.client = client
        self.first = treaty
        self.state = begin(treaty)
        self._moves = Moves(*([put] if put else []), *([memory / REOPENED] if memory else []))
        self._address = self.state.chain.log.url
        self._astray: BrakelineError | None = None  # why the log was not followed to where it is said to go on
        self._before = self._stamped = self.state  # one to go back to, and one that a stamp will cover
        self.cosigned: Cosigned | None = None
        self.lock = ports.clock().condition()
        self.stated: tuple[int, str, str] | None = None  # size, root (hex) and digest (hex)
        self._stating = stating
        self.heed: list[Callable[[], None]] = []  # called when `state` is another one, before it is written down
        self.recent: deque[Event] = deque(maxlen=_RECENT)
        self._updating = ports.clock().lock()  # waiting for a checkpoint is done outside it
        self.memory = memory
        self._saved = (0, era(self.state))  # size and era of the state that was written down last
        self._mark = stamped_in(memory) if memory else (0, EMPTY_ROOT)  # of the highest stamp that was seen
        self._floor: Seen | None = None
        self.doubted = False  # `trail` found that `state` is not what the log gives
        if memory is not None and (memory / "checkpoint").exists():
            with disk_errors():
                note = (memory / "checkpoint").read_bytes()
            try:
                # Whose witnesses it needed only the folded log may tell: they were there when it was kept.
                self._floor = Seen(checkpoint_in(note), note)
                self._restore(memory / "state")
                moved = read_reopening(memory / REOPENED)
                origins = (*self.state.chain.origins, *([moved[0].key.name] if moved else []))
                if self._floor.checkpoint.origin not in origins:
                    raise Refused(Reason.FOREIGN, f"{self._floor.checkpoint.origin!r} is another log")
            except BrakelineError as e:
                raise Malformed(
                    f"{memory / 'checkpoint'} is no checkpoint of this treaty's log: {e}",
                    hint="put it back from a copy, or remove it: a log rolled back meanwhile is then not noticed",
                ) from e

    def _restore(self, path: Path) -> None:
        """Start from one's own state. One that is torn, of another build or of another treaty is made anew."""
        try:
            state = decode(unpack(path.read_bytes()), self.first)
        except (OSError, BrakelineError):
            return
        if self._floor is not None and state.size <= self._floor.checkpoint.size:
            self.state, self._saved = state, (state.size, era(state))
            self._heed_address()

    @property
    def treaty(self) -> Treaty:
        """The text in force, as far as the log is known here."""
        return self.state.treaty

    @property
    def time(self) -> int:
        """Quorum time (POSIX s) of the newest cosigned checkpoint; 0 before the first."""
        return self.cosigned.time if self.cosigned else 0

    def effect(self, entry: int) -> tuple[Event, ...]:
        """What the log entry did, where it was folded here and not long ago."""
        with self.lock:
            return tuple(e for e in self.recent if e.entry == entry)

    def update(self, *, wait: int = 0, progress: Progress = lambda done, total: None) -> bool:
        """Fetch, verify and fold what is new; with `wait` (s), wait for it. True when the log has grown.

        Raises:
            Unavailable: the log is out of reach. Malformed, Refused: what it shows does not hold; nothing of it has
                been taken.
        """
        began, known = ports.clock().monotonic(), self.state.size
        if self._moved(progress, stalled=False):
            return True
        try:
            note, new = self._newest(wait)
        except BrakelineError as e:
            if self._moved(progress, stalled=True):
                return True
            raise (self._astray or e) from e
        if self._is_stale() and self._moved(progress, stalled=True):
            return True
        with self._updating:
            before = self.state.size
            folded = self._fold(note, new, progress, state=self.state, client=self.client, kept=self._kept)
            state, events, stated, new = folded
            with self.lock:
                if state.size > self.state.size:
                    self.state = state
                self.recent.extend(events)
                self.stated = stated or self.stated
                last = self.cosigned
                if last is None or (new.checkpoint.size, new.time) >= (last.checkpoint.size, last.time):
                    self.cosigned = new
                self._floor = None
                self.lock.notify_all()
            for heed in tuple(self.heed):
                heed()
            self._settle()
            if self.memory is not None and state.size > before:
                self._remember(self.memory, note, state)
        if wait and self.state.size == known:  # a keeper that does not let us wait must not make us spin
            ports.clock().sleep(max(0.0, began + _PACE - ports.clock().monotonic()))
        return state.size > before

    @property
    def _kept(self) -> list[tuple[int, bytes]]:
        return [(self._floor.checkpoint.size, self._floor.checkpoint.root)] if self._floor else []

    def _is_stale(self) -> bool:
        """Whether the log stands still, as far as is known here: it may have gone on elsewhere."""
        now = int(ports.clock().wall())
        return self.cosigned is not None and stands_still(self.state, view_time=self.time, now=now)

    def _settle(self) -> None:
        """Remember a state that a stamp covers: a reopening goes back no further. Treaty 11.8."""
        mark = self.state.clock.mark
        if mark.size >= self._stamped.size:
            self._before, self._stamped = self._stamped, self.state
        if mark.size > self._mark[0]:
            self._mark = mark.size, mark.root()
            if self.memory is not None:
                write_atomic(self.memory / STAMPED, f"{mark.size} {mark.root().hex()}\n".encode())
        self._heed_address()

    def _heed_address(self) -> None:
        url = self.state.chain.log.url
        if url != self._address:
            self._address = url
            self.client.dial(url)

    def _moved(self, progress: Progress, *, stalled: bool) -> bool:
        """Follow the log to where it goes on, if it does. Treaty 11.8, 11.9.

        What it held beyond where the new one begins is void. Nothing is taken unless the new log, folded, holds.
        """
        self._astray = None
        for r, data in self._moves.candidates(self.state, stalled=stalled):
            try:
                with self._updating:
                    self._move(r, data, progress)
                return True
            except BrakelineError as e:
                self._astray = e
        return False

    def _move(self, r: Reopening, data: bytes, progress: Progress) -> None:
        if not is_news(self.state, r):  # another thread was faster
            return
        client = LogClient(r.url)
        note = client.checkpoint()
        start = begins(r)
        # What was seen stamped is in every log that it goes on with; what came after may be void.
        kept = [self._mark] if self._mark[0] else []
        if (floor := self._floor) and (floor.checkpoint.size <= start or floor.checkpoint.origin not in r.over):
            kept.append((floor.checkpoint.size, floor.checkpoint.root))
        tentative = Refused(Reason.FOREIGN, f"{r.url} shows no log that goes on from this one (Treaty 11.8)")
        for state in (self.state, self._before, begin(self.first)):
            try:
                if state.size > start or checkpoint_in(note).size < max((size for size, _ in kept), default=0):
                    raise tentative
                folded = self._fold(note, tentative, progress, state=state, client=client, kept=kept)
                if r.key.name not in folded.state.chain.origins:
                    raise tentative
                break
            except Refused:  # what was seen last is void, perhaps: it is folded from before
                if not state.size:
                    raise
        with self.lock:
            self.state, self.cosigned, self._floor = folded.state, folded.cosigned, None
            self.recent = deque((e for e in self.recent if e.entry < state.size), maxlen=_RECENT)
            self.recent.extend(folded.events)
            self.lock.notify_all()
        for heed in tuple(self.heed):
            heed()
        self._before = self._stamped = folded.state
        self._settle()
        if self.memory is not None:
            write_atomic(self.memory / REOPENED, data)
            self._saved = (0, ())
            self._remember(self.memory, note, folded.state)

    def _newest(self, wait: int = 0) -> tuple[bytes, Cosigned | Refused]:
        """The newest checkpoint; or why its cosignatures are not enough, as far as is known before its entries are."""
        started, floor = self.state.size, self._floor
        note = self.client.checkpoint(after=started if self.cosigned else -1, wait=wait)
        size = checkpoint_in(note).size
        new: Cosigned | Refused
        try:
            new = verify_all(note, self.state.chain.need)
        except Refused as e:
            if e.reason not in (Reason.NO_QUORUM, Reason.MISSING) or not self.state.may_need_others(size):
                raise
            new = e
        if size < max(started, floor.checkpoint.size if floor else 0):
            raise Refused(Reason.ROLLBACK, _ROLLED.format(size), hint=self._against(note))
        return note, new

    def _fold(
        self,
        note: bytes,
        new: Cosigned | Refused,
        progress: Progress,
        *,
        state: State,
        client: LogClient,
        kept: Sequence[tuple[int, bytes]],
    ) -> _Folded:
        """The state at the checkpoint of `note`, from `state` on, after proving that all seen before leads there.

        `kept` are sizes and roots that the log had.
        """
        checkpoint, began = checkpoint_in(note), state
        end, chain = checkpoint.size, state.chain
        events: deque[Event] = deque(maxlen=_RECENT)
        stated = None
        if isinstance(new, Cosigned) and end < state.size:  # another thread was faster; the answer must still fit
            if end >= state.clock.base.size and state.root(end) != checkpoint.root:
                self._fork(note)
            return _Folded(state, events, stated, new)
        had = dict(kept)
        start, due = state.size, end - end % self.treaty.snapshot_every if self._stating else -1
        for entry in client.stream(start, end):
            state, happened = apply(state, entry)
            events.extend(happened)
            if state.size in had and state.root() != had[state.size]:
                return self._differs(note, new, progress)
            if state.size == due:
                stated = (state.size, state.root().hex(), digest(state))
            if state.size % BUNDLE == 0:
                progress(state.size - start, end - start)
            # What no quorum vouches for yet must not cost without end: stamps among it are cosigned, too.
            if isinstance(new, Refused) and state.size - max(start, state.clock.mark.size) > _UNVOUCHED:
                raise new
        if state.size != end:
            raise Malformed("the log sent another number of entries than it published")
        differs = state.root() != checkpoint.root
        if isinstance(new, Refused):
            if differs:
                raise new
            new = verify_all(note, state.chain.need)
        elif differs or (start in had and began.root() != had[start]):
            return self._differs(note, new, progress)
        elif state.chain.texts != chain.texts or state.chain.reopened != chain.reopened:
            new = verify_all(note, state.chain.need)
        return _Folded(state, events, stated, new)

    def _differs(self, note: bytes, new: Cosigned | Refused, progress: Progress) -> _Folded:
        """What was seen before does not lead to `new`: the log has forked, or the state kept here was not its own."""
        if isinstance(new, Refused):  # nobody has vouched for it
            raise new
        if self.cosigned is not None or not self.state.size:
            self._fork(note, self._sent(checkpoint_in(note)))
        with self.lock:  # nothing has borne the kept state out yet: before anybody is accused, it is made anew
            self.state = begin(self.first)
            self._saved = (0, era(self.state))
        return self._fold(note, new, progress, state=self.state, client=self.client, kept=self._kept)

    def _sent(self, new: Checkpoint) -> list[bytes]:
        """The leaf hashes of what the log sends; it is the log that differs, not they: a damaged tile accuses nobody.

        Raises:
            Unavailable: the entries do not give the root that was cosigned, or give it with what was seen before.
        """
        seen, leaves = self._seen(), [leaf_hash(entry) for entry in self.client.stream(0, new.size)]
        if root(leaves) != new.root or root(leaves[: seen.size]) == seen.root:
            raise Unavailable(_DAMAGED.format(new.size), hint=_TILE)
        return leaves

    def _seen(self) -> Checkpoint:
        """The checkpoint that was verified last."""
        seen = self._floor.checkpoint if self._floor else self.cosigned.checkpoint if self.cosigned else None
        return seen or Checkpoint(self.state.chain.log.key.name, 0, EMPTY_ROOT)

    def _remember(self, memory: Path, note: bytes, state: State) -> None:
        write_atomic(memory / "checkpoint", note)
        # The era, too, so that a vote during an outage is for the right epoch, and names the text in force.
        saved = era(state)
        if state.size - self._saved[0] >= _SAVE_EVERY or saved != self._saved[1]:
            write_atomic(memory / "state", pack(encode(state)))
            self._saved = state.size, saved

    def start_from_signers(self) -> None:
        """Start from the newest state that a permit quorum states in the log, instead of the first entry. Treaty 6.6.

        What that trusts: that at most `faults` of the signers err, and the witnesses as ever.

        Raises:
            Refused(NO_QUORUM): too few state what the log offers. Others as `update`.
        """
        state = decode(unpack(self.client.snapshot()), self.first)
        size = state.size
        offered = Snapshot(rules=state.treaty.rules, size=size, root=state.root().hex(), state=digest(state))
        note = self.client.checkpoint()
        checkpoint = checkpoint_in(note)
        # Of the first text's signers alone: whom a later text made one is not known before the log has been folded.
        check_stated(self._stated(size, checkpoint.size), offered, self.treaty.permit)
        after = state  # nothing is folded from a state that nobody stated
        for entry in self.client.stream(size, checkpoint.size):
            after, _ = apply(after, entry)
        if after.root() != checkpoint.root:
            raise Refused(Reason.TAMPERED, "the state that the log offers does not lead to its checkpoint")
        new = verify_all(note, after.chain.need)
        floor = self._floor.checkpoint if self._floor else None
        if floor and floor.size > checkpoint.size:
            raise Refused(Reason.ROLLBACK, _ROLLED.format(checkpoint.size))
        if floor and floor.size >= after.clock.base.size and after.root(floor.size) != floor.root:
            self._fork(note)
        with self._updating, self.lock:
            self.state, self.cosigned = after, new

    def _stated(self, start: int, end: int) -> Iterator[tuple[str, Snapshot]]:
        """What permit signers of the first text state in these entries, and who."""
        first, signers = begin(self.first), {p.name for p in self.first.with_role("permit-signer")}
        for entry in self.client.stream(start, end):
            with suppress(BrakelineError):
                if open_envelope(entry).kind == "snapshot":
                    said = authenticate(first, entry)
                    if said.issuer in signers:
                        yield said.issuer, said.statement.body_as(Snapshot)

    def trail(self, progress: Progress = lambda done, total: None) -> Trail:
        """The log folded anew from its first entry up to here: what trusts no snapshot.

        Raises:
            Refused(TAMPERED): the state followed until now is another one. Unavailable: the log does not serve it.
        """
        mine = self.state
        state, events = begin(self.first), list[Event]()
        for entry in self.client.stream(0, mine.size):
            state, happened = apply(state, entry)
            events += happened
            if state.size % BUNDLE == 0:
                progress(state.size, mine.size)
        if state.root() != mine.root():  # what was kept here was cosigned; what was sent now was not
            raise Unavailable(_DAMAGED.format(mine.size), hint=_TILE)
        if digest(state) != digest(mine):
            self.doubted = True
            raise Refused(
                Reason.TAMPERED,
                f"folded anew, the log gives another state at {mine.size} entries than the one kept here",
                hint=f"remove {self.memory / 'state'} and report it" if self.memory else "",
            )
        return Trail(state, tuple(events))

    def _fork(self, note: bytes, leaves: Sequence[bytes] = ()) -> NoReturn:
        """Keep both checkpoints: together they prove to anybody that the log and a quorum signed two histories."""
        hint, mine = self._against(note, leaves), self._shown()
        if self.memory is not None and mine is not None:
            kept = keep_notes(self.memory, mine, note)
            hint = hint or f"both checkpoints are kept in {kept}"
        raise Refused(Reason.EQUIVOCATION, _FORKED, hint=hint)

    def _shown(self) -> bytes | None:
        """The note that was verified last."""
        return self._floor.note if self._floor else self.cosigned.note.encode() if self.cosigned else None

    def _against(self, note: bytes, leaves: Sequence[bytes] = ()) -> str:
        """Keep what proves that a log or a witness contradicts itself with this note, if it does; says where."""
        mine = self._shown()
        if self.memory is None or mine is None:
            return ""
        path = keep_proof(self.memory, mine, note, self.state.chain.need(self._seen().size)[0], leaves)
        return shows(path) if path else ""

    def follow(self, stop: ports.Event, on_trouble: Callable[[BrakelineError], None]) -> None:
        """Update until `stop` is set. Trouble is tried again: what is not known is not acted upon."""
        trouble = Trouble(on_trouble)
        while not stop.is_set():
            try:
                self.update(wait=5)
                trouble.over()
            except PASSING as e:
                trouble.met(e)
                stop.wait(_PACE)

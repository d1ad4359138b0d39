"""The outbox: every statement a party signs goes through here, so that no two of a lane ever share a number.

A statement is written down, durably, before anybody sees it. After a crash the same bytes are sent again, and the log
answers with the place they already have. Several processes of one party may use it at once.

Nothing is lost to the clock: what the log will take later stays pending, and what it will never take as it is (its
number was passed, or its day is spent or too long ago) is signed anew. Lanes do not wait for one another, and the
brake's goes first.

A home that was put back from a copy has forgotten numbers that it gave. Whoever sends says which the log holds, so that
none is given to a second statement: that would be to equivocate. One that is known to be a copy says nothing before it
has taken back from the log what the log holds of it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from brakeline.core.encoding import canonical, parse_json
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused, Unavailable
from brakeline.core.keys import PrivateKey, PublicKey
from brakeline.core.kinds import lane_of
from brakeline.core.state.clock import SECONDS_A_DAY
from brakeline.core.state.events import Event, Void
from brakeline.core.state.members import LANES, Last
from brakeline.core.statement import GENESIS, Envelope, Statement, open_envelope, sign, verify
from brakeline.core.treaty import Lane, Treaty
from brakeline.core.treaty.values import SKEW
from brakeline.node import ports
from brakeline.node.disk import database_errors, disk_errors, transaction, write_atomic
from brakeline.node.memory import CONTESTED, RESTORED
from brakeline.node.outboxfile import open_outbox

_APART: Final = 2**20  # numbers that no home gives while it does not see what another one says
LIFETIME: Final = 365 * 86400  # s: how long a statement may still be logged and counts, unless told otherwise
Logged = Callable[[Lane], Last]  # the newest statement of this party and lane that a view of the log holds


@dataclass(frozen=True, slots=True)
class Sent:
    """A statement in the log: its envelope, its digest (hex) and its index."""

    data: bytes
    digest: str
    index: int


class Outbox:
    """One party's numbered statements, under the text in force and the key in use. `clock` gives POSIX seconds.

    Numbers begin anew with every key (Treaty 12.1); what was said with an earlier one is kept beside it.
    """

    def __init__(self, path: Path, treaty: Treaty, issuer: str, key: PrivateKey, clock: Callable[[], float]) -> None:
        self.under(treaty)
        self.issuer, self._key, self._clock = issuer, key, clock
        self._id, self._path = key.public.id, path
        self._db, self._copied = open_outbox(path, self._id)
        self._using = ports.clock().lock()  # the connection
        self._sending = ports.clock().lock()  # so that statements reach the log in order
        self._followed = set[int]()  # entries at which the log was reopened
        self._ids = set[bytes]()  # of the keys that this outbox has used
        self._unseen = set[int]()  # log entries whose effect this process cannot tell

    def close(self) -> None:
        self._db.close()

    @property
    def key(self) -> PublicKey:
        """The key that signs."""
        return self._key.public

    def under(self, treaty: Treaty) -> None:
        """What is said from here on names this text."""
        self._text, self._treaty, self._rules = treaty, treaty.digest, treaty.rules

    def with_key(self, key: PrivateKey) -> "Outbox":
        """This outbox, with another key that signs."""
        return Outbox(self._path, self._text, self.issuer, key, self._clock)

    def follow(self, reopened: Iterable[int]) -> None:
        """Send again what the log held beyond where it was reopened, in these entries: there it is void. Treaty 11.9.

        What the new log holds all the same answers with the place that it has.
        """
        new = set(reopened) - self._followed
        if not new:
            return
        with self._using, database_errors(), transaction(self._db):
            for entry in new:
                if self._db.execute("INSERT OR IGNORE INTO reopened VALUES (?)", (entry,)).rowcount:
                    rows = self._db.execute("SELECT rowid, data FROM said WHERE idx >= ?", (entry,)).fetchall()
                    for row, data in rows:
                        # What it stated of the part that is void, it states of no other.
                        void = "void" if open_envelope(data).kind == "snapshot" else None
                        again = "UPDATE said SET idx = NULL, reviewed = NULL, refused = ? WHERE rowid = ?"
                        self._db.execute(again, (void, row))
        self._followed |= new
        self._unseen.clear()

    def carried(self, data: bytes) -> None:
        """What others bring to the log in a statement of theirs: its number is spent here, and it is not sent."""
        envelope = open_envelope(data)
        self._mark(lane_of(envelope.kind, self._rules), envelope.statement.seq, "refused", "carried by another")

    def carry(self) -> int:
        """Sign anew what waits under other keys of this party: the log has gone on to this one. Returns how much.

        A change of keys is not carried: what it changed to is in force, or came after.
        """
        count = 0
        if self.restored:
            return count
        with self._using, database_errors(), transaction(self._db):
            waits = "SELECT key, lane, seq, data FROM said WHERE key != ? AND idx IS NULL AND refused IS NULL"
            for key, lane, seq, data in self._db.execute(f"{waits} ORDER BY seq", (self._id,)).fetchall():
                envelope = open_envelope(data)
                if envelope.kind == "key":
                    continue
                s = envelope.statement
                again = self._write(lane, envelope.kind, s.body, s.expires - s.not_before, -1)
                self._replaced(key, lane, seq, again)
                count += 1
        return count

    def _replaced(self, key: str, lane: str, seq: int, again: bytes) -> None:
        instead = f"{self._id} {open_envelope(again).statement.seq}"
        self._db.execute(
            "UPDATE said SET refused = 'signed anew', instead = ? WHERE key = ? AND lane = ? AND seq = ?",
            (instead, key, lane, seq),
        )

    def write(
        self, kind: str, body: object, *, lifetime: int = LIFETIME, after: int = -1, apart: bool = False
    ) -> bytes:
        """Number, sign and keep a statement. It counts only once `flush` has brought it to the log.

        `after` is the newest number that the log holds of this party and lane: a home that was put back from a copy
        goes on behind it instead of using a number twice. What is said `apart` may be shown to others before the log
        holds it: a copy, which cannot see what was shown so, says it far behind all that it knows of.

        Raises:
            Malformed: larger than a log takes. Unavailable, Refused: the outbox cannot be used, is damaged, or is a
                copy that was not compared with the log yet.
        """
        if apart and (self._copied or self.restored):
            after = max(after, self.newest(lane_of(kind, self._rules))) + _APART + int.from_bytes(ports.dice(4), "big")
        else:
            self._check_compared()
        with self._using, database_errors(), transaction(self._db):
            return self._write(lane_of(kind, self._rules), kind, parse_json(canonical(body)), lifetime, after)

    def _write(self, lane: Lane, kind: str, body: dict[str, object], lifetime: int, after: int) -> bytes:
        now = int(self._clock())
        row = self._db.execute(
            "SELECT seq, data FROM said WHERE key = ? AND lane = ? ORDER BY seq DESC LIMIT 1", (self._id, lane)
        ).fetchone()
        seq, prev = (row[0] + 1, open_envelope(row[1]).digest) if row else (0, GENESIS)
        statement = Statement(
            treaty=self._treaty,
            issuer=self.issuer,
            seq=max(seq, after + 1),
            prev=prev,
            not_before=now,
            expires=now + lifetime,
            body=body,
        )
        data = sign(kind, statement, self._key)
        open_envelope(data)  # what no log takes would wait for ever, and all of its lane with it
        row_ = (self._id, lane, statement.seq, data)
        self._db.execute("INSERT INTO said (key, lane, seq, data) VALUES (?, ?, ?, ?)", row_)
        return data

    @property
    def restored(self) -> bool:
        """Whether this is a copy that was put back, and not compared with the log yet."""
        return (self._path / RESTORED).exists()

    def _check_compared(self) -> None:
        if self.restored:
            text = "this home was put back from a copy, and says nothing before it has read the log"
            raise Unavailable(text, hint="try again when the log is there: a number must not be given twice")

    def gave(self, lane: Lane, last: Last) -> bool:
        """Whether `last`, the newest of a lane in the log, is this outbox's own, and all before it; of none it is."""
        query = "SELECT data FROM said WHERE key = ? AND lane = ? AND seq = ?"
        with self._using, database_errors():
            row = self._db.execute(query, (self._id, lane, last.seq)).fetchone()
        own = last.seq < 0 or (row is not None and open_envelope(row[0]).what == last.what)
        return own and not (self._path / CONTESTED).exists()

    def contest(self) -> None:
        """Another home speaks for this party, and this one goes on behind it: it is not to be forgotten by that."""
        write_atomic(self._path / CONTESTED, b"")

    def take_back(self, log: Iterable[tuple[int, bytes]]) -> int:
        """Take from the log's entries, each with its index, what this party has said with the key in use.

        What waits here under a number that the log gave to something else is signed anew behind it. From here on the
        home is no copy any more. Returns how many statements it did not know to be in the log.
        """
        count, again = 0, list[Envelope]()
        with self._using, disk_errors(), database_errors(), transaction(self._db):
            waits = "SELECT data, rowid FROM said WHERE key != ? AND idx IS NULL AND refused IS NULL"
            older = dict(self._db.execute(waits, (self._id,)).fetchall())
            for index, data in log:
                if (row := older.get(data)) is not None:  # said with a key of before: it is not to be carried
                    self._db.execute("UPDATE said SET idx = ?, reviewed = 1 WHERE rowid = ?", (index, row))
                envelope = self._own(data)
                if envelope is None:
                    continue
                place = self._id, lane_of(envelope.kind, self._rules), envelope.statement.seq
                where = "WHERE key = ? AND lane = ? AND seq = ?"
                row = self._db.execute(f"SELECT data, idx, refused FROM said {where}", place).fetchone()
                count += row is None or row[1] is None
                if row is None:
                    query = "INSERT INTO said (key, lane, seq, data, idx, reviewed) VALUES (?, ?, ?, ?, ?, 1)"
                    self._db.execute(query, (*place, data, index))
                    continue
                if row[1:] == (None, None) and open_envelope(row[0]).what != envelope.what:
                    again.append(open_envelope(row[0]))
                query = f"UPDATE said SET data = ?, idx = ?, refused = NULL, instead = NULL, reviewed = 1 {where}"
                self._db.execute(query, (data, index, *place))
            for waiting in again:
                s = waiting.statement
                lane = lane_of(waiting.kind, self._rules)
                self._write(lane, waiting.kind, s.body, s.expires - s.not_before, -1)
        with disk_errors():
            for mark in (CONTESTED, RESTORED):
                (self._path / mark).unlink(missing_ok=True)
        self.carry()
        return count

    def may_be_own(self, entry: bytes) -> bool:
        """Whether a log entry may be this party's: by any key that it has used here, forged or not."""
        if not self._ids:
            with self._using, database_errors():
                used = self._db.execute("SELECT DISTINCT key FROM said").fetchall()
            self._ids = {self._id.encode(), *(id_.encode() for (id_,) in used)}
        return any(id_ in entry for id_ in self._ids)

    def _own(self, data: bytes) -> Envelope | None:
        if self._id.encode() not in data:
            return None
        try:
            envelope = open_envelope(data)
            verify(envelope, self._key.public)
            return envelope if envelope.statement.issuer == self.issuer else None
        except BrakelineError:
            return None

    def newest(self, lane: Lane) -> int:
        """The newest number that this outbox gave in a lane; -1 before the first."""
        return self._newest(lane, "TRUE")

    def last_index(self) -> int:
        """The largest index at which the log holds a statement of this outbox; -1 where it holds none."""
        with self._using, database_errors():
            (found,) = self._db.execute("SELECT max(idx) FROM said").fetchone()
        return -1 if found is None else int(found)

    def _newest(self, lane: Lane, where: str) -> int:
        with self._using, database_errors():
            query = f"SELECT max(seq) FROM said WHERE key = ? AND lane = ? AND {where}"
            found = self._db.execute(query, (self._id, lane)).fetchone()[0]
        return -1 if found is None else int(found)

    def pending(self) -> list[tuple[Lane, int, bytes]]:
        """(lane, seq, envelope) of statements neither logged nor refused: the brake's lane first, each in order."""
        with self._using, database_errors():
            rows = self._db.execute(
                "SELECT lane, seq, data FROM said WHERE key = ? AND idx IS NULL AND refused IS NULL ORDER BY seq",
                (self._id,),
            ).fetchall()
        return sorted(rows, key=lambda row: LANES.index(row[0]))

    def flush(self, add: Callable[[bytes], int], logged: Logged = lambda _: Last()) -> tuple[Sent, ...]:
        """Bring everything pending to the log. `add` sends one envelope and returns its index.

        Raises:
            Unavailable: the log is out of reach; what is left stays pending. Refused: the log will never take one; it
                is marked, so that it does not block the others; or, with `later`, it takes a lane's next one only
                another time. Malformed: an answer is none. All other lanes have been sent by then.
        """
        self._check_compared()
        sent: list[Sent] = []
        trouble: Refused | Malformed | None = None
        stuck: set[str] = set()
        with self._sending:
            for lane, seq, data in self.pending():
                if lane in stuck:
                    continue
                try:
                    sent.append(self._send(add, logged, lane, seq, data))
                except (Refused, Malformed) as e:
                    trouble = e
                    if isinstance(e, Malformed) or e.later:
                        stuck.add(lane)
        if trouble is not None:
            raise trouble
        return tuple(sent)

    def _send(self, add: Callable[[bytes], int], logged: Logged, lane: Lane, seq: int, data: bytes) -> Sent:
        """Bring one statement to the log, or what is signed in its place."""
        while True:
            last = logged(lane)
            try:
                if seq == last.seq and open_envelope(data).what != last.what:
                    raise Refused(Reason.REPLAYED, f"the log holds another statement number {seq} of the lane {lane}")
                index = add(data)
                break
            except Refused as e:
                passed = max(last.seq, self._newest(lane, "idx IS NOT NULL"))
                if not self._is_stale(e, data):
                    if not e.later:
                        self._mark(lane, seq, "refused", str(e))
                    raise
                if e.reason is Reason.REPLAYED and passed < seq:
                    # To go on by guessing would end at a number that is taken.
                    raise Refused(e.reason, f"{e}, which this home has not seen yet", later=True) from e
                data = self.renew(lane, seq, after=passed)
                seq = open_envelope(data).statement.seq
        self._mark(lane, seq, "idx", index)
        return Sent(data, open_envelope(data).digest, index)

    def _is_stale(self, e: Refused, data: bytes) -> bool:
        """Whether the same body, signed anew, may be taken: its number was passed, or its date was wrong or is over."""
        s, now = open_envelope(data).statement, self._clock()
        # On the same day the same would happen again, as where this machine's clock is wrong.
        over = s.not_before // SECONDS_A_DAY < now // SECONDS_A_DAY and s.expires > now
        match e.reason:
            case Reason.REPLAYED:
                return True
            case Reason.NOT_YET_VALID:  # signed while this machine's clock ran ahead
                return s.not_before > now + SKEW
            case Reason.BUDGET:
                return over
            case Reason.EXPIRED:
                return over and not e.later
        return False

    def review(self, effect: Callable[[int], tuple[Event, ...]], size: int, logged: Logged) -> tuple[Void, ...]:
        """Sign anew what the log holds and voids for its number, date or budget alone, whoever of ours sent it.

        `effect` gives what a log entry did, `size` is how many entries have been folded. It goes with the next flush.
        Returns what has no effect for another reason, each once.
        """
        found: list[Void] = []
        with self._using, database_errors():
            rows = self._db.execute(
                "SELECT lane, seq, idx FROM said WHERE key = ? AND idx < ? AND reviewed IS NULL AND refused IS NULL",
                (self._id, size),
            ).fetchall()
        for lane, seq, index in rows:
            if index in self._unseen:
                continue
            events = effect(index)
            if not events:  # folded before this process, or long ago
                self._unseen.add(index)
                continue
            void = next((event for event in events if isinstance(event, Void)), None)
            if void is not None and void.unjudged:
                self.renew(lane, seq, after=logged(lane).seq)
            elif void is not None:
                found.append(void)
            self._mark(lane, seq, "reviewed", 1)
        return tuple(found)

    def heed(self, index: int) -> None:
        """What the log entry did has been told already: `review` passes over it."""
        with self._using, database_errors(), transaction(self._db):
            self._db.execute("UPDATE said SET reviewed = 1 WHERE idx = ?", (index,))

    def renew(self, lane: Lane, seq: int, *, after: int = -1) -> bytes:
        """Sign a statement anew under the next number, in place of the one that can no longer count.

        Raises as `write`.
        """
        self._check_compared()
        with self._using, database_errors(), transaction(self._db):
            query = "SELECT data, instead FROM said WHERE key = ? AND lane = ? AND seq = ?"
            data, instead = self._db.execute(query, (self._id, lane, seq)).fetchone()
            if instead is not None:  # another process of ours was faster
                key, number = instead.split(" ")
                found: bytes = self._db.execute(query, (key, lane, int(number))).fetchone()[0]
                return found
            envelope = open_envelope(data)
            s = envelope.statement
            again = self._write(lane, envelope.kind, s.body, s.expires - s.not_before, after)
            self._replaced(self._id, lane, seq, again)
        return again

    def latest(self, data: bytes) -> bytes:
        """The statement itself, or what was signed in its place."""
        return self._follow(data)[0]

    def index_of(self, data: bytes) -> int | None:
        """Where a statement is in the log, or what was signed in its place; None while it is pending.

        Raises:
            Refused: the log will never take it.
        """
        _, index, refused = self._follow(data)
        if refused:
            raise Refused(Reason.REPLAYED, f"the log does not take it: {refused}")
        return index

    def _follow(self, data: bytes) -> tuple[bytes, int | None, str | None]:
        s = open_envelope(data)
        key, lane, seq = s.signatures[0][0], lane_of(s.kind, self._rules), s.statement.seq
        while True:
            with self._using, database_errors():
                row = self._db.execute(
                    "SELECT data, idx, refused, instead FROM said WHERE key = ? AND lane = ? AND seq = ?",
                    (key, lane, seq),
                ).fetchone()
            found, index, refused, instead = row or (data, None, None, None)
            if instead is None:
                return found, None if index is None else int(index), refused
            key, number = instead.split(" ")
            seq = int(number)

    def _mark(self, lane: Lane, seq: int, column: str, value: object) -> None:
        with self._using, database_errors(), transaction(self._db):
            self._db.execute(
                f"UPDATE said SET {column} = ? WHERE key = ? AND lane = ? AND seq = ?", (value, self._id, lane, seq)
            )

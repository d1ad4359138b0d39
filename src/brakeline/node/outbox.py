"""The outbox: every statement a party signs goes through here, so that no two of a lane ever share a number.

A statement is written down, durably, before anybody sees it. After a crash the same bytes are sent again, and the log
answers with the place they already have. Several processes of one party may use it at once.

Nothing is lost to the clock: what the log will take later stays pending, and what it will never take as it is (its
number was passed, or its day is too long ago) is signed anew. Lanes do not wait for one another, and the brake's goes
first.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from brakeline.core.encoding import canonical, parse_json
from brakeline.core.errors import Reason, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.kinds import lane_of
from brakeline.core.state.members import LANES
from brakeline.core.statement import GENESIS, Statement, open_envelope, sign
from brakeline.core.treaty import Lane, Treaty
from brakeline.node.disk import connect, database_errors, transaction

LIFETIME: Final = 365 * 86400  # s: how long a statement may still be logged and counts, unless told otherwise
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS outgoing (
    lane TEXT, seq INTEGER, data BLOB NOT NULL, idx INTEGER, refused TEXT, instead INTEGER, PRIMARY KEY (lane, seq)
)"""


@dataclass(frozen=True, slots=True)
class Sent:
    """A statement in the log: its envelope, its digest (hex) and its index."""

    data: bytes
    digest: str
    index: int


class Outbox:
    """One party's numbered statements under one treaty. `clock` gives POSIX seconds."""

    def __init__(self, path: Path, treaty: Treaty, issuer: str, key: PrivateKey, clock: Callable[[], float]) -> None:
        self._treaty, self._rules = treaty.digest, treaty.rules
        self._issuer, self._key, self._clock = issuer, key, clock
        with database_errors():
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = connect(path / "outbox.sqlite")
            self._db.execute("PRAGMA busy_timeout=30000")
            self._db.execute(_SCHEMA)
        self._using = threading.Lock()  # the connection
        self._sending = threading.Lock()  # so that statements reach the log in order

    def close(self) -> None:
        self._db.close()

    def write(self, kind: str, body: object, *, lifetime: int = LIFETIME, after: int = -1) -> bytes:
        """Number, sign and keep a statement. It counts only once `flush` has brought it to the log.

        `after` is the newest number that the log holds of this party and lane: a home that was put back from a copy
        goes on behind it instead of using a number twice.
        """
        with self._using, database_errors(), transaction(self._db):
            return self._write(lane_of(kind, self._rules), kind, parse_json(canonical(body)), lifetime, after)

    def _write(self, lane: Lane, kind: str, body: dict[str, object], lifetime: int, after: int) -> bytes:
        now = int(self._clock())
        row = self._db.execute(
            "SELECT seq, data FROM outgoing WHERE lane = ? ORDER BY seq DESC LIMIT 1", (lane,)
        ).fetchone()
        seq, prev = (row[0] + 1, open_envelope(row[1]).digest) if row else (0, GENESIS)
        statement = Statement(
            treaty=self._treaty,
            issuer=self._issuer,
            seq=max(seq, after + 1),
            prev=prev,
            not_before=now,
            expires=now + lifetime,
            body=body,
        )
        data = sign(kind, statement, self._key)
        self._db.execute("INSERT INTO outgoing (lane, seq, data) VALUES (?, ?, ?)", (lane, statement.seq, data))
        return data

    def newest(self, lane: Lane) -> int:
        """The newest number that this outbox gave in a lane; -1 before the first."""
        with self._using, database_errors():
            found = self._db.execute("SELECT max(seq) FROM outgoing WHERE lane = ?", (lane,)).fetchone()[0]
        return -1 if found is None else int(found)

    def pending(self) -> list[tuple[Lane, int, bytes]]:
        """(lane, seq, envelope) of statements neither logged nor refused: the brake's lane first, each in order."""
        with self._using, database_errors():
            rows = self._db.execute(
                "SELECT lane, seq, data FROM outgoing WHERE idx IS NULL AND refused IS NULL ORDER BY seq"
            ).fetchall()
        return sorted(rows, key=lambda row: LANES.index(row[0]))

    def flush(self, add: Callable[[bytes], int]) -> tuple[Sent, ...]:
        """Bring everything pending to the log. `add` sends one envelope and returns its index.

        Raises:
            Unavailable: the log is out of reach; what is left stays pending. Refused: the log will never take one; it
                is marked, so that it does not block the others; or, with `later`, it takes a lane's next one only
                another time. All other lanes have been sent by then.
        """
        sent: list[Sent] = []
        trouble: Refused | None = None
        stuck: set[str] = set()
        with self._sending:
            for lane, seq, data in self.pending():
                if lane in stuck:
                    continue
                try:
                    sent.append(self._send(add, lane, seq, data))
                except Refused as e:
                    trouble = e
                    if e.later:
                        stuck.add(lane)
                    else:
                        self._mark(lane, seq, "refused", str(e))
        if trouble is not None:
            raise trouble
        return tuple(sent)

    def _send(self, add: Callable[[bytes], int], lane: Lane, seq: int, data: bytes) -> Sent:
        try:
            index = add(data)
        except Refused as e:
            if not self._is_stale(e, data):
                raise
            again = self.renew(lane, seq)
            index = add(again)
            seq, data = open_envelope(again).statement.seq, again
        self._mark(lane, seq, "idx", index)
        return Sent(data, open_envelope(data).digest, index)

    def _is_stale(self, e: Refused, data: bytes) -> bool:
        """Whether the same body, signed anew, may be taken: its number was passed, or it is dated too far back."""
        if e.later:
            return False
        expired = e.reason is Reason.EXPIRED and open_envelope(data).statement.expires > self._clock()
        return expired or e.reason is Reason.REPLAYED

    def renew(self, lane: Lane, seq: int, *, after: int = -1) -> bytes:
        """Sign a statement anew under the next number, in place of the one that can no longer count."""
        with self._using, database_errors(), transaction(self._db):
            (data,) = self._db.execute(
                "SELECT data FROM outgoing WHERE lane = ? AND seq = ?", (lane, seq)
            ).fetchone()
            envelope = open_envelope(data)
            s = envelope.statement
            again = self._write(lane, envelope.kind, s.body, s.expires - s.not_before, after)
            self._db.execute(
                "UPDATE outgoing SET refused = 'signed anew', instead = ? WHERE lane = ? AND seq = ?",
                (open_envelope(again).statement.seq, lane, seq),
            )
        return again

    def index_of(self, data: bytes) -> int | None:
        """Where a statement is in the log, or what was signed in its place; None while it is pending.

        Raises:
            Refused: the log will never take it.
        """
        s = open_envelope(data)
        lane, seq = lane_of(s.kind, self._rules), s.statement.seq
        while True:
            with self._using, database_errors():
                row = self._db.execute(
                    "SELECT idx, refused, instead FROM outgoing WHERE lane = ? AND seq = ?", (lane, seq)
                ).fetchone()
            index, refused, instead = row or (None, None, None)
            if instead is None:
                if refused:
                    raise Refused(Reason.REPLAYED, f"the log does not take it: {refused}")
                return None if index is None else int(index)
            seq = instead

    def _mark(self, lane: Lane, seq: int, column: str, value: object) -> None:
        with self._using, database_errors(), transaction(self._db):
            self._db.execute(f"UPDATE outgoing SET {column} = ? WHERE lane = ? AND seq = ?", (value, lane, seq))

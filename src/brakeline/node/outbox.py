"""The outbox: every statement a party signs goes through here, so that no two ever share a number.

A statement is written down, durably, before anybody sees it. After a crash the same bytes are sent again, and the log
answers with the place they already have. Several processes of one party may use it at once.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from brakeline.core.encoding import canonical, parse_json
from brakeline.core.errors import Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.statement import GENESIS, Statement, open_envelope, sign
from brakeline.node.disk import connect, database_errors, transaction

LIFETIME = 365 * 86400  # s: how long a statement may still be logged and counts, unless told otherwise


@dataclass(frozen=True, slots=True)
class Sent:
    """A statement in the log: its envelope, its digest (hex) and its index."""

    data: bytes
    digest: str
    index: int


class Outbox:
    """One party's numbered statements under one treaty (hex digest). `clock` gives POSIX seconds."""

    def __init__(self, path: Path, treaty: str, issuer: str, key: PrivateKey, clock: Callable[[], float]) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._treaty, self._issuer, self._key, self._clock = treaty, issuer, key, clock
        self._db = connect(path / "outbox.sqlite")
        self._db.execute("PRAGMA busy_timeout=30000")
        self._using = threading.Lock()  # the connection
        self._sending = threading.Lock()  # so that statements reach the log in order
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS statement"
            " (treaty TEXT, seq INTEGER, data BLOB NOT NULL, idx INTEGER, refused TEXT, PRIMARY KEY (treaty, seq))"
        )

    def close(self) -> None:
        self._db.close()

    def write(self, kind: str, body: object, *, lifetime: int = LIFETIME) -> bytes:
        """Number, sign and keep a statement. It counts only once `flush` has brought it to the log."""
        now = int(self._clock())
        with self._using, database_errors(), transaction(self._db):
            row = self._db.execute(
                "SELECT seq, data FROM statement WHERE treaty = ? ORDER BY seq DESC LIMIT 1", (self._treaty,)
            ).fetchone()
            seq, prev = (row[0] + 1, open_envelope(row[1]).digest) if row else (0, GENESIS)
            statement = Statement(
                treaty=self._treaty,
                issuer=self._issuer,
                seq=seq,
                prev=prev,
                not_before=now,
                expires=now + lifetime,
                body=parse_json(canonical(body)),
            )
            data = sign(kind, statement, self._key)
            self._db.execute("INSERT INTO statement (treaty, seq, data) VALUES (?, ?, ?)", (self._treaty, seq, data))
        return data

    def pending(self) -> list[tuple[int, bytes]]:
        """(seq, envelope) of statements neither logged nor refused, in order."""
        with self._using, database_errors():
            return self._db.execute(
                "SELECT seq, data FROM statement WHERE treaty = ? AND idx IS NULL AND refused IS NULL ORDER BY seq",
                (self._treaty,),
            ).fetchall()

    def flush(self, add: Callable[[bytes], int]) -> tuple[Sent, ...]:
        """Bring everything pending to the log, in order. `add` sends one envelope and returns its index.

        Raises:
            Unavailable: the log is out of reach; what is left stays pending. Refused: the log will never take one; it
                is marked, so that it does not block the others.
        """
        sent = []
        with self._sending:
            for seq, data in self.pending():
                try:
                    index = add(data)
                except Refused as e:
                    self._mark(seq, "refused", str(e))
                    raise
                self._mark(seq, "idx", index)
                sent.append(Sent(data, open_envelope(data).digest, index))
        return tuple(sent)

    def send(self, add: Callable[[bytes], int], kind: str, body: object, *, lifetime: int = LIFETIME) -> Sent:
        """Write one statement, flush, and say where it is in the log."""
        data = self.write(kind, body, lifetime=lifetime)
        self.flush(add)
        with self._using, database_errors():
            row = self._db.execute(
                "SELECT idx FROM statement WHERE treaty = ? AND data = ?", (self._treaty, data)
            ).fetchone()
        # Another process of ours may be sending it right now; the log answers both with one index.
        return Sent(data, open_envelope(data).digest, add(data) if row[0] is None else row[0])

    def _mark(self, seq: int, column: str, value: object) -> None:
        with self._using, database_errors(), transaction(self._db):
            self._db.execute(
                f"UPDATE statement SET {column} = ? WHERE treaty = ? AND seq = ?", (value, self._treaty, seq)
            )

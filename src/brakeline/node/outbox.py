"""The outbox: every statement a party signs goes through here, so that no two ever share a number.

A statement is written down, durably, before anybody sees it. After a crash the same bytes are sent again, and the log
answers with the place they already have. Several processes of one party may use it at once.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from brakeline.core.encoding import canonical, parse_json, sha256
from brakeline.core.errors import Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.statement import GENESIS, Statement, open_envelope, sign

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
        self._db = sqlite3.connect(
            path / "outbox.sqlite", timeout=30, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS statement"
            " (treaty TEXT, seq INTEGER, data BLOB NOT NULL, idx INTEGER, refused TEXT, PRIMARY KEY (treaty, seq))"
        )

    def close(self) -> None:
        self._db.close()

    def write(self, kind: str, body: object, *, lifetime: int = LIFETIME) -> bytes:
        """Number, sign and keep a statement. It counts only once `flush` has brought it to the log."""
        now = int(self._clock())
        self._db.execute("BEGIN IMMEDIATE")
        try:
            row = self._db.execute(
                "SELECT seq, data FROM statement WHERE treaty = ? ORDER BY seq DESC LIMIT 1", (self._treaty,)
            ).fetchone()
            seq, prev = (row[0] + 1, sha256(open_envelope(row[1]).payload).hex()) if row else (0, GENESIS)
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
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        return data

    def pending(self) -> list[tuple[int, bytes]]:
        """(seq, envelope) of statements neither logged nor refused, in order."""
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
        row = self._db.execute(
            "SELECT idx FROM statement WHERE treaty = ? AND data = ?", (self._treaty, data)
        ).fetchone()
        if row is None or row[0] is None:  # another process of ours is sending it right now
            index = add(data)
        else:
            index = row[0]
        return Sent(data, open_envelope(data).digest, index)

    def _mark(self, seq: int, column: str, value: object) -> None:
        self._db.execute(f"UPDATE statement SET {column} = ? WHERE treaty = ? AND seq = ?", (value, self._treaty, seq))


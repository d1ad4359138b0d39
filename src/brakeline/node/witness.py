"""A witness (C2SP tlog-witness): it signs that a log's tree has only grown since it last looked, and
remembers.

`add_checkpoint` decides: bytes and the remembered state in, an answer and the new state out. `Witness` keeps
the state and persists the new one before anybody sees the answer. All a witness is worth lies in that order:
a cosignature that leaves before its state is on disk can be followed, after a crash, by one over another
history. So a witness whose memory is gone is no new one: `check_memory`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brakeline.core.encoding import b64decode, decimal, sha256
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.checkpoint import Checkpoint, cosign, parse_checkpoint
from brakeline.core.tlog.merkle import EMPTY_ROOT, verify_consistency
from brakeline.core.tlog.note import COSIGNATURE, Note, VerifierKey, keyring, parse_note, verify_note
from brakeline.core.treaty.values import SKEW
from brakeline.node import ports
from brakeline.node.disk import connect, database_errors, disk_errors, transaction
from brakeline.node.http import HANDLERS, read_body, run
from brakeline.node.memory import RESTORED
from brakeline.node.metrics import Health, Measure, routes
from brakeline.node.ports import Connection

MAX_PROOF: Final = 63  # hashes: C2SP tlog-witness
MAX_BODY: Final = 128 * 1024
SIZE_TYPE: Final = "text/x.tlog.size"
MEMORY: Final = "witness.db"

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS logs (
    origin TEXT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    time INTEGER NOT NULL,
    note BLOB NOT NULL
)"""
_CLOSED: Final = "CREATE TABLE IF NOT EXISTS closed (origin TEXT PRIMARY KEY, time INTEGER NOT NULL)"
# The latest time that was ever signed for an origin, where a clock that ran ahead was put right.
_AHEAD: Final = "CREATE TABLE IF NOT EXISTS ahead (origin TEXT PRIMARY KEY, time INTEGER NOT NULL)"


class Seen(NamedTuple):
    """The largest tree of a log that this witness has cosigned, and when. `note` carries both signatures."""

    size: int
    root: bytes
    time: int
    note: bytes


class Answer(NamedTuple):
    """What to reply, and what must be on disk before: `seen` is None where nothing changes."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    origin: str = ""
    seen: Seen | None = None


class AddCheckpoint(NamedTuple):
    """A parsed request: the size the log believes we know, the proof from there, and the checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    note: Note
    checkpoint: Checkpoint


def parse_request(body: bytes) -> AddCheckpoint:
    """`old <size>`, up to 63 base64 hashes, an empty line, the checkpoint.

    Raises:
        Malformed: anything else.
    """
    head, blank, note_bytes = body.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    if not blank or not first.startswith(b"old "):
        raise Malformed("not an add-checkpoint request: no `old` line, or no empty line after the proof")
    if len(lines) > MAX_PROOF:
        raise Malformed(f"a consistency proof of {len(lines)} hashes; the limit is {MAX_PROOF}")
    proof = tuple(b64decode(line) for line in lines)
    if any(len(h) != 32 for h in proof):
        raise Malformed("a proof hash has 32 bytes")
    note = parse_note(note_bytes)
    return AddCheckpoint(decimal(first[4:]), proof, note, parse_checkpoint(note.text))


def add_checkpoint(
    body: bytes,
    *,
    logs: Mapping[str, VerifierKey],
    last: Callable[[str], Seen | None],
    closed: Callable[[str], bool] = lambda _: False,
    name: str,
    key: PrivateKey,
    now: int,
) -> Answer:
    """Decide on one add-checkpoint request: the checks of C2SP tlog-witness, in its order.

    `logs` are the trusted keys by origin; `last` tells what was cosigned for an origin, None before the first time, and
    `closed` whether nothing is cosigned for it any more.
    """
    try:
        old, proof, note, checkpoint = parse_request(body)
    except Malformed as e:
        return _refusal(400, e)
    origin, size, root = checkpoint.origin, checkpoint.size, checkpoint.root
    if origin not in logs:
        return Answer(404, b"unknown log\n")
    if closed(origin):  # Treaty 11.10
        return Answer(403, b"this witness has closed the log\n")
    try:
        signed = verify_note(note, keyring([logs[origin]]))
    except Refused as e:
        return _refusal(403, e)
    if old > size:
        return Answer(400, b"old size is larger than the checkpoint's\n")
    seen = last(origin)
    known = seen.size if seen else 0
    if old != known:
        return Answer(409, b"%d\n" % known, SIZE_TYPE)
    try:
        verify_consistency(known, seen.root if seen else EMPTY_ROOT, size, root, proof)
    except (Malformed, Refused) as e:
        return _refusal(422, e)
    # A clock set back must not let us sign an earlier time than we already have.
    when = max(now, seen.time if seen else 1)
    line = cosign(note.text, name, key, when)
    kept = Note(note.text, tuple(line for _, line in signed)).with_lines(line)
    return Answer(200, line.encode(), origin=origin, seen=Seen(size, root, when, kept.encode()))


def _refusal(status: int, error: BrakelineError) -> Answer:
    return Answer(status, f"{error}\n".encode("utf-8", "backslashreplace"))


def new_memory(directory: Path) -> None:
    """Make the memory of a witness that has never cosigned anything. Raises as `Witness`."""
    _open(directory).close()


def _open(directory: Path) -> Connection:
    with disk_errors():
        directory.mkdir(parents=True, exist_ok=True)
    with _memory_errors():
        db = connect(directory / MEMORY)
        for table in (_SCHEMA, _CLOSED, _AHEAD):
            db.execute(table)
        ((found,),) = db.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise Refused(Reason.TAMPERED, f"the database is damaged: {found}")
    return db


@contextmanager
def _memory_errors() -> Iterator[None]:
    """A damaged memory is no answer to whoever asks: the witness is away until somebody mends it."""
    try:
        with database_errors():
            yield
    except Refused as e:
        hint = f"move {MEMORY} away: then what this witness has cosigned is taken back from the log"
        raise Unavailable(f"{MEMORY}: {e}", hint=hint) from e


def check_memory(directory: Path) -> None:
    """That what a witness must not forget is there, and is no copy.

    Raises:
        Unavailable: it is gone, or was put back from a copy: the log has to be read first.
    """
    if not (directory / MEMORY).exists() or (directory / RESTORED).exists():
        text = f"the memory of this witness, {directory / MEMORY}, is gone, or was put back from a copy"
        raise Unavailable(text, hint="`brakeline witness` takes it back from the log")


class Witness:
    """The state of one witness on disk, and its key."""

    def __init__(
        self,
        directory: Path,
        name: str,
        key: PrivateKey,
        logs: Iterable[VerifierKey],
        clock: Callable[[], float],
        news: Callable[[], Iterable[VerifierKey]] = tuple,
    ) -> None:
        """`logs` are the keys of the logs to witness; a key's name is the origin of its log. When one is asked about
        that is not among them, `news` gives those that have come since.

        Raises:
            Misuse: two keys for one origin, or the witness would witness itself.
            Unavailable: the database cannot be opened, or is damaged.
        """
        self.name = name
        self._key = key
        self._clock = clock
        self._trouble = ""  # why it could not cosign what it was brought last
        self._logs: dict[str, VerifierKey] = {}
        self._news = news
        self._trust(logs)
        self._db = _open(directory)

    def _trust(self, logs: Iterable[VerifierKey]) -> None:
        for log in logs:
            if log.name in self._logs:
                raise Misuse(f"two keys for the log {log.name}")
            if log.key == self._key.public:
                raise Misuse(f"the key of {self.name} is also the key of the log {log.name}")
            self._logs[log.name] = log

    def close_log(self, origin: str) -> tuple[Seen | None, int]:
        """Cosign nothing for this origin from here on, whoever asks: durable when it returns. Treaty 11.10.

        Returns the largest tree that was cosigned for it, and the time (POSIX s), which no cosignature is later than.
        """
        with database_errors(), transaction(self._db):
            seen = self._last(origin)
            ahead = self._db.execute("SELECT time FROM ahead WHERE origin = ?", (origin,)).fetchone() or (1,)
            when = max(int(self._clock()), seen.time if seen else 1, *ahead)
            self._db.execute("INSERT OR IGNORE INTO closed VALUES (?, ?)", (origin, when))
            when = self._db.execute("SELECT time FROM closed WHERE origin = ?", (origin,)).fetchone()[0]
        return seen, when

    def has_closed(self, origin: str) -> bool:
        """Whether it cosigns nothing for this origin any more."""
        with database_errors():
            return self._closed(origin)

    def _closed(self, origin: str) -> bool:
        return self._db.execute("SELECT 1 FROM closed WHERE origin = ?", (origin,)).fetchone() is not None

    def close(self) -> None:
        self._db.close()

    def add_checkpoint(self, body: bytes) -> Answer:
        """Decide, persist, answer. One transaction spans the three: no two requests see the same last size.

        Raises:
            Unavailable: the state could not be made durable; no cosignature has left.
        """
        answer = self._decide(body)
        if answer.status == HTTPStatus.NOT_FOUND and (new := [k for k in self._news() if k.name not in self._logs]):
            self._trust(new)
            answer = self._decide(body)
        return answer

    def _decide(self, body: bytes) -> Answer:
        with _memory_errors(), transaction(self._db):
            answer = add_checkpoint(
                body,
                logs=self._logs,
                last=self._last,
                closed=self._closed,
                name=self.name,
                key=self._key,
                now=int(self._clock()),
            )
            if answer.seen is not None:
                self._keep(answer.origin, answer.seen)
        return answer

    def _keep(self, origin: str, seen: Seen) -> None:
        row = (origin, sha256(origin.encode()).hex(), *seen)
        self._db.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?, ?, ?)", row)

    @property
    def vkey(self) -> VerifierKey:
        """The key under which it cosigns."""
        return VerifierKey(self.name, COSIGNATURE, self._key.public)

    def last(self, origin: str) -> Seen | None:
        """The largest tree that it remembers to have cosigned for this origin."""
        with database_errors():
            return self._last(origin)

    def check_new(self, origin: str) -> None:
        """That it remembers nothing of a log.

        Raises:
            Misuse: it has cosigned or closed it.
        """
        if self.last(origin) or self.has_closed(origin):
            raise Misuse(f"{self.name} remembers {origin}: it is no new witness")

    def adopt(self, note: Note, log: VerifierKey, since: int) -> Seen:
        """Cosign and remember a checkpoint of which the caller has checked that it extends all that this witness has
        cosigned, the last at `since` (POSIX s).

        Raises:
            Refused: ROLLBACK, it is smaller than what is remembered; SUPERSEDED, this witness has closed the log.
        """
        (_, own), *_ = verify_note(note, keyring([log]))
        checkpoint = parse_checkpoint(note.text)
        with database_errors(), transaction(self._db):
            if self._closed(log.name):  # Treaty 11.10
                text = f"this witness has closed the log {log.name}, and does not know where it goes on"
                raise Refused(Reason.SUPERSEDED, text, hint="brakeline keeper move, with the reopening")
            known = self._last(log.name)
            if known and known.size > checkpoint.size:
                raise Refused(Reason.ROLLBACK, f"this witness has cosigned {known.size} entries, not {checkpoint.size}")
            when = max(int(self._clock()), since, known.time if known else 1)
            line = cosign(note.text, self.name, self._key, when)
            seen = Seen(checkpoint.size, checkpoint.root, when, Note(note.text, (own,)).with_lines(line).encode())
            self._keep(log.name, seen)
        return seen

    def ahead(self) -> int:
        """The latest time (POSIX s) that it has signed, where this machine's clock has not come there yet; else 0."""
        with database_errors():
            latest = self._db.execute("SELECT max(time) FROM logs").fetchone()[0] or 0
        return latest if latest > self._clock() + SKEW else 0

    def set_back(self) -> None:
        """Sign the time by this machine's clock again, though it has signed later ones.

        No tree is forgotten by that, and the log's time, which never goes back, does not follow. A closing still says
        the latest time that was ever signed: no cosignature may be later (Treaty 11.10).
        """
        now = int(self._clock())
        with database_errors(), transaction(self._db):
            self._db.execute(
                "INSERT INTO ahead SELECT origin, time FROM logs WHERE time > ?1 "
                "ON CONFLICT (origin) DO UPDATE SET time = max(time, excluded.time)",
                (now,),
            )
            self._db.execute("UPDATE logs SET time = ?1 WHERE time > ?1", (now,))

    def _last(self, origin: str) -> Seen | None:
        row = self._db.execute("SELECT size, root, time, note FROM logs WHERE origin = ?", (origin,)).fetchone()
        return Seen(*row) if row else None

    def checkpoint(self, log_id: str) -> bytes | None:
        """The newest checkpoint cosigned for the log whose hex SHA-256 of the origin is `log_id`."""
        with _memory_errors():
            row = self._db.execute("SELECT note FROM logs WHERE id = ?", (log_id,)).fetchone()
        return row[0] if row else None

    def health(self) -> Health:
        """How much of each log it has cosigned, and how long ago, by its own clock."""
        with database_errors():
            rows = self._db.execute("SELECT origin, size, time FROM logs ORDER BY origin").fetchall()
        now = self._clock()
        ahead = max((time for _, _, time in rows), default=0) - now
        trouble = f"its clock is {ahead:.0f} s behind what it has signed" if ahead > SKEW else self._trouble
        size, age = "Entries that it has cosigned.", "Since it cosigned last."
        measures = [
            measure
            for origin, n, time in rows
            for measure in (
                Measure("brakeline_witness_entries", size, n, {"origin": origin}),
                Measure("brakeline_witness_age_seconds", age, now - time, {"origin": origin}),
            )
        ]
        return Health(trouble, tuple(measures), {"logs": {origin: n for origin, n, _ in rows}})

    def app(self) -> Starlette:
        """POST /add-checkpoint, GET /<hex SHA-256 of the origin>/checkpoint, and those of `metrics`."""

        async def post(request: Request) -> Response:
            body = await read_body(request, MAX_BODY)
            try:
                answer = self.add_checkpoint(body)
            except BrakelineError as e:  # a disk that is full or damaged: until it takes something again
                self._trouble = f"it could not cosign: {e}"
                raise
            if answer.status == 200:
                self._trouble = ""
            return Response(answer.body, answer.status, {"Content-Type": answer.content_type})

        async def get(request: Request) -> Response:
            note = self.checkpoint(request.path_params["log_id"])
            return Response(note or b"", 200 if note else 404, media_type="text/plain; charset=utf-8")

        return Starlette(
            routes=[
                Route("/add-checkpoint", post, methods=["POST"]),
                Route("/{log_id}/checkpoint", get),
                *routes(self.health),
            ],
            exception_handlers=HANDLERS,
        )


def serve(
    directory: Path,
    name: str,
    key: PrivateKey,
    logs: Iterable[VerifierKey],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Callable[[], float] | None = None,
    news: Callable[[], Iterable[VerifierKey]] = tuple,
) -> None:
    """Run a witness until it is stopped. Raises as `Witness` and `http.run`."""
    witness = Witness(directory, name, key, logs, clock or ports.clock().wall, news)
    try:
        run(witness.app(), host, port)
    finally:
        witness.close()

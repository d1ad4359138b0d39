"""A witness (C2SP tlog-witness): it signs that a log's tree has only grown since it last looked, and
remembers.

`add_checkpoint` decides: bytes and the remembered state in, an answer and the new state out. `Witness` keeps
the state and persists the new one before anybody sees the answer. All a witness is worth lies in that order:
a cosignature that leaves before its state is on disk can be followed, after a crash, by one over another
history.
"""

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brakeline.core.encoding import b64decode, decimal, sha256
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.checkpoint import Checkpoint, cosign, parse_checkpoint
from brakeline.core.tlog.merkle import EMPTY_ROOT, verify_consistency
from brakeline.core.tlog.note import Note, VerifierKey, keyring, parse_note, verify_note
from brakeline.core.treaty.values import SKEW
from brakeline.node import ports
from brakeline.node.disk import connect, database_errors, disk_errors, transaction
from brakeline.node.http import HANDLERS, read_body, run
from brakeline.node.metrics import Health, Measure, routes

MAX_PROOF: Final = 63  # hashes: C2SP tlog-witness
MAX_BODY: Final = 128 * 1024
SIZE_TYPE: Final = "text/x.tlog.size"

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
            Unavailable, Refused(TAMPERED): the database cannot be opened.
        """
        self.name = name
        self._key = key
        self._clock = clock
        self._logs: dict[str, VerifierKey] = {}
        self._news = news
        self._trust(logs)
        with disk_errors():
            directory.mkdir(parents=True, exist_ok=True)
        with database_errors():
            self._db = connect(directory / "witness.db")
            self._db.execute(_SCHEMA)
            self._db.execute(_CLOSED)

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
            when = max(int(self._clock()), seen.time if seen else 1)
            self._db.execute("INSERT OR IGNORE INTO closed VALUES (?, ?)", (origin, when))
            when = self._db.execute("SELECT time FROM closed WHERE origin = ?", (origin,)).fetchone()[0]
        return seen, when

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
        with database_errors(), transaction(self._db):
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
                self._db.execute(
                    "INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?, ?, ?)",
                    (answer.origin, sha256(answer.origin.encode()).hex(), *answer.seen),
                )
        return answer

    def _last(self, origin: str) -> Seen | None:
        row = self._db.execute("SELECT size, root, time, note FROM logs WHERE origin = ?", (origin,)).fetchone()
        return Seen(*row) if row else None

    def checkpoint(self, log_id: str) -> bytes | None:
        """The newest checkpoint cosigned for the log whose hex SHA-256 of the origin is `log_id`."""
        with database_errors():
            row = self._db.execute("SELECT note FROM logs WHERE id = ?", (log_id,)).fetchone()
        return row[0] if row else None

    def health(self) -> Health:
        """How much of each log it has cosigned, and how long ago, by its own clock."""
        with database_errors():
            rows = self._db.execute("SELECT origin, size, time FROM logs ORDER BY origin").fetchall()
        now = self._clock()
        ahead = max((time for _, _, time in rows), default=0) - now
        trouble = f"its clock is {ahead:.0f} s behind what it has signed" if ahead > SKEW else ""
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
            answer = self.add_checkpoint(await read_body(request, MAX_BODY))
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

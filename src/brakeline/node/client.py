"""The verifying client: it asks a log for everything and believes nothing."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused, Unavailable
from brakeline.core.fold import Fold
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.policy import Cosigned, Policy, verify_cosigned
from brakeline.core.tlog.proof import parse_proof, verify_proof
from brakeline.core.tlog.tile import ENTRIES, Tile, decode_bundle
from brakeline.core.treaty import Treaty
from brakeline.node.disk import write_atomic
from brakeline.node.http import raise_for

BUNDLE: Final = 256  # entries in a full bundle (C2SP tlog-tiles)
_LIMIT: Final = 32 * 2**20


class LogClient:
    """One log over HTTP. What it returns is parsed, not yet trusted."""

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        self._http = httpx.Client(base_url=url.rstrip("/"), timeout=timeout, headers={"accept-encoding": "identity"})
        self.url = url

    def close(self) -> None:
        self._http.close()

    def checkpoint(self, *, after: int = -1, wait: int = 0) -> bytes:
        """The newest published checkpoint note; with `wait` (s), as soon as it is larger than `after`."""
        query = f"?after={after}&wait={wait}" if wait and after >= 0 else ""
        return self._answer(self._call("GET", f"/checkpoint{query}", timeout=wait + 10.0))

    def entries(self, start: int, end: int) -> list[bytes]:
        """Entries `start`..`end`-1 of a log that has at least `end`, from its entry bundles."""
        found: list[bytes] = []
        for number in range(start // BUNDLE, -(-end // BUNDLE)):
            width = min(BUNDLE, end - number * BUNDLE)
            first = max(start - number * BUNDLE, 0)
            found += self._bundle(number, width)[first:width]
        return found

    def _bundle(self, number: int, width: int) -> tuple[bytes, ...]:
        response = self._call("GET", f"/{Tile(ENTRIES, number, width).path}", timeout=10.0)
        if response.status_code == 404 and width < BUNDLE:
            # C2SP tlog-tiles §Partial Tiles: a partial tile may go once the full one is there.
            width = BUNDLE
            response = self._call("GET", f"/{Tile(ENTRIES, number, width).path}", timeout=10.0)
        return decode_bundle(self._answer(response), width)

    def add(self, entry: bytes) -> bytes:
        """Submit an entry; returns its tlog-proof, unverified.

        Raises:
            Unavailable: out of reach, or no witness quorum: submit the same bytes again. Refused: never.
        """
        return self._answer(self._call("POST", "/add", content=entry, timeout=30.0))

    def _call(self, method: str, path: str, *, timeout: float, content: bytes | None = None) -> httpx.Response:
        try:
            return self._http.request(method, path, content=content, timeout=timeout)
        except (httpx.HTTPError, OSError) as e:
            raise Unavailable(f"the log at {self.url} is out of reach: {e}", hint="is it running?") from e

    @staticmethod
    def _answer(response: httpx.Response) -> bytes:
        raise_for(response)
        if len(response.content) > _LIMIT:
            raise Malformed(f"answer over {_LIMIT} bytes")
        return response.content


def add_verified(client: LogClient, policy: Policy, entry: bytes) -> int:
    """Submit an entry and verify the proof that it is in the log under a witness quorum; returns its index.

    Raises:
        Unavailable, Refused, Malformed: the log did not take it, or its proof does not hold.
    """
    proof = client.add(entry)
    parse_proof(proof)
    return verify_proof(proof, entry, policy)[0]


class Follower:
    """A log followed from its first entry, with its fold. Threads may read `fold` under `lock`.

    `memory` keeps the newest checkpoint seen, so that after a restart a log that was rolled back is refused. When the
    log shows two histories, both checkpoints are kept in `memory/forks`, and the follower refuses to go on.
    """

    def __init__(self, client: LogClient, treaty: Treaty, memory: Path | None = None) -> None:
        self.client = client
        self.treaty = treaty
        self.fold = Fold(treaty)
        self.cosigned: Cosigned | None = None
        self.lock = threading.Condition()
        self._updating = threading.Lock()  # waiting for a checkpoint is done outside it
        self._memory = memory
        self._floor: Cosigned | None = None
        self._entries: list[bytes] = []
        if memory is not None and (memory / "checkpoint").exists():
            self._floor = verify_cosigned((memory / "checkpoint").read_bytes(), treaty.policy)

    @property
    def entries(self) -> tuple[bytes, ...]:
        return tuple(self._entries)

    @property
    def time(self) -> int:
        """Quorum time (POSIX s) of the newest cosigned checkpoint; 0 before the first."""
        return self.cosigned.time if self.cosigned else 0

    def update(self, *, wait: int = 0) -> bool:
        """Fetch, verify and fold what is new; with `wait` (s), wait for it. True when the log has grown.

        Raises:
            Unavailable: the log is out of reach. Malformed, Refused: what it shows does not hold; nothing of it has
                been taken.
        """
        started = self.fold.size
        note = self.client.checkpoint(after=started if self.cosigned else -1, wait=wait)
        new = verify_cosigned(note, self.treaty.policy)
        if new.checkpoint.size < max(started, self._floor.checkpoint.size if self._floor else 0):
            raise Refused(Reason.ROLLBACK, f"the log shows {new.checkpoint.size} entries; it had more before")
        with self._updating:
            entries = self._check(note, new)
            with self.lock:
                for entry in entries:
                    self.fold.apply(entry)
                self._entries += entries
                if self.cosigned is None or new.time >= self.cosigned.time:
                    self.cosigned = new
                self._floor = None
                self.lock.notify_all()
            if self._memory is not None and entries:
                write_atomic(self._memory / "checkpoint", note)
        return bool(entries)

    def _check(self, note: bytes, new: Cosigned) -> list[bytes]:
        """The entries that lead to `new`, after proving that they do, and that all seen before leads there too."""
        size, end = self.fold.size, new.checkpoint.size
        if end < size:  # another thread was faster; the answer must still fit
            if self.fold.roots[end] != new.checkpoint.root:
                self._fork(note)
            return []
        entries = self.client.entries(size, end) if end > size else []
        if len(entries) != end - size:
            raise Malformed("the log sent another number of entries than it published")
        leaves = [leaf_hash(e) for e in entries]
        if self.fold.frontier.extend(leaves).root() != new.checkpoint.root:
            self._fork(note)
        if self._floor is not None:
            before = self._floor.checkpoint
            if self.fold.frontier.extend(leaves[: before.size - size]).root() != before.root:
                self._fork(note)
        return entries

    def _fork(self, note: bytes) -> None:
        """Keep both checkpoints: together they prove to anybody that the log and a quorum signed two histories."""
        mine = self._floor or self.cosigned
        if self._memory is not None and mine is not None:
            folder = self._memory / "forks"
            write_atomic(folder / f"{mine.checkpoint.size}-a", mine.note.encode())
            write_atomic(folder / f"{mine.checkpoint.size}-b", note)
        raise Refused(
            Reason.EQUIVOCATION,
            "the log shows another history than before",
            hint=f"both checkpoints are kept in {self._memory / 'forks'}" if self._memory else "",
        )

    def follow(self, stop: threading.Event, on_trouble: Callable[[BrakelineError], None]) -> None:
        """Update until `stop` is set. Trouble is reported and tried again: what is not known is not acted upon."""
        while not stop.is_set():
            try:
                self.update(wait=5)
            except BrakelineError as e:
                on_trouble(e)
                stop.wait(0.25)

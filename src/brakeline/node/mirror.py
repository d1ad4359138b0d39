"""A mirror: every published entry of a log, kept by somebody else than its keeper, and served to whoever asks.

A keeper that is dead or hostile takes nothing with it that a mirror has: from here a log is reopened (Treaty 11.8).
Nothing is kept that has not been folded and cosigned, so that what is read here is as good as what the log showed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brakeline.core.encoding import sha256
from brakeline.core.errors import Reason, Refused, Unavailable
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.policy import Cosigned
from brakeline.node.client import Follower
from brakeline.node.http import HANDLERS
from brakeline.node.logclient import LogClient, Progress
from brakeline.node.logserver import tiles
from brakeline.node.logstore import LogStore
from brakeline.node.ports import Event
from brakeline.node.trouble import PASSING, Trouble

_CHUNK: Final = 1024  # entries taken at once: whole bundles (C2SP tlog-tiles §Partial Tiles)
_RETRY: Final = 1.0  # s
_NEVER: Final = {"Cache-Control": "no-store"}


def store_of(folder: Path, origin: str) -> Path:
    """Where in `folder` the log of an origin is kept."""
    return folder / sha256(origin.encode()).hex()[:16]


def copy(client: LogClient, store: LogStore, leaves: Sequence[bytes], progress: Progress) -> None:
    """Take the next entries from the log, which have these leaf hashes. Broken off, it can be gone on from.

    Raises:
        Refused(TAMPERED): the log shows another entry. Unavailable, Malformed.
    """
    first, last = store.size, store.size + len(leaves)
    while store.size < last:
        start, end = store.size, min(last, store.size + _CHUNK)
        entries = client.entries(start, end)
        if [leaf_hash(entry) for entry in entries] != list(leaves[start - first : end - first]):
            raise Refused(Reason.TAMPERED, f"the log shows other entries {start} to {end} than it showed before")
        store.append(entries, as_is=True)
        progress(store.size, last)


class Mirror:
    """Follows a log, and keeps it in a folder: one store for each origin that it has had."""

    def __init__(self, follower: Follower, folder: Path) -> None:
        self._follower, self._folder = follower, folder
        self.store: LogStore | None = None

    @property
    def directory(self) -> Path:
        """The store of the log as it is kept now."""
        return store_of(self._folder, self._follower.state.chain.log.key.name)

    def update(self, *, wait: int = 0, progress: Progress = lambda done, total: None) -> int:
        """Take what is new; returns how many entries are kept.

        Raises:
            Unavailable, Refused, Malformed: as `Follower.update`, `copy` and `LogStore`; what was kept stays.
        """
        self._follower.update(wait=wait)
        with self._follower.lock:
            cosigned, origin = self._follower.cosigned, self._follower.state.chain.log.key.name
        assert cosigned is not None
        store = self._open(origin)
        if store.published_size < cosigned.checkpoint.size:
            copy(self._follower.client, store, self._leaves(store, cosigned), progress)
        store.publish(cosigned.note.encode())
        return store.published_size

    def _open(self, origin: str) -> LogStore:
        if self.store is None or self.store.origin != origin:
            self.close()
            self.store = LogStore(store_of(self._folder, origin), origin)
        return self.store

    def _leaves(self, store: LogStore, cosigned: Cosigned) -> list[bytes]:
        """The leaf hashes that the checkpoint adds to the store: what is written down is compared with them."""
        new = self._follower.client.stream(store.size, cosigned.checkpoint.size)
        leaves = [leaf_hash(entry) for entry in new]
        tree = store.frontier.extend(leaves)
        if tree.root() != cosigned.checkpoint.root:
            raise Refused(Reason.TAMPERED, "the log shows other entries than its checkpoint commits to")
        return leaves

    def close(self) -> None:
        if self.store is not None:
            self.store.close()
            self.store = None

    def run(self, stop: Event, tell: Callable[[str], None]) -> None:
        """Until `stop` is set. Trouble is told once, and tried again."""
        trouble = Trouble(lambda e: tell(f"waiting: {e}"))
        while not stop.is_set():
            try:
                self.update(wait=5)
                trouble.over()
            except PASSING as e:
                trouble.met(e)
                stop.wait(_RETRY)


def app(mirror: Mirror) -> Starlette:
    """GET /checkpoint and GET /tile/…, as the log has them (C2SP tlog-tiles)."""

    async def checkpoint(_: Request) -> Response:
        try:
            note = (mirror.directory / "checkpoint").read_bytes()
        except OSError as e:
            raise Unavailable("nothing is mirrored yet") from e
        return Response(note, headers=_NEVER, media_type="text/plain; charset=utf-8")

    routes = [Route("/checkpoint", checkpoint), Route("/tile/{path:path}", tiles(lambda: mirror.store))]
    return Starlette(routes=routes, exception_handlers=HANDLERS)

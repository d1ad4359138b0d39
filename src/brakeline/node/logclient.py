"""A log over HTTP, as a reader and a writer see it. What it returns is parsed, not yet trusted."""

from collections.abc import Callable, Iterator
from typing import Final

import httpx

from brakeline.core.encoding import sha256
from brakeline.core.errors import Unavailable
from brakeline.core.tlog.tile import ENTRIES, Tile, decode_bundle
from brakeline.node.http import raise_for
from brakeline.node.peers import Answer, ask, http_client

BUNDLE: Final = 256  # entries in a full bundle (C2SP tlog-tiles)
_LIMIT: Final = 32 * 2**20
_SLOW: Final = 60.0  # s for an answer of some size

Progress = Callable[[int, int], None]  # done, total


class OutOfReach(Unavailable):
    """The log gave no answer, or not in time."""


class LogClient:
    """One log over HTTP. What it returns is parsed, not yet trusted."""

    def __init__(self, url: str) -> None:
        self._http, self.url = http_client(url.rstrip("/")), url

    def dial(self, url: str) -> None:
        """Ask at this address from here on. What is being asked elsewhere ends by itself."""
        if url != self.url:
            self._http, self.url = http_client(url.rstrip("/")), url

    def close(self) -> None:
        self._http.close()

    def checkpoint(self, *, after: int = -1, wait: int = 0) -> bytes:
        """The newest published checkpoint note; with `wait` (s), as soon as it is larger than `after`."""
        query = f"?after={after}&wait={wait}" if wait and after >= 0 else ""
        return self._answer(self._call("GET", f"/checkpoint{query}", seconds=wait + 10.0))

    def entries(self, start: int, end: int) -> list[bytes]:
        """Entries `start`..`end`-1 of a log that has at least `end`, from its entry bundles."""
        found: list[bytes] = []
        for number in range(start // BUNDLE, -(-end // BUNDLE)):
            width = min(BUNDLE, end - number * BUNDLE)
            first = max(start - number * BUNDLE, 0)
            found += self._bundle(number, width)[first:width]
        return found

    def stream(self, start: int, end: int) -> Iterator[bytes]:
        """The same, one entry bundle after another."""
        while start < end:
            stop = min(end, (start // BUNDLE + 1) * BUNDLE)
            yield from self.entries(start, stop)
            start = stop

    def snapshot(self) -> bytes:
        """A state that the log offers, at a size where permit signers state it. Not trusted by anybody."""
        response = self._call("GET", "/snapshot", seconds=_SLOW)
        if response.status_code == 404:
            raise Unavailable("the log offers no state yet", hint="fold the log from its first entry instead")
        return self._answer(response)

    def _bundle(self, number: int, width: int) -> tuple[bytes, ...]:
        response = self._call("GET", f"/{Tile(ENTRIES, number, width).path}", seconds=_SLOW)
        if response.status_code == 404 and width < BUNDLE:
            # C2SP tlog-tiles §Partial Tiles: a partial tile may go once the full one is there.
            width = BUNDLE
            response = self._call("GET", f"/{Tile(ENTRIES, number, width).path}", seconds=_SLOW)
        if response.status_code == 404:
            text = f"the log does not serve entries from {number * BUNDLE} on, which it has published"
            raise Unavailable(text, hint="try again, or ask its keeper: is it an older copy?")
        return decode_bundle(self._answer(response), width)

    def add(self, entry: bytes) -> bytes:
        """Submit an entry; returns its tlog-proof, unverified. One whose number another statement has is not taken.

        Raises:
            OutOfReach. Unavailable: no witness quorum. Submit the same bytes again. Refused: never.
        """
        return self._answer(self._call("POST", "/add?alone=1", content=entry, seconds=30.0))

    def show(self, entry: bytes) -> None:
        """Submit what another party said, as evidence: also where another statement has its number.

        Raises:
            Unavailable, Refused: the log did not take it.
        """
        self._answer(self._call("POST", "/add", content=entry, seconds=30.0))

    def receipt(self, entry: bytes) -> bytes | None:
        """What the log promises of an entry, unverified; None where it holds none such."""
        response = self._call("GET", f"/receipt/{sha256(entry).hex()}", seconds=10.0)
        return None if response.status_code == 404 else self._answer(response)

    def _call(self, method: str, path: str, *, seconds: float, content: bytes | None = None) -> Answer:
        try:
            return ask(self._http, method, path, _LIMIT, content=content, seconds=seconds)
        except (httpx.HTTPError, OSError) as e:
            raise OutOfReach(f"the log at {self.url} is out of reach: {e}", hint="is it running?") from e

    @staticmethod
    def _answer(response: Answer) -> bytes:
        raise_for(response)
        return response.content

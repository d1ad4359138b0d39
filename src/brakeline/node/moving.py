"""Where a log has gone on when its keeper is dead or hostile (Treaty 11.8): reopenings that were put into a home, or
that permit signers show. Nothing in them is believed before the log that they name has been folded.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from brakeline.core import reopening
from brakeline.core.errors import BrakelineError
from brakeline.core.reopening import Reopening
from brakeline.core.state import State
from brakeline.core.state.reopen import may_be_signed
from brakeline.core.statement import MAX_BYTES
from brakeline.core.tlog.checkpoint import checkpoint_in
from brakeline.node.http import raise_for
from brakeline.node.peers import ask, http_client
from brakeline.node.ports import clock

FILE: Final = "reopening.json"  # in a home
_AGAIN: Final = 5.0  # s between two rounds of asking permit signers
_ANSWER: Final = 3.0  # s for one of them


def read_reopening(path: Path) -> tuple[Reopening, bytes] | None:
    """The reopening in a file, unverified; None where there is none that can be read."""
    try:
        data = path.read_bytes()
        r, _ = reopening.read(data)
        begins(r)
        return r, data
    except (OSError, BrakelineError):
        return None


def known(*paths: Path) -> bytes | None:
    """Of the reopenings in these files the one that begins last, as it is shown to others."""
    found = [(begins(r), data) for r, data in filter(None, map(read_reopening, paths))]
    return max(found)[1] if found else None


def begins(r: Reopening) -> int:
    """How many entries of the log before it keeps."""
    return checkpoint_in(r.stamp.encode()).size


class Moves:
    """What is known of where the log goes on, for one follower."""

    def __init__(self, *paths: Path, now: Callable[[], float] | None = None) -> None:
        """`paths` are files into which somebody may put a reopening at any time."""
        self._paths, self._now = paths, now or clock().monotonic
        self._asked = float("-inf")

    def candidates(self, state: State, *, stalled: bool) -> Iterator[tuple[Reopening, bytes]]:
        """Reopenings of which this state knows nothing. Permit signers are asked when it is `stalled`, now and then."""
        for found in map(read_reopening, self._paths):
            if found and is_news(state, found[0]):
                yield found
        if stalled and self._now() - self._asked > _AGAIN:
            yield from _shown(state)
            self._asked = self._now()


def _shown(state: State) -> list[tuple[Reopening, bytes]]:
    urls = [p.signer_url for p in state.treaty.with_role("permit-signer") if p.signer_url]
    # At once: one that drips must not keep the others' from us.
    with http_client() as client:
        answers = clock().at_once(lambda url: _ask(client, url), urls)
        return [(r, data) for data in answers if data and (r := _believed(state, data)) and is_news(state, r)]


def _ask(client: Any, url: str) -> bytes:
    try:
        response = ask(client, "GET", f"{url.rstrip('/')}/reopening", MAX_BYTES, seconds=_ANSWER)
        raise_for(response)
    except (httpx.HTTPError, OSError, BrakelineError):
        return b""
    return response.content


def _believed(state: State, data: bytes) -> Reopening | None:
    """A signer alone sends nobody anywhere: only what members have signed is looked at, as many as decide."""
    try:
        r, envelope = reopening.read(data)
        return r if may_be_signed(state, envelope) else None
    except BrakelineError:
        return None


def is_news(state: State, r: Reopening) -> bool:
    """Whether the reopening is of this treaty's log, and not in it as far as this state goes."""
    return r.treaty == state.first and r.key.name not in state.chain.origins

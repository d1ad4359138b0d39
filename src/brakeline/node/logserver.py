"""The log over HTTP: the files of C2SP tlog-tiles for readers, `POST /add` for writers.

Tiles never change and may be served by any file server or CDN from the store's folder; only `/add` and the
long poll need this process.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import isfinite
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brakeline.core.encoding import unhex32
from brakeline.core.errors import Malformed, Unavailable
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.tile import MAX_ENTRY, parse_path
from brakeline.node import metrics, ports
from brakeline.node.admission import Admission
from brakeline.node.http import HANDLERS, query_number, read_body, run
from brakeline.node.logstore import LogStore
from brakeline.node.metrics import Health, Measure
from brakeline.node.sequencer import DEFAULT_TIMING, Latest, Sequencer, Timing

MAX_WAIT: Final = 30  # seconds
MAX_POLLS: Final = 1024  # requests that wait at a time; one more, and the first of them is answered as it stands
_TEXT: Final = "text/plain; charset=utf-8"
_FOREVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}
_NEVER: Final = {"Cache-Control": "no-store"}


def tiles(store: Callable[[], LogStore | None]) -> Callable[[Request], Awaitable[Response]]:
    """GET /tile/…, of all that is published. Made of the rows, each checked: a file on the disk may have changed."""

    async def tile(request: Request) -> Response:
        kept = store()
        try:
            asked = parse_path(f"tile/{request.path_params['path']}")
        except Malformed:
            return Response(status_code=404, headers=_NEVER)
        if kept is None or not kept.is_published(asked):
            return Response(status_code=404, headers=_NEVER)
        data = await asyncio.to_thread(kept.tile, asked)
        return Response(data, headers=_FOREVER, media_type="application/octet-stream")

    return tile


def health(sequencer: Sequencer) -> Health:
    """How old the newest cosigned checkpoint and the last good write are."""
    store, failure, latest = sequencer.store, sequencer.failure, sequencer.latest
    going, troubles = sequencer.progress(), sequencer.cosigners.troubles()
    trouble = ""
    if failure is not None:
        trouble = f"it has stopped: {failure}"
    elif latest is None or not isfinite(going.cosigned):
        trouble = "no witness quorum has cosigned yet"
    elif going.cosigned > going.limit:
        trouble = f"no witness quorum: the newest checkpoint is {going.cosigned:.0f} s old"
    size, away = latest.size if latest else 0, "1 when a witness does not cosign."
    measures = (
        Measure("brakeline_log_entries", "Entries that are durable.", store.size),
        Measure("brakeline_log_published_entries", "Entries under the published checkpoint.", size),
        Measure("brakeline_log_checkpoint_age_seconds", "Since the newest checkpoint was cosigned.", going.cosigned),
        Measure("brakeline_log_write_age_seconds", "Since the disk took something.", going.written),
        Measure("brakeline_log_waiting_entries", "Submitted, and not published yet.", going.waiting),
        Measure("brakeline_log_failed", "1 when it has stopped for good.", failure is not None),
        *(
            Measure("brakeline_log_witness_away", away, bool(what), {"witness": name})
            for name, what in sorted(troubles.items())
        ),
    )
    report = {
        "origin": store.origin,
        "durable": store.size,
        "published": latest.size if latest else None,
        "failure": str(failure) if failure else "",
        "witnesses": troubles,
    }
    return Health(trouble, measures, report)


def app(sequencer: Sequencer, offered: Callable[[], bytes | None] = lambda: None) -> Starlette:
    """GET /checkpoint?after=<size>&wait=<seconds>, GET /tile/…, GET /snapshot, POST /add?alone=<0 or 1>,
    GET /receipt/<hex SHA-256 of an entry>, and those of `metrics`.

    Runs the sequencer. `offered` gives the state that the log offers to newcomers, who believe only a signers' quorum.
    """
    store = sequencer.store
    tile = tiles(lambda: store)
    polls: dict[asyncio.Task[Latest | None], None] = {}

    async def poll(after: int, wait: float) -> None:
        task = asyncio.create_task(sequencer.published(after, wait))
        polls[task] = None
        if len(polls) > MAX_POLLS:
            first = next(iter(polls))
            del polls[first]
            first.cancel()
        try:
            await asyncio.wait([task])
        finally:
            polls.pop(task, None)
            task.cancel()

    async def checkpoint(request: Request) -> Response:
        after = query_number(request, "after", -1)
        wait = query_number(request, "wait", 0, bound=MAX_WAIT)
        if wait:
            await poll(after, wait)
        latest = sequencer.latest
        if latest is None:
            raise Unavailable("nothing is published yet", hint="are enough witnesses up?")
        return Response(latest.note, headers=_NEVER, media_type=_TEXT)

    async def snapshot(request: Request) -> Response:
        data = await asyncio.to_thread(offered)
        return Response(data or b"", 404 if data is None else 200, _NEVER, "application/octet-stream")

    async def add(request: Request) -> Response:
        alone = bool(query_number(request, "alone", 0, bound=1))
        proof = await sequencer.submit(await read_body(request, MAX_ENTRY), alone=alone)
        return Response(proof, media_type=_TEXT)

    async def receipt(request: Request) -> Response:
        note = await asyncio.to_thread(sequencer.receipt, unhex32(request.path_params["digest"]))
        return Response(note.encode() if note else b"", 200 if note else 404, _NEVER, _TEXT)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with sequencer.running():
            yield

    return Starlette(
        routes=[
            Route("/checkpoint", checkpoint),
            Route("/tile/{path:path}", tile),
            Route("/snapshot", snapshot),
            Route("/add", add, methods=["POST"]),
            Route("/receipt/{digest}", receipt),
            *metrics.routes(lambda: health(sequencer)),
        ],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )


def serve(
    directory: Path,
    origin: str,
    key: PrivateKey,
    admission: Callable[[LogStore], Admission],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Callable[[], float] | None = None,
    timing: Timing = DEFAULT_TIMING,
) -> None:
    """Run a log until it is stopped; `admission` reads the store. Raises as `LogStore`, `Sequencer` and `http.run`."""
    with LogStore(directory, origin) as store:
        run(app(Sequencer(store, key, admission(store), clock or ports.clock().wall, timing)), host, port)

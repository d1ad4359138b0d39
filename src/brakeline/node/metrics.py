"""What a server says of itself: GET /healthz for a supervisor, GET /metrics for Prometheus.

Both are ages and sizes, of the newest thing that others have vouched for and of the last good write. That a process
runs is not asked: one that runs and does nothing looks well to itself.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brakeline.core.encoding import canonical

_NEVER: Final = {"Cache-Control": "no-store"}


class Measure(NamedTuple):
    """One sample. `name` ends in its unit; `labels` tell samples of one name apart."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = {}


class Health(NamedTuple):
    """`trouble` is what is wrong, in one line; empty where nothing is. `report` is what else `/healthz` says."""

    trouble: str
    measures: tuple[Measure, ...]
    report: Mapping[str, Any] = {}


def exposition(measures: Iterable[Measure]) -> bytes:
    """In the text format of Prometheus."""
    registry, gauges = CollectorRegistry(), dict[str, Gauge]()
    for m in measures:
        if m.name not in gauges:
            gauges[m.name] = Gauge(m.name, m.help, list(m.labels), registry=registry)
        gauge = gauges[m.name]
        (gauge.labels(**m.labels) if m.labels else gauge).set(m.value)
    return generate_latest(registry)


def routes(health: Callable[[], Health]) -> list[Route]:
    """GET /healthz, which answers 503 where something is wrong, and GET /metrics."""

    async def healthz(_: Request) -> Response:
        found = health()
        numbers = {m.name: round(m.value) for m in found.measures if not m.labels and abs(m.value) < 2**53}
        body = canonical({"trouble": found.trouble, **numbers, **found.report})
        return Response(body, 503 if found.trouble else 200, _NEVER, "application/json")

    async def metrics(_: Request) -> Response:
        return Response(exposition(health().measures), headers=_NEVER, media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/metrics", metrics)]

"""GET /flights: what the flight recorder holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from app.api.parts import GatewayParts
from app.observability.flight_export import as_lines, as_trace

router = APIRouter(prefix="/flights", tags=["flights"])

LINES = "application/x-ndjson"
_LINES_A_PIECE = 500
_Last = Annotated[int | None, Query(ge=1, le=10_000_000, description="Only the latest so many")]


@router.get("", summary="The last requests", response_class=StreamingResponse)
async def flights(gateway: GatewayParts, last: _Last = None) -> StreamingResponse:
    """One JSON object a line: times in seconds after the arrival, tokens, pair, outcome."""
    clocks = gateway.clocks
    found = await gateway.sight.flights(last)
    lines = as_lines(found, clocks.unix_s() - clocks.now_s())
    return StreamingResponse(_pieces(lines), media_type=LINES)


@router.get("/trace", summary="The last requests as a trace", response_class=StreamingResponse)
async def trace(gateway: GatewayParts, last: _Last = None) -> StreamingResponse:
    """A trace in the Mooncake form for `tandem replay`; no text, not even hashed."""
    found = await gateway.sight.flights(last)
    return StreamingResponse(_pieces(as_trace(found)), media_type=LINES)


@router.get("/live", summary="The last minutes in one object")
async def live(
    gateway: GatewayParts,
    window_s: Annotated[float, Query(ge=1, le=86_400, description="Seconds to look back")] = 300.0,
) -> dict[str, Any]:
    """Workers, flows between them, percentiles, outcomes, the queue, recent requests by phase."""
    return await gateway.sight.live(window_s)


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Joins lines: each piece is fetched in a thread, beside the loop."""
    rest = iter(lines)
    while piece := b"".join(islice(rest, _LINES_A_PIECE)):
        yield piece

"""What happened lately, of this process or of all processes of the gateway."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from app import __version__
from app.cluster.brain_seat import BrainSeat
from app.cluster.far_flights import SHOWN, gather_flights, show_piece
from app.cluster.pipe_seat import PipeSeat
from app.observability.flight_pieces import put_together
from app.observability.live_view import live_view

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.api.parts import Clocks
    from app.gateway.metrics import GatewayMetrics
    from app.observability.flight_recorder import Flight, FlightRecorder

MAX_VIEWED = 5_000


class Sight:
    """Looks at the recorded requests; with several processes at those of all pipes.

    Args:
        metrics: What this process counts.
        recorder: What it recorded.
        clocks: The times are of.
        seat: Which of several processes this is; None: there is one.
    """

    def __init__(
        self,
        metrics: GatewayMetrics,
        recorder: FlightRecorder,
        clocks: Clocks,
        seat: BrainSeat | PipeSeat | None,
    ) -> None:
        self._metrics = metrics
        self._recorder = recorder
        self._now_s = clocks.now_s
        self._seat = seat
        if isinstance(seat, BrainSeat):
            seat.fleet = metrics.fleet
        elif seat is not None:
            seat.shows[SHOWN] = partial(show_piece, recorder, os.getpid())
            seat.shows["carried"] = metrics.carried

    async def flights(self, n_most: int | None) -> Iterable[Flight]:
        """Returns the latest requests, the oldest of them first, to be gone through in a thread.

        Raises:
            BrainAway: Of several processes the one that knows the others is not there.
        """
        if not isinstance(self._seat, PipeSeat):
            return self._recorder.last(n_most)
        return put_together(await gather_flights(self._seat.gather, n_most), n_most)

    async def live(self, window_s: float) -> dict[str, Any]:
        """Returns the last minutes as one JSON-able object.

        Raises:
            BrainAway: As above.
        """
        now_s, seat = self._now_s(), self._seat
        if not isinstance(seat, PipeSeat):
            # It reads snapshots and plain numbers, and does so beside the loop.
            return await asyncio.to_thread(
                lambda: _view(
                    self._metrics.fleet(),
                    [self._metrics.carried()],
                    self._recorder.last(MAX_VIEWED),
                    now_s,
                    window_s,
                )
            )
        fleet, said = await seat.gather("carried")
        sources = await gather_flights(seat.gather, MAX_VIEWED, now_s - window_s)
        flights, carried = put_together(sources, MAX_VIEWED), [one for _, _, one in said]
        view = await asyncio.to_thread(_view, fleet, carried, flights, now_s, window_s)
        return view | {"pipes": len(carried)}


def _view(
    fleet: dict[str, Any],
    carried: list[dict[str, Any]],
    flights: Iterable[Flight],
    now_s: float,
    window_s: float,
) -> dict[str, Any]:
    """Puts together what is known of the workers, what processes carry, and the requests."""
    workers: list[dict[str, Any]] = fleet["workers"]
    for row in workers:
        counted = [legs for one in carried if (legs := one["legs"].get(row["id"])) is not None]
        if counted:
            n_by_outcome = [legs["requests"] for legs in counted]
            row["requests"] = {word: sum(n[word] for n in n_by_outcome) for word in n_by_outcome[0]}
            for name in ("tokens", "cached_tokens"):
                row[name] = sum(legs[name] for legs in counted)
    return {
        **live_view(workers, flights, now_s, window_s),
        "version": __version__,
        "in_flight": sum(one["in_flight"] for one in carried),
        "in_flight_limit": sum(one["in_flight_limit"] for one in carried),
        "queue": fleet["queue"],
    }

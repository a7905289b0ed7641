"""The simulator's own routes: order faults, look at what is held and counted.

``GET /sim/counters``, ``GET /sim/held`` (all zero when nothing leaks), ``GET /sim/faults`` (the
faults that requests ran into, each told once), ``POST /sim/fault``. An SGLang worker has them on
its port, a vLLM worker on a port of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from app.sim.faults import FaultBook, Taken
from app.sim.vllm_faults import VllmFaultBook
from app.sim.wire import Exchange, Receive, Scope, Send


class Controlled(Protocol):
    """A worker that can be looked at and told to fail."""

    @property
    def faults(self) -> FaultBook | VllmFaultBook:
        """What it shall do wrong."""

    def held(self) -> Mapping[str, int]:
        """What requests occupy here; all zero when nothing leaks."""

    def counted(self) -> Mapping[str, Any]:
        """What the worker counted."""

    def refuse_connections(self) -> None:
        """Close the listening socket; what is open goes on."""


class Control:
    """An ASGI application, and a part of the SGLang worker's.

    Args:
        worker: Whose routes these are.
    """

    def __init__(self, worker: Controlled) -> None:
        self._worker = worker
        self._pages: Mapping[str, Callable[[], Any]] = {
            "/sim/counters": worker.counted,
            "/sim/held": worker.held,
            "/sim/faults": self._taken,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            await self.serve(Exchange(scope, receive, send))

    async def serve(self, exchange: Exchange) -> None:
        """Answers one request under ``/sim/``."""
        page = self._pages.get(exchange.path)
        if page is not None:
            await exchange.json(200, page())
        elif exchange.path == "/sim/fault" and exchange.method == "POST":
            await self._order(exchange)
        else:
            await exchange.json(404, {"detail": "Not Found"})

    async def _order(self, exchange: Exchange) -> None:
        faults = self._worker.faults
        try:
            order = json.loads(await exchange.body())
            kind = order.get("kind")
            if kind == "clear":
                faults.clear()
            elif kind == "health_down":
                faults.health_down = bool(order.get("on", True))
            elif kind == "refuse_connections":
                self._worker.refuse_connections()
            else:
                faults.add_json(order)
        except (ValueError, TypeError, AttributeError) as error:
            await exchange.json(400, {"detail": str(error)})
            return
        await exchange.json(200, {"ok": True})

    def _taken(self) -> list[Taken]:
        taken = self._worker.faults.taken
        told = list(taken)
        taken.clear()
        return told

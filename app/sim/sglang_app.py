"""The ASGI application of a simulated SGLang worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from app.clock import Clock
from app.sim import server_info
from app.sim.config import SimConfig
from app.sim.control import Control
from app.sim.counters import Counters
from app.sim.engine import Engine
from app.sim.faults import Fault, FaultBook, FaultKind
from app.sim.generation import Generation
from app.sim.refusals import ROUTES, Malformed
from app.sim.wire import Exchange, Receive, Scope, Send

HEALTH = ("/health", "/health_generate", "/ready")
FLUSHED = (
    "Cache flushed.\nPlease check backend logs for more details. (When there are running or "
    "waiting requests, the operation will not be performed.)\n"
)


class SglangApp:
    """Routes, faults and the key; the engine does the rest.

    Args:
        config: The worker.
        engine: What computes.
        counters: What is counted.
        faults: What goes wrong on command.
        ports: Its own port and its bootstrap port, known once it listens.
        control: The simulator's own routes.
        now_s: Monotonic seconds.
        kv_events: Where it publishes its KV events.
    """

    def __init__(
        self,
        config: SimConfig,
        engine: Engine,
        counters: Counters,
        faults: FaultBook,
        *,
        ports: Callable[[], tuple[int, int]],
        control: Control,
        now_s: Clock,
        kv_events: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        self._config = config
        self._engine = engine
        self._counters = counters
        self._faults = faults
        self._ports = ports
        self._kv_events = kv_events
        self._control = control
        self._generation = Generation(config, engine, counters, now_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        if exchange.path.startswith("/sim/"):
            await self._control.serve(exchange)
            return
        key = self._config.api_key
        is_open = exchange.path in HEALTH
        if key and not is_open and exchange.headers.get("authorization") != f"Bearer {key}":
            await exchange.json(401, {"error": "Unauthorized"})
            return
        is_generation = exchange.path in ROUTES and exchange.method == "POST"
        fault = self._faults.take(
            exchange.path, is_generation, exchange.headers.get("x-request-id", "")
        )
        if fault is not None and await self._is_spoilt(exchange, fault):
            return
        if is_generation:
            await self._generation.serve(exchange, fault)
        else:
            await self._tell(exchange)

    async def _is_spoilt(self, exchange: Exchange, fault: Fault) -> bool:
        if fault.kind is FaultKind.SLOW:
            await asyncio.sleep(fault.delay_s)
        elif fault.kind is FaultKind.RESET:
            await self._note(exchange)
            await exchange.reset()
            return True
        elif fault.kind is FaultKind.REFUSE:
            await self._note(exchange)
            text = fault.body or json.dumps(
                {
                    "object": "error",
                    "message": "Refused on command.",
                    "type": str(fault.status),
                    "param": None,
                    "code": fault.status,
                }
            )
            headers = {"content-type": "application/json", **fault.headers}
            await exchange.bytes(fault.status, text.encode(), headers)
            return True
        elif fault.kind is FaultKind.HANG and exchange.path not in ROUTES:
            await exchange.watch()
            return True
        return False

    async def _note(self, exchange: Exchange) -> None:
        if exchange.path in ROUTES:
            with contextlib.suppress(Malformed):
                await self._generation.note(exchange)

    async def _tell(self, exchange: Exchange) -> None:
        path = exchange.path
        if path in HEALTH:
            await exchange.bytes(503 if self._faults.health_down else 200, b"")
        elif path == "/v1/models":
            await exchange.json(200, server_info.models(self._config))
        elif path in ("/model_info", "/get_model_info"):
            await exchange.json(200, server_info.model_info(self._config))
        elif path in ("/server_info", "/get_server_info"):
            await exchange.json(
                200, server_info.server_info(self._config, *self._ports(), self._kv_events())
            )
        elif path == "/v1/loads":
            await exchange.json(200, server_info.loads(self._config, self._engine))
        elif path == "/flush_cache":
            await self._flush(exchange)
        elif path == "/abort_request" and exchange.method == "POST":
            await self._abort(exchange)
        else:
            await exchange.json(404, {"detail": "Not Found"})

    async def _flush(self, exchange: Exchange) -> None:
        is_flushed = self._engine.flush()
        self._counters.n_flushes += is_flushed
        await exchange.bytes(200 if is_flushed else 400, FLUSHED.encode())

    async def _abort(self, exchange: Exchange) -> None:
        try:
            order = json.loads(await exchange.body())
            rid, is_all = str(order.get("rid") or ""), bool(order.get("abort_all"))
        except (ValueError, AttributeError):
            await exchange.json(400, {"detail": "not a JSON object"})
            return
        self._counters.abort_calls.append(order)
        if rid or is_all:
            self._engine.abort(rid, is_all)
        await exchange.bytes(200, b"")

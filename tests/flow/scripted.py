"""A worker that answers generation requests exactly as a test writes it.

For what the simulated engine would never do: an error event at a chosen place, an answer without
a KV cache, pages of garbage. Everything else it answers as an SGLang worker does.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

from app.sim import Seen
from app.sim.listener import Listener
from app.sim.wire import Exchange, Receive, Scope, Send

Script = Callable[[Exchange, dict[str, Any]], Awaitable[None]]
"""Answers one generation request, given its body."""

SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


class ScriptedWorker:
    """One worker on 127.0.0.1, served in the running loop.

    Args:
        role: ``prefill`` or ``decode``; ``null`` for a regular worker, as SGLang says it.
        script: What it does with generation requests; may be replaced at any time.

    Attributes:
        info: What else it says of itself.
        models: What it says it serves.
    """

    def __init__(self, role: str, script: Script) -> None:
        self.role = role
        self.script = script
        self.is_healthy = True
        self.info: dict[str, Any] = {}
        self.models = ["sim-model"]
        self.health: Callable[[Exchange], Awaitable[None]] = self._health
        self.seen: list[Seen] = []
        self.aborted: list[str] = []
        self.n_active = 0
        self.port = 0
        self.bootstrap_port = 8998
        self._listener = Listener(self, "127.0.0.1")

    async def __aenter__(self) -> Self:
        self.port = await self._listener.start(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.kill()
        await self._listener.settle()

    @property
    def url(self) -> str:
        """The worker's base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        if exchange.path == "/health":
            await self.health(exchange)
        elif exchange.path == "/v1/models":
            await exchange.json(200, {"data": [{"id": name} for name in self.models]})
        elif exchange.path == "/server_info":
            await exchange.json(200, {"disaggregation_mode": self.role} | self.info)
        elif exchange.path == "/abort_request":
            self.aborted.append(json.loads(await exchange.body())["rid"])
            await exchange.bytes(200, b"")
        elif exchange.method == "POST":
            await self._generate(exchange)
        else:
            await exchange.json(200, {})

    async def _health(self, exchange: Exchange) -> None:
        await exchange.bytes(200 if self.is_healthy else 503, b"")

    async def _generate(self, exchange: Exchange) -> None:
        body = json.loads(await exchange.body())
        rid, room = body["rid"], body.get("bootstrap_room")
        self.seen.append(Seen(exchange.path, body, exchange.headers, rid, room))
        self.n_active += 1
        try:
            await self.script(exchange, body)
        finally:
            self.n_active -= 1


def whole(status: int, value: Any, **headers: str) -> Script:
    """Answers with one document; bytes are sent as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()

    async def script(exchange: Exchange, body: dict[str, Any]) -> None:
        await exchange.bytes(status, data, {**JSON, **headers})

    return script


def events(*values: Any, is_done: bool = True) -> Script:
    """Answers with a stream; bytes are sent as they are, other values as events."""

    async def script(exchange: Exchange, body: dict[str, Any]) -> None:
        await exchange.start(200, SSE)
        for value in values:
            if isinstance(value, bytes):
                await exchange.write(value)
            else:
                await exchange.event(value)
        await exchange.write(b"data: [DONE]\n\n" if is_done else b"", is_last=True)

    return script


async def hang(exchange: Exchange, body: dict[str, Any]) -> None:
    """Never answers."""
    await exchange.watch()

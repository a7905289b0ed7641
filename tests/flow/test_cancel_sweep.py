"""A request that ends after any number of the loop's steps: nothing of it is left anywhere.

Whatever a request takes, it takes between two steps of the event loop, so ending it after one
step, after two, and so on until it is through passes by every place where something might be
forgotten.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, MutableMapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Literal

import pytest
from starlette.types import ASGIApp

from app.api.generation import GenerationEndpoint
from app.api.leaving import Client
from app.errors import ClientGone, ShuttingDown
from app.middleware.admission import AdmissionMiddleware
from app.observability.log import get_logger
from app.protocol.routes import Route
from app.sim import sim_pair
from tests.flow.fleet import BOUND_S, CHAT, COMPLETIONS, GENERATE, Fleet, body_of, serving, until

How = Literal["leaves", "stopped", "cancelled"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": (CHAT, {}),
    "stream": (CHAT, {"stream": True}),
    "fan-out": (CHAT, {"n": 2}),
    "streamed fan-out": (CHAT, {"stream": True, "n": 3}),
    "batch": (COMPLETIONS, {"stream": True, "prompt": ["a b", "c d"]}),
    "prompt logprobs": (
        GENERATE,
        {"stream": True, "return_logprob": True, "logprob_start_len": 0},
    ),
}
MAX_STEPS = 400
"""Far more than any of these takes."""


async def run(serving_it: Awaitable[None]) -> None:
    """A layer returns an awaitable; a task needs a coroutine."""
    await serving_it


async def end_after(n_steps: int, how: How, endpoint: ASGIApp, path: str, data: bytes) -> bool:
    """Serves a request for so many steps of the loop, then ends it; returns if it was through."""
    client = Client()
    body = iter([{"type": "http.request", "body": data, "more_body": False}])

    async def receive() -> MutableMapping[str, Any]:
        return next(body)

    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": []}
    scope["state"] = {"client": client}
    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
        task = group.create_task(run(endpoint(scope, receive, send)))
        for _ in range(n_steps):
            await asyncio.sleep(0)
        if task.done():
            return True
        if how == "cancelled":
            task.cancel()
        else:
            client.stop(ClientGone() if how == "leaves" else ShuttingDown("The end."))
    if how == "stopped":
        check_whole(sent)
    return False


def check_whole(sent: Sequence[MutableMapping[str, Any]]) -> None:
    """Whoever is stopped by the gateway gets a whole answer: its own, an error, or an event."""
    assert sent[0]["type"] == "http.response.start"
    if len(sent) == 1:
        # A plain answer that was about to be sent; the server cuts it off, short of its length.
        assert b"content-length" in dict(sent[0]["headers"])
        return
    last = [not message.get("more_body", False) for message in sent[1:]]
    assert last == [False] * (len(sent) - 2) + [True]
    raw = b"".join(message["body"] for message in sent[1:])
    is_told = b'"shutting_down"' in raw
    assert sent[0]["status"] == (503 if is_told and b"data: " not in raw else 200)
    if b"data: " in raw:
        assert is_told is not (b"[DONE]" in raw)


def drop_idle_connections(fleet: Fleet) -> None:
    """Makes the next request open its own."""
    for worker in fleet.gateway.registry.workers():
        for connection in list(fleet.gateway.clients.get(worker).pool._idle):
            connection.abort()


@pytest.mark.parametrize(
    ("how", "is_warm"),
    [("leaves", False), ("leaves", True), ("stopped", True), ("cancelled", False)],
    ids=["leaves", "leaves kept connections", "stopped", "cancelled"],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_ended_after_any_step(
    stack: AsyncExitStack, kind: str, how: How, is_warm: bool
) -> None:
    """No lease, exchange, task or room stays, both engines are empty, and nobody is charged."""
    path, more = KINDS[kind]
    data = json.dumps(body_of(path, **more)).encode()
    pair = await stack.enter_async_context(sim_pair(disconnect_notice_s=60.0))
    fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]]))
    endpoint = AdmissionMiddleware(
        GenerationEndpoint(Route(path), fleet.gateway.router, 1_000_000),
        door=fleet.gateway.entrance.door,
        key_rate=None,
        total_rate=None,
        log=get_logger("admission"),
        now_s=time.monotonic,
    )

    n_steps = 0

    def left() -> dict[str, Any]:
        in_engines = {
            "jobs": sum(len(worker.engine.table.jobs) for worker in pair),
            "rooms": pair[0].n_rooms,
        }
        return fleet.leftovers() | {name: n for name, n in in_engines.items() if n}

    def describe() -> dict[str, Any]:
        return {"steps": n_steps} | left()

    n_through = 0
    for n_steps in range(1, MAX_STEPS):
        if not is_warm:
            drop_idle_connections(fleet)
        n_through += await end_after(n_steps, how, endpoint, path, data)
        await until(lambda: not left(), describe)
        assert fleet.charged == [], n_steps
        if n_through == 2:
            break
    assert n_through == 2

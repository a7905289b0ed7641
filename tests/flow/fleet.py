"""A whole gateway in the test's own loop, before workers in the same loop.

Both sides are looked at: what the client got, and what the workers saw. Everything speaks over
loopback sockets, so connections are refused, reset and cut as they are between machines.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.gateway import Gateway
from app.main import create_app
from app.server.client_protocol import ClientProtocol
from app.settings import PrefillUrl, Settings
from app.sim import SglangSim
from app.sim.listener import Listener
from app.workers.states import State
from app.workers.worker import Worker
from tests.flow.scripted import ScriptedWorker

AnyWorker = SglangSim | ScriptedWorker
BOUND_S = 5.0
"""Longest that anything here may take; nothing is expected to come near."""

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
GENERATE = "/generate"


def body_of(route: str, *, stream: bool = False, n_tokens: int = 4, **more: Any) -> dict[str, Any]:
    """A request that is answered with exactly ``n_tokens`` tokens."""
    if route == GENERATE:
        params = {"max_new_tokens": n_tokens, "ignore_eos": True}
        params |= more.pop("sampling_params", {})
        return {"text": "One two three", "sampling_params": params, "stream": stream} | more
    asked: dict[str, Any] = {"prompt": "One two three"}
    if route == CHAT:
        asked = {"messages": [{"role": "user", "content": "One two three"}]}
    return asked | {"max_tokens": n_tokens, "ignore_eos": True, "stream": stream} | more


@dataclass(frozen=True, slots=True)
class Got:
    """What the client got: a body, or the data of the events."""

    status: int
    headers: httpx.Headers
    raw: bytes

    @property
    def is_stream(self) -> bool:
        """The answer came as events."""
        return self.headers["content-type"].startswith("text/event-stream")

    @property
    def json(self) -> Any:
        """The whole body."""
        return json.loads(self.raw)

    @property
    def events(self) -> list[str]:
        """The data of the events; every one of them is complete."""
        assert self.raw.endswith(b"\n\n")
        texts = self.raw.decode().removesuffix("\n\n").split("\n\n")
        assert all(text.startswith("data: ") for text in texts), texts
        return [text.removeprefix("data: ") for text in texts]

    @property
    def error(self) -> dict[str, Any]:
        """The error that ends the answer, wherever it stands."""
        found: dict[str, Any]
        if self.is_stream:
            assert "[DONE]" not in self.events
            (found,) = [d["error"] for d in map(json.loads, self.events) if "error" in d]
            assert "error" in json.loads(self.events[-1])
            return found
        found = self.json["error"]
        assert self.headers.get("x-tandem-leg") == found.get("leg")
        assert self.headers["x-tandem-error-code"] == found["code"]
        return found


@dataclass
class Fleet:
    """A running gateway, its workers and a client."""

    http: httpx.AsyncClient
    gateway: Gateway
    prefills: Sequence[Any]
    decodes: Sequence[Any]
    regulars: Sequence[Any] = ()
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def workers(self) -> list[Any]:
        """All workers: prefill, decode, regular."""
        return [*self.prefills, *self.decodes, *self.regulars]

    def live(self, worker: AnyWorker) -> Worker:
        """The gateway's own view of a worker."""
        return next(w for w in self.gateway.registry.workers() if w.spec.url == worker.url)

    @property
    def charged(self) -> list[str]:
        """The roles of the workers whose breaker opened; one failure is enough here."""
        workers = self.gateway.registry.workers()
        return [str(w.spec.role) for w in workers if not w.breaker.is_closed]

    async def ask(self, path: str, body: Mapping[str, Any] | bytes, **headers: str) -> Got:
        """Sends one request and reads its whole answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with asyncio.timeout(BOUND_S):
            answer = await self.http.post(
                path, content=content, headers={"content-type": "application/json", **headers}
            )
        return Got(answer.status_code, answer.headers, answer.content)

    async def during(self, asking: Coroutine[Any, Any, Got], doing: Awaitable[object]) -> Got:
        """Does something while a request runs; returns what the client got."""
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            task = group.create_task(asking)
            await doing
            return await task

    async def ready(self) -> None:
        """Waits until every worker is; what runs from then on is a request's."""
        workers = self.gateway.registry.workers()
        await until(lambda: all(w.state is State.READY for w in workers))
        self.tasks = asyncio.all_tasks()

    async def settle(self) -> None:
        """Waits until nothing of any request is left: leases, exchanges, legs, tasks."""
        await until(lambda: not self.leftovers(), self.leftovers)

    def leftovers(self) -> dict[str, Any]:
        """What is still held somewhere."""
        live = self.gateway.registry.workers()
        extra = asyncio.all_tasks() - self.tasks - {asyncio.current_task()}
        door = self.gateway.entrance.door
        held = {
            "in flight": door.n_in_flight,
            "body bytes": door.n_body_bytes,
            "leases": sum(w.n_leases + sum(w.rank_leases) for w in live),
            "exchanges": sum(self.gateway.clients.get(w).pool.n_active for w in live),
            "ending legs": self.gateway.reaper.n_pending,
            "requests in workers": sum(w.n_active for w in self.workers),
            "tasks": [task.get_name() for task in extra],
        }
        return {name: what for name, what in held.items() if what}


async def until(is_so: Callable[[], object], describe: Callable[[], object] | None = None) -> None:
    """Waits until something is so.

    Raises:
        AssertionError: It is not within the bound; with what ``describe`` says.
    """
    try:
        async with asyncio.timeout(BOUND_S):
            while not is_so():  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError((describe or (lambda: inspect.getsource(is_so)))()) from None


@asynccontextmanager
async def serving(
    prefills: Sequence[AnyWorker],
    decodes: Sequence[AnyWorker],
    protocol: type[HttpToolsProtocol] = ClientProtocol,
    regulars: Sequence[AnyWorker] = (),
    **settings: Any,
) -> AsyncIterator[Fleet]:
    """Runs a gateway whose workers are all ready, and afterwards looks for leftovers."""
    app = create_app(
        Settings(
            **{
                "prefill": tuple(PrefillUrl(w.url, w.bootstrap_port) for w in prefills),
                "decode": tuple(w.url for w in decodes),
                "worker_urls": tuple(w.url for w in regulars),
                "policy": "round_robin",
                "health_check_interval_secs": 60.0,
                "cb_failure_threshold": 1,
                "log_level": "error",
                **settings,
            }
        )
    )
    gateway: Gateway = app.state.gateway
    listener = Listener(app, "127.0.0.1", protocol)
    async with app.router.lifespan_context(app):
        port = await listener.start(0)
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=2 * BOUND_S
            ) as http:
                fleet = Fleet(http, gateway, prefills, decodes, regulars)
                await fleet.ready()
                yield fleet
                await fleet.settle()
        finally:
            listener.kill()
            await listener.settle()

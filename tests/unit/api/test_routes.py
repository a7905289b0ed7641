"""The routes over a registry whose workers' states are set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from app.api import engine_info, health, models, problem, tokenize, workers
from app.api.parts import Clocks, Life
from app.dispatch.handoff_counts import HandoffCounts
from app.dispatch.model_texts import ModelTexts, TextSettings
from app.scheduling.solo import SoloCounts
from app.upstream.clients import WorkerClients
from app.upstream.failures import ConnectFailed
from app.upstream.http1 import Head
from app.workers.drain import Drain
from app.workers.registry import Registry
from app.workers.states import Event, State
from app.workers.url_guard import UrlGuard
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec


class Scripted:
    """Clients whose every worker answers by URL and path."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, bytes] | None] = {}

    def get(self, worker: Worker) -> ScriptedPool:
        return ScriptedPool(self.answers, worker.spec.url)

    def n_running(self, worker: Worker) -> int:
        return 0

    def end(self, worker: Worker) -> int:
        return 0

    async def drop(self, worker: Worker) -> None:
        return None


@dataclass
class ScriptedPool:
    """One worker's client, pool and exchange."""

    answers: Mapping[tuple[str, str], tuple[int, bytes] | None]
    url: str
    answer: tuple[int, bytes] | None = None

    @property
    def pool(self) -> ScriptedPool:
        return self

    def exchange(
        self, method: bytes, target: bytes, headers: object, body: bytes, **_: object
    ) -> ScriptedPool:
        answer = self.answers.get((self.url, target.decode()), (404, b"{}"))
        return ScriptedPool(self.answers, self.url, answer)

    async def head(self) -> Head:
        if self.answer is None:
            raise ConnectFailed("connection refused")
        return Head(self.answer[0], [])

    async def read(self, limit: int) -> bytes:
        assert self.answer is not None
        return self.answer[1]

    def close(self) -> None:
        return None


@dataclass
class FakeGateway:
    """The parts that routes use."""

    registry: Registry = field(default_factory=Registry)
    clients: Scripted = field(default_factory=Scripted)
    life: Life = field(default_factory=Life)
    handoffs: HandoffCounts = field(default_factory=HandoffCounts)
    clocks: Clocks = field(default_factory=lambda: Clocks(lambda: 0.0, lambda: 1e9))
    solo_counts: SoloCounts = field(default_factory=SoloCounts)
    url_guard: UrlGuard = field(default_factory=UrlGuard)
    aliases: dict[str, str] = field(default_factory=dict)
    decodes_alone: bool = False
    state: None = None

    def __post_init__(self) -> None:
        self.texts = ModelTexts(self.registry, cast("WorkerClients", self.clients), TextSettings())
        self.drain = Drain(self.registry, self.clients, limit_s=600, now_s=lambda: 0.0)

    def add(self, url: str, role: Role, *model_ids: str) -> Worker:
        """Adds a ready worker."""
        worker = self.registry.add(WorkerSpec(url=url, role=role))
        self.registry.set_info(worker, WorkerInfo(model_ids=model_ids))
        self.registry.set_state(worker, State.READY)
        return worker


@pytest.fixture
def gateway() -> FakeGateway:
    """Parts without workers."""
    return FakeGateway()


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application over the parts."""
    app = FastAPI(docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.gateway = gateway
    for part in (models, workers, engine_info, health):
        app.include_router(part.router)
    app.include_router(tokenize.make_router(max_body_bytes=1000))
    problem.install(app)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://tandem") as client:
        yield client


def _pair(gateway: FakeGateway) -> tuple[Worker, Worker]:
    prefill = gateway.add("http://p:1", Role.PREFILL, "org/m")
    return prefill, gateway.add("http://d:1", Role.DECODE, "org/m")


def _code(answer: httpx.Response) -> Any:
    return answer.json()["error"]["code"]


async def test_readiness_follows_the_pair(gateway: FakeGateway, client: httpx.AsyncClient) -> None:
    """200 with counts for a pair, 503 with a reason without one and while ending."""
    assert (await client.get("/readiness")).status_code == 503
    _pair(gateway)
    answer = await client.get("/readiness")
    assert answer.json() == {"status": "ready", "healthy_workers": 2, "total_workers": 2}
    gateway.life.is_ending = True
    answer = await client.get("/readiness")
    assert (answer.status_code, answer.json()["reason"]) == (503, "the gateway is shutting down")
    assert (await client.get("/health")).text == "OK"


async def test_model_id_may_hold_slashes(gateway: FakeGateway, client: httpx.AsyncClient) -> None:
    """The model of the pair is listed and found under its own name."""
    _pair(gateway)
    listed = (await client.get("/v1/models")).json()
    assert [card["id"] for card in listed["data"]] == ["org/m"]
    assert (await client.get("/v1/models/org/m")).json()["id"] == "org/m"
    assert _code(await client.get("/v1/models/m")) == "model_not_found"


async def test_worker_is_added_shown_and_removed(
    gateway: FakeGateway, client: httpx.AsyncClient
) -> None:
    """202 with Location; pending, changed, ready, draining, then gone; removed again is fine."""
    added = await client.post("/workers", json={"url": "http://d:1", "worker_type": "decode"})
    location = added.headers["location"]
    assert (added.status_code, location) == (202, f"/workers/{added.json()['worker_id']}")
    assert added.json()["status"] == "accepted"
    assert (await client.get(location)).json()["status"] == "pending"
    again = await client.post("/workers", json={"url": "http://d:1/"})
    assert (again.status_code, _code(again)) == (409, "worker_already_exists")
    assert again.json()["error"]["message"].endswith("Its state is joining.")
    patched = await client.patch(location, json={"priority": 7})
    assert (patched.status_code, patched.json()["status"]) == (202, "accepted")
    assert (await client.get(location)).json()["priority"] == 7
    gateway.registry.apply(gateway.registry.workers()[0], Event.JOINED)
    assert (await client.delete(location)).status_code == 202
    assert (await client.get(location)).json()["status"] == "draining"
    again = await client.delete(location, params={"timeout_s": 30})
    assert "draining" in again.json()["message"]
    shown = (await client.get(location)).json()["draining"]
    assert shown["deadline"] - shown["since"] == 30
    async with asyncio.TaskGroup() as group:
        running = group.create_task(gateway.drain.run())
        async with asyncio.timeout(2):
            while gateway.registry.workers():  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
        running.cancel()
    gone = await client.get(location)
    assert (_code(gone), gone.json()["error"]["message"].split(": ")[1]) == (
        "worker_not_found",
        "drained.",
    )
    late = await client.delete(location)
    assert (late.status_code, late.json()["message"]) == (202, "The worker was removed: drained.")


@pytest.mark.parametrize("query", ["timeout_s=-1", "timeout_s=inf", "timeout_s=x", "force=maybe"])
async def test_wrong_way_to_remove(
    gateway: FakeGateway, client: httpx.AsyncClient, query: str
) -> None:
    """400 naming the parameter, and the worker stays."""
    worker = gateway.add("http://d:1", Role.DECODE)
    answer = await client.delete(f"/workers/{worker.id}?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])
    assert worker.state is State.READY


async def test_cancelled_registration(gateway: FakeGateway, client: httpx.AsyncClient) -> None:
    """A worker that has not joined is gone with the answer."""
    added = await client.post("/workers", json={"url": "http://d:1"})
    answer = await client.delete(added.headers["location"])
    assert "had not joined" in answer.json()["message"]
    assert gateway.registry.workers() == ()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b'{"url":"http://w","a":1}', 400, "unknown_parameter"),
        (b" " * (1024 * 1024 + 1), 413, "request_body_too_large"),
    ],
)
async def test_bad_body_is_refused(
    client: httpx.AsyncClient, body: bytes, status: int, code: str
) -> None:
    """400 or 413 in the one shape, whatever the content type says."""
    answer = await client.post("/workers", content=body)
    assert (answer.status_code, _code(answer)) == (status, code)


async def test_info_comes_from_prefill(gateway: FakeGateway, client: httpx.AsyncClient) -> None:
    """Prefill's answer under both names; its error status is kept; 503 without workers."""
    assert _code(await client.get("/server_info")) == "no_available_pair"
    gateway.add("http://d:1", Role.DECODE, "m")
    gateway.add("http://p:1", Role.PREFILL, "m")
    answers = gateway.clients.answers
    answers["http://p:1", "/server_info"] = (200, b'{"tp_size":1,"api_key":"k"}')
    answers["http://p:1", "/get_model_info"] = (500, b'{"message":"broken"}')
    for path in ("/server_info", "/get_server_info"):
        assert (await client.get(path)).json() == {"tp_size": 1, "api_key": None}
    answer = await client.get("/model_info")
    assert (answer.status_code, answer.headers["x-tandem-leg"]) == (500, "prefill")


async def test_loads_name_workers_and_failures(
    gateway: FakeGateway, client: httpx.AsyncClient
) -> None:
    """A row of the worker that answered, an error of the one that did not."""
    _pair(gateway)
    gateway.clients.answers["http://p:1", "/v1/loads"] = (
        200,
        b'{"timestamp":"2026-11-23T08:34:18","loads":[{"dp_rank":0,"num_running_reqs":3}]}',
    )
    told = (await client.get("/get_loads")).json()
    assert told["loads"] == [
        {"worker": "http://p:1", "worker_type": "prefill", "dp_rank": 0, "num_running_reqs": 3}
    ]
    assert (told["aggregate"]["total_running_reqs"], told["timestamp"][:4]) == (3, "2026")
    assert [error["worker"] for error in told["errors"]] == ["http://d:1"]


async def test_flush_counts(gateway: FakeGateway, client: httpx.AsyncClient) -> None:
    """502 when none flushed, 206 for some, 200 for all."""
    _pair(gateway)
    assert _code(await client.post("/flush_cache")) == "flush_failed"
    gateway.clients.answers["http://p:1", "/flush_cache"] = (200, b"Cache flushed.")
    answer = await client.post("/flush_cache")
    assert (answer.status_code, answer.json()["workers_flushed"]) == (206, 1)
    gateway.clients.answers["http://d:1", "/flush_cache"] = (200, b"Cache flushed.")
    answer = await client.post("/flush_cache")
    assert (answer.status_code, answer.json()["status"]) == (200, "success")


async def test_health_generate_asks_both(gateway: FakeGateway, client: httpx.AsyncClient) -> None:
    """503 naming the leg that fails its probe generation, 200 when both pass."""
    _pair(gateway)
    gateway.clients.answers["http://p:1", "/health_generate"] = (200, b"")
    gateway.clients.answers["http://d:1", "/health_generate"] = (503, b"")
    answer = await client.get("/health_generate")
    assert (answer.status_code, _code(answer)) == (503, "health_generate_failed")
    assert answer.headers["x-tandem-leg"] == "decode"
    gateway.clients.answers["http://d:1", "/health_generate"] = None
    assert _code(await client.get("/health_generate")) == "worker_unreachable"
    gateway.clients.answers["http://d:1", "/health_generate"] = (200, b"")
    assert (await client.get("/health_generate")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/tokenize", "/tokenize"])
async def test_tokens_of_sglang_models_come_from_the_worker(
    gateway: FakeGateway, client: httpx.AsyncClient, path: str
) -> None:
    """Its answer or its refusal; 501 when it has no such route."""
    _pair(gateway)
    assert (await client.post(path, json={"model": "org/m"})).status_code == 501
    gateway.clients.answers["http://d:1", "/v1/tokenize"] = (200, b'{"tokens":[1],"count":1}')
    answer = await client.post(path, json={"model": "org/m", "prompt": "a"})
    assert (answer.status_code, answer.json()) == (200, {"tokens": [1], "count": 1})
    gateway.clients.answers["http://d:1", "/v1/tokenize"] = (400, b'{"message":"no prompt"}')
    answer = await client.post(path, json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "worker_rejected")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"model":"nobody","prompt":"a"}', 404, "model_not_found"),
        (b'{"model":7,"prompt":"a"}', 400, "invalid_request"),
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_request"),
        (b" " * 1001, 413, "request_body_too_large"),
    ],
)
async def test_bad_tokenize_request(
    gateway: FakeGateway, client: httpx.AsyncClient, body: bytes, status: int, code: str
) -> None:
    """Refused in the one shape on all four routes."""
    _pair(gateway)
    for path in ("/v1/tokenize", "/tokenize", "/v1/detokenize", "/detokenize"):
        answer = await client.post(path, content=body)
        assert (answer.status_code, _code(answer)) == (status, code)


async def test_tokens_without_a_ready_worker(
    gateway: FakeGateway, client: httpx.AsyncClient
) -> None:
    """503, not 404, while a worker may turn out to serve the model."""
    gateway.registry.add(WorkerSpec(url="http://d:1", role=Role.DECODE))
    answer = await client.post("/v1/tokenize", json={"model": "m", "prompt": "a"})
    assert (answer.status_code, _code(answer)) == (503, "no_available_pair")
    assert answer.headers["retry-after"]

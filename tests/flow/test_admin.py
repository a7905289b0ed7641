"""Workers, models and health of a running gateway, over simulated workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from app.main import create_app
from app.settings import PrefillUrl, Settings
from app.sim import SglangSim, sim_pair

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


class _Server(uvicorn.Server):
    """A server inside the test's loop; signals stay the test runner's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Runs a gateway on a free port and yields a client of it."""
    server = _Server(
        uvicorn.Config(
            create_app(settings), host="127.0.0.1", port=0, log_config=None, lifespan="on"
        )
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                yield client
        finally:
            server.should_exit = True


def settings_of(prefill: SglangSim | None = None, decode: SglangSim | None = None) -> Settings:
    """Settings of a quick and quiet gateway before the given workers."""
    return Settings(
        prefill=(PrefillUrl(prefill.url, prefill.bootstrap_port),) if prefill else (),
        decode=(decode.url,) if decode else (),
        health_check_interval_secs=0.2,
        log_level="error",
    )


async def until(
    client: httpx.AsyncClient, path: str, is_there: Callable[[httpx.Response], bool]
) -> httpx.Response:
    """Asks until the answer is the expected one."""
    async with asyncio.timeout(5):
        while not is_there(answer := await client.get(path)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return answer


def _is_ok(answer: httpx.Response) -> bool:
    return answer.status_code == 200


@pytest.fixture
async def pair() -> AsyncIterator[tuple[SglangSim, SglangSim]]:
    """A prefill and a decode worker."""
    async with sim_pair() as members:
        yield members


@pytest.fixture
async def client(pair: tuple[SglangSim, SglangSim]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway whose pair is ready."""
    async with serve(settings_of(*pair)) as client:
        await until(client, "/readiness", _is_ok)
        yield client


@pytest.fixture
async def empty() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway without workers."""
    async with serve(settings_of()) as client:
        yield client


def _error(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert answer.headers["x-request-id"]
    assert answer.headers["x-tandem-error-code"] == error["code"]
    return error


async def test_without_workers_alive_but_not_ready(empty: httpx.AsyncClient) -> None:
    """200 from /health and /liveness, 503 with both lacks from /readiness, no models."""
    assert (await empty.get("/health")).text == "OK"
    assert (await empty.head("/liveness")).status_code == 200
    answer = await empty.get("/readiness")
    assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
    assert "no prefill worker" in answer.json()["reason"]
    assert "no decode worker" in answer.json()["reason"]
    assert (await empty.get("/v1/models")).json() == {"object": "list", "data": []}
    for path in ("/health_generate", "/get_server_info"):
        assert _error(await empty.get(path))["code"] == "no_available_pair"


async def test_half_a_pair_is_not_ready(pair: tuple[SglangSim, SglangSim]) -> None:
    """503 naming the decode role while only prefill is there, 200 once decode was added."""
    prefill, decode = pair
    async with serve(settings_of(prefill)) as client:
        await until(client, "/workers", lambda a: bool(a.json()["workers"][0]["is_healthy"]))
        answer = await client.get("/readiness")
        assert answer.json()["reason"] == "no decode worker is registered"
        added = await client.post("/workers", json={"url": decode.url, "worker_type": "decode"})
        assert added.status_code == 202
        assert added.headers["location"] == f"/workers/{added.json()['worker_id']}"
        ready = await until(client, "/readiness", _is_ok)
        assert ready.json() == {"status": "ready", "healthy_workers": 2, "total_workers": 2}


async def test_workers_show_their_roles(
    client: httpx.AsyncClient, pair: tuple[SglangSim, SglangSim]
) -> None:
    """One worker of each role with SMG's field names, and the counts of the list."""
    listed = (await client.get("/workers")).json()
    assert listed["stats"] == {"prefill_count": 1, "decode_count": 1, "regular_count": 0}
    by_role = {worker["worker_type"]: worker for worker in listed["workers"]}
    prefill = by_role["prefill"]
    assert (prefill["url"], prefill["bootstrap_port"]) == (pair[0].url, pair[0].bootstrap_port)
    assert (prefill["status"], prefill["runtime_type"]) == ("ready", "sglang")
    one = await client.get(f"/workers/{prefill['id']}")
    assert one.json()["url"] == prefill["url"]
    model = prefill["model_id"]
    assert (await client.get("/workers", params={"model": model})).json()["total"] == 2
    assert (await client.get("/workers", params={"model": "other"})).json()["total"] == 0


async def test_models_of_the_pair(client: httpx.AsyncClient) -> None:
    """The model that both workers named is listed and found; another one is 404."""
    (card,) = (await client.get("/v1/models")).json()["data"]
    assert (card["object"], card["owned_by"]) == ("model", "self_hosted")
    assert (await client.get(f"/v1/models/{card['id']}")).json() == card
    answer = await client.get("/v1/models/org/other")
    assert (answer.status_code, _error(answer)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b'{"url": "http://w:1", "typo": 1}', 400, "typo"),
        (b'{"url": "nothing"}', 400, "url"),
        (b"{", 400, None),
        (b"[]", 400, None),
        (b'{"url": "grpc://w:1", "runtime_type": "sglang"}', 400, "runtime_type"),
    ],
)
async def test_wrong_worker_is_refused(
    empty: httpx.AsyncClient, body: bytes, status: int, param: str | None
) -> None:
    """The field at fault is named, and nothing is registered."""
    answer = await empty.post("/workers", content=body)
    assert (answer.status_code, _error(answer)["param"]) == (status, param)
    assert (await empty.get("/workers")).json()["total"] == 0


async def test_same_url_twice_is_409(empty: httpx.AsyncClient) -> None:
    """409 for the second worker, though its URL has a slash more."""
    body = {"url": "http://127.0.0.1:9", "worker_type": "decode"}
    assert (await empty.post("/workers", json=body)).status_code == 202
    answer = await empty.post("/workers", json={**body, "url": "http://127.0.0.1:9/"})
    assert (answer.status_code, _error(answer)["code"]) == (409, "worker_already_exists")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
async def test_unknown_worker(empty: httpx.AsyncClient, method: str) -> None:
    """404 for an id nobody has, 400 for what is no id."""
    answer = await empty.request(method, f"/workers/{UNKNOWN_ID}")
    assert (answer.status_code, _error(answer)["code"]) == (404, "worker_not_found")
    assert (await empty.request(method, "/workers/x")).status_code == 400


async def test_removed_worker_is_gone(client: httpx.AsyncClient) -> None:
    """202, then the worker disappears and the gateway is not ready any more."""
    worker = (await client.get("/workers")).json()["workers"][0]
    answer = await client.delete(f"/workers/{worker['id']}")
    assert (answer.status_code, answer.json()["worker_id"]) == (202, worker["id"])
    await until(client, f"/workers/{worker['id']}", lambda a: a.status_code == 404)
    assert (await client.get("/readiness")).status_code == 503


async def test_engine_answers_pass_through(
    client: httpx.AsyncClient, pair: tuple[SglangSim, SglangSim]
) -> None:
    """Both names of each info route answer the same; loads have a row a worker."""
    for old, new in (("/get_model_info", "/model_info"), ("/get_server_info", "/server_info")):
        first, second = await client.get(old), await client.get(new)
        assert first.status_code == second.status_code == 200
        assert first.json().keys() == second.json().keys()
    loads = (await client.get("/get_loads")).json()
    assert {row["worker"] for row in loads["loads"]} == {sim.url for sim in pair}
    assert loads["errors"] == []


async def test_caches_are_flushed(client: httpx.AsyncClient) -> None:
    """Both workers flushed, said with SMG's names."""
    answer = await client.post("/flush_cache")
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["workers_flushed"]) == ("success", 2)


async def test_pair_is_asked_to_generate(
    client: httpx.AsyncClient, pair: tuple[SglangSim, SglangSim]
) -> None:
    """200 naming both members when both answer."""
    answer = await client.get("/health_generate")
    assert answer.status_code == 200
    assert all(sim.url in answer.text for sim in pair)


async def test_wrong_method_and_path(empty: httpx.AsyncClient) -> None:
    """405 with every allowed method, 404 for a path that is nowhere."""
    answer = await empty.put("/workers")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert _error(answer)["code"] == "method_not_allowed"
    answer = await empty.get("/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert _error(await empty.get("/nowhere"))["code"] == "unknown_url"

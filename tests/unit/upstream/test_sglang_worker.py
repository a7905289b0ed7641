"""Control calls to an SGLang worker, against a small server that answers as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from app.upstream.clients import WorkerClients
from app.upstream.sglang_worker import SglangWorkerClient, WorkerRefused
from app.workers.worker import Role, Worker, WorkerSpec

MODELS = {"data": [{"id": "smollm2", "owned_by": "sglang", "max_model_len": 8192}]}
SERVER = {
    "disaggregation_mode": "prefill",
    "disaggregation_bootstrap_port": 32310,
    "version": "0.5.23",
}
MODEL = {"model_type": "llama"}


class Engine:
    """An HTTP server with an answer for each path; others get 404."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {
            "/health": (200, None),
            "/v1/models": (200, MODELS),
            "/server_info": (200, SERVER),
            "/model_info": (200, MODEL),
            "/abort_request": (200, None),
            "/flush_cache": (200, None),
        }
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.hanging: set[bytes] = set()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                target = head[0].split(" ")[1]
                self.seen.append((target, headers, body))
                if target.encode() in self.hanging or body in self.hanging:
                    await asyncio.Event().wait()
                status, answer = self.answers.get(target.partition("?")[0], (404, {}))
                data = b"" if answer is None else answer
                data = data if isinstance(data, bytes) else json.dumps(data).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            # The client closed its connection, which is how every test ends.
            return
        finally:
            writer.close()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """A running server."""
    engine = Engine()
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            handlers.add(task)
        await engine.serve(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    engine.port = server.sockets[0].getsockname()[1]
    yield engine
    server.close()
    for task in handlers:
        task.cancel()
    await asyncio.wait(handlers, timeout=1) if handlers else None


class Warnings:
    """Collects what the operator is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, worker: Worker, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def warnings() -> Warnings:
    """Nothing told yet."""
    return Warnings()


@pytest.fixture
async def client(engine: Engine, warnings: Warnings) -> AsyncIterator[SglangWorkerClient]:
    """A client of the server, as a prefill worker with a key."""
    client = _client(engine, Role.PREFILL, warnings)
    yield client
    await client.aclose()


def _client(engine: Engine, role: Role, warnings: Warnings) -> SglangWorkerClient:
    spec = WorkerSpec(f"http://127.0.0.1:{engine.port}", role, api_key="k")
    return SglangWorkerClient(Worker(spec), control_timeout_s=0.5, warn=warnings)


async def test_probe_succeeds_with_the_workers_key(
    engine: Engine, client: SglangWorkerClient
) -> None:
    """Good for any 2xx; the key goes along."""
    assert (await client.probe()).ok
    assert ("/health", "Bearer k") == (engine.seen[0][0], engine.seen[0][1]["authorization"])


async def test_probe_tells_a_status(engine: Engine, client: SglangWorkerClient) -> None:
    """Bad with the status, and no connect failure."""
    engine.answers["/health"] = (503, None)
    result = await client.probe()
    assert (False, "/health answered 503.", False) == (
        result.ok,
        result.error,
        result.is_connect_failure,
    )


async def test_probe_times_out(engine: Engine, client: SglangWorkerClient) -> None:
    """Bad within about the control time, and no connect failure."""
    engine.hanging.add(b"/health")
    async with asyncio.timeout(2):
        result = await client.probe()
    assert (False, False) == (result.ok, result.is_connect_failure)


async def test_probe_of_nothing() -> None:
    """Bad, as a connect failure."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    client = SglangWorkerClient(Worker(WorkerSpec(f"http://127.0.0.1:{port}", Role.DECODE)))
    result = await client.probe()
    await client.aclose()
    assert (False, True) == (result.ok, result.is_connect_failure)
    assert result.error.startswith("No connection: ")


async def test_registration_puts_the_answers_together(
    client: SglangWorkerClient, warnings: Warnings
) -> None:
    """Something of each of the three answers, and nothing to warn of."""
    info = await client.register()
    assert (("smollm2",), 32310, "llama") == (
        info.model_ids,
        info.bootstrap_port,
        info.labels["model_type"],
    )
    assert [] == warnings.texts


async def test_registration_takes_the_old_names(engine: Engine, client: SglangWorkerClient) -> None:
    """The same from /get_server_info and /get_model_info where the new names are absent."""
    for name in ("server_info", "model_info"):
        engine.answers[f"/get_{name}"] = engine.answers.pop(f"/{name}")
    info = await client.register()
    assert ("0.5.23", "llama") == (info.version, info.labels["model_type"])


async def test_registration_of_a_bare_worker(
    engine: Engine, client: SglangWorkerClient, warnings: Warnings
) -> None:
    """No model means a wildcard; the missing bootstrap port is told once."""
    engine.answers = {}
    info = await client.register()
    await client.register()
    assert ((), 1, None, {}) == (info.model_ids, info.dp_size, info.version, dict(info.labels))
    assert 1 == len(warnings.texts)
    assert "bootstrap port" in warnings.texts[0]


@pytest.mark.parametrize(
    ("mode", "role", "words"),
    [
        ("prefill", Role.DECODE, "as a decode worker but runs in disaggregation mode 'prefill'"),
        ("null", Role.DECODE, "runs without disaggregation"),
        ("decode", Role.REGULAR, "as a regular worker"),
    ],
)
async def test_wrong_role_is_refused(
    engine: Engine, warnings: Warnings, mode: str, role: Role, words: str
) -> None:
    """A sentence that says both, the role and the mode."""
    engine.answers["/server_info"] = (200, {"disaggregation_mode": mode})
    client = _client(engine, role, warnings)
    with pytest.raises(WorkerRefused, match=words):
        await client.register()
    await client.aclose()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, None), "/server_info answered 500"),
        ((401, None), "another API key"),
        ((200, b"<html>"), "no JSON"),
    ],
)
async def test_registration_fails_in_words(
    engine: Engine, client: SglangWorkerClient, answer: tuple[int, Any], words: str
) -> None:
    """An error, a refusal and garbage are told apart."""
    engine.answers["/server_info"] = answer
    with pytest.raises(WorkerRefused, match=words):
        await client.register()


async def test_abort_posts_every_rid(engine: Engine, client: SglangWorkerClient) -> None:
    """One POST a rid, and the number that worked."""
    assert 3 == await client.abort(["a", "b", "c"])
    assert [{"rid": "a"}, {"rid": "b"}, {"rid": "c"}] == sorted(
        (json.loads(body) for _, _, body in engine.seen), key=lambda body: str(body["rid"])
    )
    engine.answers["/abort_request"] = (500, None)
    assert 0 == await client.abort(["d"])


async def test_abort_is_bounded(
    engine: Engine, client: SglangWorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that works is counted, the hanging one given up in time."""
    monkeypatch.setattr("app.upstream.sglang_worker.ABORT_TIMEOUT_S", 0.2)
    engine.hanging.add(b'{"rid":"slow"}')
    async with asyncio.timeout(1):
        assert 1 == await client.abort(["slow", "quick"])


async def test_loads_are_asked_with_the_key_of_the_moment(engine: Engine) -> None:
    """And a worker that hangs is given up, its connection not used again."""
    worker = Worker(WorkerSpec(f"http://127.0.0.1:{engine.port}", Role.PREFILL))
    client = SglangWorkerClient(worker, control_timeout_s=0.5)
    for key in (None, "one", "two"):
        worker.spec = replace(worker.spec, api_key=key)
        await client.loads()
        target, headers, _ = engine.seen[-1]
        assert target == "/v1/loads?include=core,disagg,queues,memory"
        assert headers.get("authorization") == (key and f"Bearer {key}")
        assert headers["accept-encoding"] == "identity"
    engine.hanging.add(b"/v1/loads?include=core,disagg,queues,memory")
    with pytest.raises(WorkerRefused, match="gave no answer"):
        await client.loads()
    assert client.pool.n_active == 0
    await client.aclose()


async def test_flush_and_loads(engine: Engine, client: SglangWorkerClient) -> None:
    """The loads as sent, empty where there are none; a refused flush is told."""
    assert {} == await client.loads()
    engine.answers["/v1/loads"] = (200, {"loads": []})
    assert {"loads": []} == await client.loads()
    engine.answers["/v1/loads"] = (500, {})
    with pytest.raises(WorkerRefused, match="/v1/loads answered 500"):
        await client.loads()
    engine.answers["/v1/loads"] = (200, b"no JSON")
    with pytest.raises(WorkerRefused, match="/v1/loads answered something that is no JSON"):
        await client.loads()
    assert "0.5.23" == (await client.server_info())["version"]
    assert "llama" == (await client.model_info())["model_type"]
    await client.flush_cache()
    engine.answers["/flush_cache"] = (400, None)
    with pytest.raises(WorkerRefused, match="400"):
        await client.flush_cache()


async def test_clients_are_kept_and_dropped(engine: Engine) -> None:
    """One client a worker until it is dropped; the dropped one's connections are closed."""
    worker = Worker(WorkerSpec(f"http://127.0.0.1:{engine.port}", Role.DECODE))
    clients = WorkerClients(connect_timeout_s=1.0)
    client = clients.get(worker)
    assert client is clients.get(worker)
    assert (await client.probe()).ok
    await clients.drop(worker)
    await clients.drop(worker)
    assert (0, True) == (client.pool.n_open, clients.get(worker) is not client)
    await clients.aclose()
    with pytest.raises((httpx.HTTPError, RuntimeError)):
        await client.server_info()


def test_grpc_worker_is_refused() -> None:
    """A ValueError that names the worker."""
    with pytest.raises(ValueError, match="grpc://v"):
        WorkerClients().get(Worker(WorkerSpec("grpc://v", Role.DECODE)))

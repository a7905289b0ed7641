"""A worker's own key: on every call to it, in no answer and in no log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from app.sim import SglangSim, SimConfig
from app.sim.server import QUICK
from app.sim.sglang_app import SglangApp
from app.sim.wire import Exchange, Receive, Scope, Send
from tests.flow import fleet as sglang_fleet
from tests.flow import vllm_fleet
from tests.flow.fleet import COMPLETIONS, Fleet, body_of, until
from tests.flow.kinds import is_busy, new_worker, remove, until_gone

KEY = "the-workers-own-key"
CLIENTS_KEY = "the-clients-key"
SETTINGS: dict[str, Any] = {"log_level": "debug", "api_key": CLIENTS_KEY}
Seen = list[tuple[str, str | None]]
"""Path or method, and the authorization that came with it."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Every call that any simulated worker gets."""
    found: Seen = []
    serve, make_server = SglangApp.__call__, grpc.aio.server

    async def note(self: SglangApp, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            exchange = Exchange(scope, receive, send)
            found.append((exchange.path, exchange.headers.get("authorization")))
        await serve(self, scope, receive, send)

    class Noting(grpc.aio.ServerInterceptor):
        async def intercept_service(
            self, continuation: Callable[[Any], Awaitable[Any]], details: Any
        ) -> Any:
            metadata = dict(details.invocation_metadata or ())
            found.append((details.method.rpartition("/")[2], metadata.get("authorization")))
            return await continuation(details)

    monkeypatch.setattr(SglangApp, "__call__", note)
    monkeypatch.setattr(
        grpc.aio,
        "server",
        lambda options, interceptors: make_server(
            interceptors=(Noting(), *interceptors), options=options
        ),
    )
    return found


async def use_everything(fleet: Fleet, prefill: Any, decode: Any) -> str:
    """Adds a pair with the key and has every kind of call made; returns what clients saw."""
    shown: list[str] = []
    fleet.http.headers["authorization"] = f"Bearer {CLIENTS_KEY}"
    for worker, role in ((prefill, "prefill"), (decode, "decode")):
        body = new_worker(worker, role) | {"api_key": KEY}
        shown.append((await fleet.http.post("/workers", json=body)).text)
    await fleet.ready()
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, stream=True))).status == 200
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(fleet.ask(COMPLETIONS, body_of(COMPLETIONS, n_tokens=500)))
        await until(lambda: is_busy(decode))
        leaving.cancel()
    await fleet.settle()
    probed = fleet.live(decode).last_probe
    fleet.gateway.health.probe_now(fleet.live(decode))
    await until(lambda: fleet.live(decode).last_probe is not probed)
    infos = ("/workers", "/get_server_info", "/get_model_info", "/get_loads", "/health_generate")
    shown += [(await fleet.http.get(path)).text for path in infos]
    shown.append((await fleet.http.post("/flush_cache")).text)
    for worker in (prefill, decode):
        path = f"/workers/{fleet.live(worker).spec.id}"
        shown.append((await fleet.http.put(path, json={"api_key": KEY})).text)
        shown.append((await fleet.http.patch(path, json={"api_key": KEY, "typo": 1})).text)
        shown.append((await fleet.http.patch(path, json={"api_key": KEY + "\n"})).text)
        shown.append(repr(fleet.live(worker)) + repr(fleet.live(worker).spec))
        await until_gone(fleet, await remove(fleet, worker))
    return "\n".join(shown)


def check(seen: Seen, calls: set[str], shown: str, logged: str) -> None:
    """Every call carried the key, and nobody else has seen it."""
    assert calls <= {name for name, _ in seen}
    wrong = [(name, found) for name, found in seen if found != f"Bearer {KEY}"]
    assert wrong == []
    assert "worker_ready" in logged
    for text in (shown, logged):
        assert KEY not in text
        assert CLIENTS_KEY not in text


async def test_sglang_workers_get_their_key(seen: Seen, capfd: pytest.CaptureFixture[str]) -> None:
    """Probes, registration, legs, aborts, loads, flushes."""
    async with AsyncExitStack() as stack:
        pair = [
            await stack.enter_async_context(
                SglangSim(replace(SimConfig(role=role, api_key=KEY, decode_step_s=0.02), **QUICK))
            )
            for role in ("prefill", "decode")
        ]
        fleet = await stack.enter_async_context(sglang_fleet.serving([], [], **SETTINGS))
        fleet.prefills, fleet.decodes = pair[:1], pair[1:]
        shown = await use_everything(fleet, *pair)
    calls = {"/health", "/v1/models", "/server_info", "/model_info", "/v1/completions"}
    calls |= {"/abort_request", "/v1/loads", "/flush_cache", "/health_generate"}
    check(seen, calls, shown, "".join(capfd.readouterr()))


async def test_vllm_workers_get_their_key(
    model: Path, seen: Seen, capfd: pytest.CaptureFixture[str]
) -> None:
    """As metadata of every RPC, the tokenizer's included."""
    async with AsyncExitStack() as stack:
        pair = [
            await stack.enter_async_context(
                vllm_fleet.sim(role, model, tokenizer_folder=model, decode_step_s=0.02)
            )
            for role in ("prefill", "decode")
        ]
        fleet = await stack.enter_async_context(vllm_fleet.serving([], [], **SETTINGS))
        fleet.prefills, fleet.decodes = pair[:1], pair[1:]
        shown = await use_everything(fleet, *pair)
    calls = {"Check", "GetModelInfo", "GetServerInfo", "GetLoads", "GetTokenizer"}
    calls |= {"Generate", "FlushCache"}
    check(seen, calls, shown, "".join(capfd.readouterr()))

"""Worker URLs that come over the API, and workers that send the gateway elsewhere."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from app.sim import SglangSim, SimConfig, sim_pair
from app.sim.wire import Exchange, Receive, Scope, Send
from app.upstream.clients import WorkerClients
from app.upstream.sglang_worker import WorkerRefused
from app.workers.worker import Role, Worker, WorkerSpec
from tests.flow.fleet import CHAT, Fleet, body_of, serving
from tests.flow.scripted import ScriptedWorker, hang, whole


async def listing(stack: AsyncExitStack, allow: str) -> Fleet:
    """A gateway before a started pair, with a list of hosts."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    return await stack.enter_async_context(serving([prefill], [decode], worker_url_allow=allow))


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("http://10.1.2.3:8000", 202, None),
        ("grpc://decode-7.pool.svc:50051", 202, None),
        ("http://127.0.0.1:8000", 403, "worker_url_not_allowed"),
        ("http://pool.svc", 403, "worker_url_not_allowed"),
        ("http://2130706433:8000", 400, "invalid_request"),
        ("http://user:pw@10.1.2.3:8000", 400, "invalid_request"),
        ("file:///etc/passwd", 400, "invalid_request"),
    ],
)
async def test_posted_urls(stack: AsyncExitStack, url: str, status: int, code: str | None) -> None:
    """By the list; workers given at start are the operator's own and were not asked."""
    fleet = await listing(stack, "10.0.0.0/8, *.pool.svc")
    assert len(fleet.gateway.registry.workers()) == 2
    answer = await fleet.http.post("/workers", json={"url": url, "worker_type": "decode"})
    assert answer.status_code == status, answer.text
    n_workers = len(fleet.gateway.registry.workers())
    if code is None:
        assert n_workers == 3
        await fleet.http.delete(answer.headers["location"])
    else:
        error = answer.json()["error"]
        assert (error["code"], error["param"], n_workers) == (code, "url", 2)
        assert "pw@" not in answer.text


async def test_metadata_address_without_a_list(fleet: Fleet) -> None:
    """Refused though there is no list."""
    answer = await fleet.http.post("/workers", json={"url": "http://169.254.169.254"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "worker_url_not_allowed")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("leg", ["prefill", "decode"])
async def test_legs_follow_no_redirect(stack: AsyncExitStack, leg: str, status: int) -> None:
    """A redirect is that leg's failure; neither the gateway nor the client is led away."""
    other = await stack.enter_async_context(SglangSim(SimConfig(role="decode")))
    away = whole(status, {}, location=f"{other.url}{CHAT}")
    scripts = {"prefill": hang, "decode": hang, leg: away}
    prefill, decode = (ScriptedWorker(role, script) for role, script in scripts.items())
    for worker in (prefill, decode):
        await stack.enter_async_context(worker)
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"]) == (502, leg)
    assert "location" not in got.headers
    assert other.seen == []


async def test_control_calls_follow_no_redirect(stack: AsyncExitStack) -> None:
    """Neither the probe nor the registration: the worker is not what it says to be."""
    other = await stack.enter_async_context(SglangSim(SimConfig(role="decode", api_key="other")))
    paths: list[str] = []

    class Away(ScriptedWorker):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            exchange = Exchange(scope, receive, send)
            paths.append(exchange.path)
            await exchange.bytes(307, b"", {"location": f"{other.url}{exchange.path}"})

    away = await stack.enter_async_context(Away("decode", hang))
    clients = WorkerClients()
    stack.push_async_callback(clients.aclose)
    client = clients.get(Worker(WorkerSpec(away.url, Role.DECODE, api_key="secret")))
    probe = await client.probe()
    assert (probe.ok, probe.error) == (False, "/health answered 307.")
    with pytest.raises(WorkerRefused, match=r"^/v1/models answered 307\.$"):
        await client.register()
    assert paths == ["/health", "/v1/models"]

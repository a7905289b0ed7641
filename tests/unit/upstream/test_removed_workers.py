"""Clients of workers that were removed: nothing is connected, every call fails as such."""

from __future__ import annotations

import httpx
import pytest

from app.protocol.engine import EngineRequest, Sampling
from app.sim import SglangSim, SimConfig, VllmConfig, VllmSim
from app.upstream.clients import WorkerClients
from app.upstream.failures import ConnectFailed
from app.upstream.http1 import encode_lines
from app.workers.registry import Registry
from app.workers.worker import Role, Worker, WorkerSpec

REQUEST = EngineRequest("r", [1, 2], "", Sampling(max_tokens=1), stream=False)


def removed(url: str) -> Worker:
    """A worker that was registered once."""
    registry = Registry()
    worker = registry.add(WorkerSpec(url, Role.PREFILL))
    registry.remove(worker.spec.id)
    return worker


async def test_vllm() -> None:
    """No channel is made, though the worker itself would answer."""
    async with VllmSim(VllmConfig()) as engine:
        clients = WorkerClients()
        worker = removed(engine.url)
        client = clients.vllm(worker)
        assert clients.vllm(worker) is not client
        with pytest.raises(ConnectFailed, match="removed"):
            client.generate(REQUEST)
        for ask in (client.loads, client.register, client.fresh_info, client.flush_cache):
            with pytest.raises(ConnectFailed, match="removed"):
                await ask()
        probe = await clients.control(worker).probe()
        assert (probe.ok, probe.is_connect_failure) == (False, True)
        assert not await client.release(REQUEST)
        assert await client.abort(["r"]) == 0
        assert engine.seen == []
        await client.aclose()


async def test_vllm_whose_connection_was_closed() -> None:
    """A call that was prepared before, and control calls, fail as connect failures, too."""
    async with VllmSim(VllmConfig(role="regular", connector="")) as engine:
        clients = WorkerClients()
        worker = Worker(WorkerSpec(engine.url, Role.REGULAR))
        client = clients.vllm(worker)
        await client.register()
        call = client.generate(REQUEST)
        await clients.drop(worker)
        with pytest.raises(ConnectFailed, match="removed"):
            await call.connect()
        assert not call.sent
        with pytest.raises(ConnectFailed, match="removed"):
            await client.loads()
        with pytest.raises(ConnectFailed, match="removed"):
            await anext(aiter(client.tokenizer_bundle()))
        assert engine.seen == []


async def test_sglang() -> None:
    """The pool refuses, though the worker itself would answer."""
    async with SglangSim(SimConfig()) as engine:
        clients = WorkerClients()
        worker = removed(engine.url)
        client = clients.get(worker)
        assert clients.get(worker) is not client
        leg = client.leg(b"/generate", encode_lines([]), b"{}", silence_timeout_s=1.0)
        with pytest.raises(ConnectFailed, match="removed"):
            await leg.connect()
        assert not leg.sent
        leg.close()
        probe = await clients.control(worker).probe()
        assert (probe.ok, probe.is_connect_failure) == (False, True)
        with pytest.raises(httpx.ConnectError):
            await client.server_info()
        assert (client.pool.n_open, client.pool.n_active) == (0, 0)

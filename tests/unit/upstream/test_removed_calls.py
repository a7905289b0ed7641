"""What a vLLM worker is still asked once it was removed, or its connection closed: nothing."""

from __future__ import annotations

import pytest

from app.protocol.engine import EngineRequest, Sampling
from app.sim import VllmConfig, VllmSim
from app.upstream.clients import WorkerClients
from app.upstream.failures import ConnectFailed
from app.workers.registry import Registry
from app.workers.worker import Role, Worker, WorkerSpec

REQUEST = EngineRequest("r", [1, 2], "", Sampling(max_tokens=1), stream=False)


def removed(url: str) -> Worker:
    """A worker that was registered once."""
    registry = Registry()
    worker = registry.add(WorkerSpec(url, Role.PREFILL))
    registry.remove(worker.spec.id)
    return worker


async def test_control_calls() -> None:
    """Every control call fails, though the worker itself would answer; so does a release."""
    async with VllmSim(VllmConfig()) as engine:
        clients = WorkerClients()
        worker = removed(engine.url)
        client = clients.vllm(worker)
        assert clients.vllm(worker) is not client
        for ask in (client.loads, client.register, client.fresh_info, client.flush_cache):
            with pytest.raises(ConnectFailed, match="removed"):
                await ask()
        assert not (await client.probe()).ok
        assert not await client.release(REQUEST)
        assert await client.abort(["r"]) == 0
        assert engine.seen == []
        await client.aclose()


async def test_connection_that_was_closed() -> None:
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

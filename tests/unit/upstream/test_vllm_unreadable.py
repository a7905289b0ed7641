"""Answers of a worker that are no messages: grpcio hands them on as nothing at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.protocol.engine import EngineRequest, Sampling
from app.sim import VllmConfig, VllmFault, VllmFaultKind, VllmSim
from app.upstream.failures import BrokenResponse
from app.upstream.vllm_worker import VllmWorker
from app.workers.worker import Role, Worker, WorkerSpec

pytestmark = pytest.mark.usefixtures("grpc_client")

REQUEST = EngineRequest("r", [1, 2, 3], "", Sampling(max_tokens=4), stream=True)


@asynccontextmanager
async def spoilt(rpc: str, folder: Path | None = None) -> AsyncIterator[VllmWorker]:
    """A client of a worker that garbles its next answer to one call."""
    config = VllmConfig(role="regular", connector="", tokenizer_folder=folder)
    async with VllmSim(config) as sim:
        made = VllmWorker(Worker(WorkerSpec(sim.url, Role.REGULAR)), control_timeout_s=2.0)
        sim.faults.add(VllmFault(kind=VllmFaultKind.GARBAGE, rpc=rpc))
        yield made
        await made.aclose()
        assert not sim.faults.waiting


async def test_generate() -> None:
    """The answer is broken, and nothing of the call is left at the worker."""
    async with spoilt("Generate") as worker:
        call = worker.generate(REQUEST, first_timeout_s=2.0)
        with pytest.raises(BrokenResponse, match="cannot be read"):
            async with call:
                await anext(call)


async def test_probe() -> None:
    """A failed probe, not a failure of who asks."""
    async with spoilt("Check") as worker:
        result = await worker.probe()
        assert not result.ok
        assert "cannot be read" in result.error


@pytest.mark.parametrize("rpc", ["GetModelInfo", "GetServerInfo", "GetLoads"])
async def test_register(rpc: str) -> None:
    """The worker could not be asked."""
    async with spoilt(rpc) as worker:
        with pytest.raises(BrokenResponse, match="cannot be read"):
            await worker.register()


async def test_tokenizer_files(tmp_path: Path) -> None:
    """The same of a stream of pieces."""
    (tmp_path / "tokenizer.json").write_text("{}")
    async with spoilt("GetTokenizer", tmp_path) as worker:
        with pytest.raises(BrokenResponse, match="cannot be read"):
            async for _ in worker.tokenizer_bundle():
                pass

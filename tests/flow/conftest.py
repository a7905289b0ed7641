"""Gateways and pairs for the flow tests; what they are is told in ``fleet``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.sim import sim_pair
from app.sim.small_tokenizer import write_small_tokenizer
from app.workers.worker import Worker
from tests.flow import vllm_fleet
from tests.flow.fleet import Fleet, serving


@pytest.fixture(autouse=True)
def _nobody_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of all workers of a process ends with a test."""
    monkeypatch.setattr(Worker, "latest_full_s", 0.0)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Ends what a test started, in reverse."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def fleet(stack: AsyncExitStack) -> Fleet:
    """A gateway before one simulated pair."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    return await stack.enter_async_context(serving([prefill], [decode]))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small tokenizer that vLLM workers and their gateways use."""
    folder = tmp_path_factory.mktemp("model")
    write_small_tokenizer(folder)
    return folder


@pytest.fixture(params=["own", "grpcio"])
def both_grpc_clients(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test with each of the gateway's gRPC clients."""
    monkeypatch.setattr(vllm_fleet, "GRPC_CLIENT", request.param)

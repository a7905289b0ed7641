"""A worker that is removed after it was chosen: it is not connected to, another one is."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.scheduling.scheduler import Ask, Grant
from app.sim import sim_pair
from app.workers.worker import Worker
from tests.flow.fleet import CHAT, Fleet, body_of, serving
from tests.flow.vllm_fleet import fleet_of

LEGS = pytest.mark.parametrize("leg", ["prefill", "decode"])
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


async def fleet_of_two(stack: AsyncExitStack, engine: str, model: Path) -> Fleet:
    """Two prefill and two decode workers, of which any two can work together."""
    if engine != "sglang":
        return await fleet_of(stack, model, engine, n_prefills=2, n_decodes=2)
    pairs = [await stack.enter_async_context(sim_pair()) for _ in range(2)]
    prefills, decodes = zip(*pairs, strict=True)
    return await stack.enter_async_context(serving(prefills, decodes))


def remove_once_chosen(fleet: Fleet, leg: str, monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """The first grant's worker is taken out, and its connections are closed."""
    scheduler, removed = fleet.gateway.scheduler, list[Worker]()
    ask = scheduler.ask

    async def ask_and_remove(what: Ask) -> Grant:
        grant = await ask(what)
        if not removed:
            worker: Worker = getattr(grant.pair, leg)
            removed.append(fleet.gateway.registry.remove(worker.spec.id))
            await fleet.gateway.clients.drop(worker)
        return grant

    monkeypatch.setattr(scheduler, "ask", ask_and_remove)
    return removed


@LEGS
@STREAMS
@pytest.mark.parametrize("engine", ["sglang", "nixl", "mooncake"])
async def test_another_worker_is_taken(
    stack: AsyncExitStack,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    leg: str,
    stream: bool,
) -> None:
    """As if it could not be connected to; nothing is kept that nobody would close."""
    fleet = await fleet_of_two(stack, engine, model)
    for _ in range(2):
        # So there are connections to every worker.
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    removed = remove_once_chosen(fleet, leg, monkeypatch)
    n_before = {worker.url: len(worker.seen) for worker in fleet.workers}
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert got.status == 200
    assert len(removed) == 1
    gone = next(worker for worker in fleet.workers if worker.url == removed[0].spec.url)
    assert len(gone.seen) == n_before[gone.url]
    await fleet.settle()
    assert removed[0].id not in fleet.gateway.clients._clients
    assert removed[0].id not in fleet.gateway.clients._vllm_clients
    assert fleet.charged == []


@LEGS
@pytest.mark.parametrize("engine", ["sglang", "nixl", "mooncake"])
async def test_nobody_else_is_there(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch, engine: str, leg: str
) -> None:
    """The error of a worker that is not there, no defect of the gateway."""
    if engine == "sglang":
        pair = await stack.enter_async_context(sim_pair())
        fleet: Fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]]))
    else:
        fleet = await fleet_of(stack, model, engine, lease_s=0.6, mooncake_abort_s=0.6)
    remove_once_chosen(fleet, leg, monkeypatch)
    got = await fleet.ask(CHAT, body_of(CHAT))
    if leg == "decode" and engine != "sglang":
        # It is chosen anew when prefill has ended, and there is none.
        assert (got.status, got.error["code"]) == (503, "no_available_pair")
    else:
        assert (got.status, got.error["code"]) == (502, "worker_unreachable")
        assert got.error["leg"] == leg

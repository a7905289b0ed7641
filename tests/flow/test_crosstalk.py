"""No answer is made from another request's KV cache, nor given to another client.

Every prompt has a nonce, and the simulated KV cache carries its mark. Clients leave at random,
prefill and decode fail at random, and a decode worker is killed and restarted all the while, so
that requests are tried on another pair.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.dispatch.retry import Attempts
from app.sim import Cut, Fault, FaultKind, SglangSim, SimConfig, VllmFault, VllmFaultKind, chat_mark
from app.sim.server import QUICK
from tests.flow import vllm_fleet
from tests.flow.fleet import BOUND_S, Fleet, serving
from tests.soak.asked import Asking, vllm_chat_mark
from tests.soak.client import Client, End, Told

N_CLIENTS = 12
SETTINGS: dict[str, Any] = {"cb_failure_threshold": 1000, "request_timeout_secs": 1.0}
MIX: dict[str, Any] = {"leaving": 0.1, "slow": 0.0, "long": 0.0}
SGLANG_FAULTS = (
    Fault(kind=FaultKind.RESET),
    Fault(kind=FaultKind.CUT, how=Cut.INSIDE, after_events=2),
    Fault(kind=FaultKind.REFUSE, status=429),
    Fault(kind=FaultKind.HALF_BODY),
)
VLLM_FAULTS = (
    VllmFault(kind=VllmFaultKind.BREAK, after_messages=2),
    VllmFault(kind=VllmFaultKind.ERROR_FINISH),
    VllmFault(kind=VllmFaultKind.REFUSE, status="RESOURCE_EXHAUSTED"),
    VllmFault(kind=VllmFaultKind.GARBAGE),
)


async def sglang(stack: AsyncExitStack, model: Path) -> tuple[Fleet, Asking]:
    """Two pairs, and requests for them."""
    del model
    config: dict[str, Any] = {**QUICK, "decode_step_s": 0.001, "max_total_tokens": 400_000}
    workers = [
        await stack.enter_async_context(SglangSim(SimConfig(role=role, **config)))
        for role in ("prefill", "decode") * 2
    ]
    fleet = await stack.enter_async_context(serving(workers[::2], workers[1::2], **SETTINGS))
    return fleet, Asking("sim-model", random.Random(1), chat_mark, **MIX)


async def vllm(stack: AsyncExitStack, model: Path, connector: str) -> tuple[Fleet, Asking]:
    """The same of vLLM."""
    config: dict[str, Any] = {"decode_step_s": 0.001, "lease_s": 2.0, "mooncake_abort_s": 2.0}
    fleet = await vllm_fleet.fleet_of(
        stack, model, connector, n_prefills=2, n_decodes=2, settings=SETTINGS, **config
    )
    mark = vllm_chat_mark(model)
    return fleet, Asking("sim-model", random.Random(2), mark, is_vllm=True, **MIX)


@asynccontextmanager
async def trouble(fleet: Fleet, orders: tuple[Any, ...]) -> AsyncIterator[None]:
    """Faults at random, and a decode worker that dies and comes back."""
    rng, is_over = random.Random(3), asyncio.Event()

    async def fail() -> None:
        while True:
            await asyncio.sleep(0.05)
            order = rng.choice(orders)
            rng.choice(fleet.workers).faults.add(type(order)(**_fields(order)))

    async def die() -> None:
        while not is_over.is_set():
            await fleet.decodes[1].kill()
            await asyncio.sleep(0.05)
            await fleet.decodes[1].restart()
            await asyncio.sleep(0.3)

    async with asyncio.TaskGroup() as group:
        failing, dying = group.create_task(fail()), group.create_task(die())
        try:
            yield
        finally:
            failing.cancel()
            is_over.set()
            await dying


def _fields(order: Any) -> dict[str, Any]:
    return {name: getattr(order, name) for name in order.__slots__}


async def ask_all(port: int, asking: Asking, n_requests: int) -> list[Told]:
    """Sends requests from several clients, each one after the other."""
    told: list[Told] = []

    async def ask() -> None:
        client = Client(port, limit_s=4 * BOUND_S)
        while len(told) + N_CLIENTS <= n_requests:
            told.append(await client.ask(asking.next()))
        client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(N_CLIENTS):
            group.create_task(ask())
    return told


def count_moves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each attempt that is followed by one on another pair."""
    may_follow, noted = Attempts.may_follow, list[str]()

    def note(attempts: Attempts, *args: Any, **named: Any) -> bool:
        is_moved = may_follow(attempts, *args, **named)
        if is_moved:
            noted.append("moved")
        return is_moved

    monkeypatch.setattr(Attempts, "may_follow", note)
    return noted


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("engine", "n_requests"), [("sglang", 1000), ("nixl", 500), ("mooncake", 500)]
)
async def test_every_answer_is_its_own(
    stack: AsyncExitStack,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    n_requests: int,
) -> None:
    """Each answer has the mark of its prompt; every request is answered, refused or left."""
    n_moved = count_moves(monkeypatch)
    if engine == "sglang":
        fleet, asking = await sglang(stack, model)
    else:
        fleet, asking = await vllm(stack, model, engine)
    port = fleet.http.base_url.port
    assert port is not None
    async with trouble(fleet, SGLANG_FAULTS if engine == "sglang" else VLLM_FAULTS):
        told = await ask_all(port, asking, n_requests)
    for worker in fleet.workers:
        worker.faults.clear()
    ends = Counter(one.end for one in told)
    assert [(one.asked.nonce, one.why) for one in told if one.is_crossed] == []
    assert [one.why for one in told if one.end is End.LOST] == []
    assert ends[End.ANSWERED] > n_requests / 2
    assert ends[End.REFUSED] > 5
    assert ends[End.LEFT] > n_requests / 50
    # A NIXL handoff goes to another decode worker within the same attempt.
    assert n_moved or fleet.gateway.handoffs.by_kind["moved"]
    await fleet.settle()

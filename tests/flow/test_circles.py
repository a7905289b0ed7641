"""What a request held is freed with it, and not when Python next looks for circles.

That is tens of thousands of objects later (``app.server.gateway_server`` has it look rarely), and a
request may hold megabytes: its body, its tokens, its messages.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.sim import Fault, FaultKind, VllmFault, VllmFaultKind, sim_pair
from tests.flow import vllm_fleet
from tests.flow.fleet import CHAT, Fleet, body_of, serving, until
from tests.flow.raw_client import connected, post_of

OURS = (
    "app.api.",
    "app.dispatch.",
    "app.observability.",
    "app.protocol.",
    "app.scheduling.",
    "app.text.",
    "app.upstream.",
)
SMALL = {"app.upstream.http1_exchange.Exchange", "app.upstream.failures.UpstreamError"}
SMALL |= {"app.upstream.http1_connection.Http1Connection", "app.upstream.http1_transport._Body"}
"""A leg that is given up: its exchange and its connection, which hold no body by then."""
SMALL |= {"app.api.leaving.Client"}
"""Of a client's connection, which uvicorn makes a circle of."""
N_TIMES = 5


@contextmanager
def circles() -> Iterator[Counter[str]]:
    """Counts the gateway's objects that only the collector would have freed."""
    gc.collect()
    gc.disable()
    found: Counter[str] = Counter()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        names = (f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
        found.update(name for name in names if name.startswith(OURS) and name not in SMALL)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def fleet_of(stack: AsyncExitStack, model: Path, engine: str) -> Fleet:
    """A gateway before one pair."""
    if engine != "sglang":
        return await vllm_fleet.fleet_of(stack, model, engine, lease_s=0.4, mooncake_abort_s=0.4)
    pair = await stack.enter_async_context(sim_pair())
    return await stack.enter_async_context(serving([pair[0]], [pair[1]], cb_failure_threshold=1000))


async def repeat(fleet: Fleet, do: Callable[[], Awaitable[object]]) -> Counter[str]:
    """Does something several times, and returns what was left behind by it."""
    await do()
    await fleet.settle()
    with circles() as found:
        for _ in range(N_TIMES):
            await do()
        await fleet.settle()
        # The last callbacks of connections and tasks.
        await asyncio.sleep(0.05)
    return found


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"stream": True, "n": 2}], ids=str)
@pytest.mark.parametrize("engine", ["sglang", "nixl", "mooncake"])
async def test_good_answers(
    stack: AsyncExitStack, model: Path, engine: str, more: dict[str, Any]
) -> None:
    """Nothing is left of a request that was answered."""
    fleet = await fleet_of(stack, model, engine)

    async def ask() -> None:
        assert (await fleet.ask(CHAT, body_of(CHAT, **more))).status == 200

    assert await repeat(fleet, ask) == {}


@pytest.mark.parametrize("leg", ["prefill", "decode"])
@pytest.mark.parametrize("engine", ["sglang", "nixl"])
async def test_refusals(stack: AsyncExitStack, model: Path, engine: str, leg: str) -> None:
    """The same of one that a worker refused, whose error went through many frames."""
    fleet = await fleet_of(stack, model, engine)
    worker = fleet.prefills[0] if leg == "prefill" else fleet.decodes[0]
    order: Any = Fault(kind=FaultKind.REFUSE, status=422, times=None)
    if engine == "nixl":
        status = "INVALID_ARGUMENT"
        order = VllmFault(kind=VllmFaultKind.REFUSE, status=status, times=None)
    worker.faults.add(order)

    async def ask() -> None:
        assert (await fleet.ask(CHAT, body_of(CHAT))).status in (400, 422)

    assert await repeat(fleet, ask) == {}


async def test_a_client_that_left(stack: AsyncExitStack, model: Path) -> None:
    """The same of one whose client is gone."""
    fleet = await fleet_of(stack, model, "sglang")
    fleet.decodes[0].faults.add(Fault(kind=FaultKind.SLOW, delay_s=0.2, times=None))

    async def leave() -> None:
        async with connected(fleet) as client:
            await client.send(post_of(CHAT, body_of(CHAT, stream=True)))
            await until(lambda: fleet.prefills[0].n_active)
        await fleet.settle()

    assert await repeat(fleet, leave) == {}

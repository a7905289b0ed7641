"""A request that ends at any moment of its second attempt, or in the pause before it."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.api.generation import GenerationEndpoint
from app.protocol.routes import Route
from app.sim import Fault, FaultKind, SglangSim, sim_pair
from tests.flow.fleet import CHAT, COMPLETIONS, Fleet, body_of, serving, until
from tests.flow.test_cancel_sweep import MAX_STEPS, How, drop_idle_connections, end_after

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": (CHAT, {}),
    "stream": (CHAT, {"stream": True}),
    "streamed fan-out": (CHAT, {"stream": True, "n": 2}),
    "batch": (COMPLETIONS, {"prompt": ["a b", "c d"]}),
}
FOR_EVER: dict[str, Any] = {"disable_health_check": True, "disable_circuit_breaker": True}
"""The bad worker is never left out."""


async def bad_and_good(stack: AsyncExitStack, **settings: Any) -> Fleet:
    """A gateway before two prefill workers, of which the first is always tried first."""
    pairs = [await stack.enter_async_context(sim_pair(disconnect_notice_s=60.0)) for _ in range(2)]
    prefills, decodes = zip(*pairs, strict=True)
    running = serving(prefills, decodes, retry_on_5xx=True, **FOR_EVER, **settings)
    fleet = await stack.enter_async_context(running)
    fleet.live(prefills[1]).set_full_until(float("inf"))
    return fleet


async def refuses(prefill: SglangSim) -> None:
    """Nobody listens."""
    await prefill.kill()


async def fails(prefill: SglangSim) -> None:
    """It answers 500."""
    prefill.faults.add(Fault(kind=FaultKind.REFUSE, status=500, times=None))


def in_engines(fleet: Fleet) -> dict[str, int]:
    """What simulated engines still hold."""
    held = {
        "jobs": sum(len(worker.engine.table.jobs) for worker in fleet.workers),
        "rooms": sum(worker.n_rooms for worker in fleet.prefills),
    }
    return {name: n for name, n in held.items() if n}


@pytest.mark.parametrize("how", ["leaves", "cancelled"])
@pytest.mark.parametrize("cause", [refuses, fails], ids=["unreachable", "5xx"])
@pytest.mark.parametrize("kind", KINDS)
async def test_ended_after_any_step(stack: AsyncExitStack, kind: str, cause: Any, how: How) -> None:
    """Through both attempts: no lease, exchange, task or room stays, and both engines are empty."""
    path, more = KINDS[kind]
    data = json.dumps(body_of(path, **more)).encode()
    fleet = await bad_and_good(stack, retry_initial_backoff_ms=0)
    bad, good = fleet.prefills
    await cause(bad)
    endpoint = GenerationEndpoint(Route(path), fleet.gateway.router, 1_000_000)
    n_through = 0

    def left() -> dict[str, Any]:
        return fleet.leftovers() | in_engines(fleet)

    for n_steps in range(1, MAX_STEPS):
        drop_idle_connections(fleet)
        n_through += await end_after(n_steps, how, endpoint, path, data)
        try:
            await until(lambda: not left(), left)
        except AssertionError as held:
            raise AssertionError(f"after {n_steps} steps: {held}") from None
        if n_through == 2:
            break
    assert n_through == 2
    # It did end within the second attempt, more than once.
    assert len(good.seen) > 2 * fleet_children(kind)


def fleet_children(kind: str) -> int:
    """Calls of one attempt."""
    return int(KINDS[kind][1].get("n", 1))


async def test_in_the_pause(stack: AsyncExitStack) -> None:
    """Nothing is held in it, and the second attempt is never made."""
    fleet = await bad_and_good(stack, retry_initial_backoff_ms=20_000)
    bad, good = fleet.prefills
    await fails(bad)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(fleet.ask(CHAT, body_of(CHAT)))
        await until(lambda: bad.seen)
        await until(lambda: not any(fleet.live(w).n_leases for w in fleet.workers))
        await asyncio.sleep(0.05)
        assert not asking.done()
        asking.cancel()
    await fleet.settle()
    assert good.seen == []

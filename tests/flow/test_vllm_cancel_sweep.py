"""A request to vLLM workers that ends at moments spread over all of it: nothing stays behind.

gRPC works in threads of its own, so here it is time that is stepped through, not the loop.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.flow.fleet import BOUND_S, CHAT, COMPLETIONS, body_of, until
from tests.flow.vllm_fleet import VllmFleet, fleet_of

pytestmark = pytest.mark.usefixtures("both_grpc_clients")

CONNECTORS = pytest.mark.parametrize("connector", ["nixl", "mooncake"])
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "choices": (CHAT, {"n": 3}),
    "streamed choices": (CHAT, {"n": 3, "stream": True}),
    "batch": (COMPLETIONS, {"prompt": ["a b", "c d"]}),
    "streamed batch of choices": (COMPLETIONS, {"prompt": ["a b", "c d"], "n": 2, "stream": True}),
}
N_MOMENTS = 14
SLOW: dict[str, Any] = {"lead_s": 0.005, "decode_step_s": 0.002}


def left(fleet: VllmFleet) -> dict[str, Any]:
    """What is still held, room for KV that is on its way included."""
    ranks = [rank for worker in fleet.workers for rank in worker.engine.ranks]
    held = {
        "tokens": sum(rank.n_held for rank in ranks),
        "loads": sum(len(rank.receiving) for rank in ranks),
    }
    return fleet.leftovers() | {name: n for name, n in held.items() if n}


async def through_s(
    fleet: VllmFleet, path: str, body: dict[str, Any], after_s: float
) -> float | None:
    """Asks, and leaves after so long; returns how long it took if the answer was there by then."""
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(fleet.ask(path, body))
        await asyncio.wait({asking}, timeout=after_s)
        return None if asking.cancel() else time.monotonic() - began_s


async def sweep(fleet: VllmFleet, path: str, body: dict[str, Any]) -> None:
    """Ends one request after another, each a little later, over as long as a whole one takes."""
    whole_s = await through_s(fleet, path, body, BOUND_S)
    assert whole_s is not None
    n_ended = 0
    for moment in range(N_MOMENTS):
        took_s = await through_s(fleet, path, body, whole_s * moment / N_MOMENTS)
        if took_s is None:
            n_ended += 1
        else:
            # The first one also loads what the others find there, or the machine was busier then.
            whole_s = took_s
        await until(lambda: not left(fleet), lambda: left(fleet))
    assert n_ended >= 3
    for worker in fleet.workers:
        assert worker.counters.n_expired == 0
        assert worker.counters.n_garbage_reads == 0


@CONNECTORS
@pytest.mark.parametrize("kind", KINDS)
async def test_several_generations(
    stack: AsyncExitStack, model: Path, connector: str, kind: str
) -> None:
    """Choices and batches: no lease, block, room or call of any of them stays; nobody pays."""
    path, more = KINDS[kind]
    fleet = await fleet_of(stack, model, connector, **SLOW)
    await sweep(fleet, path, body_of(path, n_tokens=8, **more))
    assert fleet.charged == []


@CONNECTORS
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_second_attempt(
    stack: AsyncExitStack, model: Path, connector: str, stream: bool
) -> None:
    """The first prefill worker refuses each time, so most moments are the second one's."""
    settings = {
        "retry_on_5xx": True,
        "retry_initial_backoff_ms": 1,
        "disable_health_check": True,
        "disable_circuit_breaker": True,
    }
    fleet = await fleet_of(stack, model, connector, n_prefills=2, settings=settings, **SLOW)
    bad, good = fleet.prefills
    bad.faults.refuse("INTERNAL", "broken", times=None)
    fleet.live(good).set_full_until(float("inf"))
    await sweep(fleet, CHAT, body_of(CHAT, stream=stream, n_tokens=8))
    assert len(bad.seen) >= len(good.seen) > 1

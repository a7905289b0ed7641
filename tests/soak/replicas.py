"""Two replicas with one brain: brains are killed again and again, and their store once."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass

from app.sim import sim_pair
from tests.flow.process import GatewayProcess, free_port, pair_flags, running
from tests.flow.raw_client import post_of
from tests.redis_server import RedisServer, redis_server
from tests.soak.brain import START_S, Outcome, brain_of, joined, load, ready, settled

SECRET = "a secret of all replicas"
STORE_AWAY_S = 3.0
N_REPLICAS = 2


@dataclass
class Shared(Outcome):
    """What was seen of both.

    Attributes:
        seen_s: How long it took until a worker added at one replica was listed by the other.
        n_led: How often a brain began to decide for all.
    """

    seen_s: float = -1.0
    n_led: int = 0


async def run(
    n_pipes: int, n_clients: int, n_kills: int, every_s: float, away_s: float = STORE_AWAY_S
) -> Shared:
    """Runs the replicas before simulated workers, and kills a brain so often, each in turn."""
    seen = Shared()
    async with AsyncExitStack() as stack:
        prefill, decode = await stack.enter_async_context(sim_pair())
        others = [(await stack.enter_async_context(sim_pair()))[1].url for _ in range(2)]
        redis = await stack.enter_async_context(redis_server())
        gateways = []
        for _ in range(N_REPLICAS):
            flags = pair_flags(prefill, decode, *_flags(redis, n_pipes))
            gateways.append(await stack.enter_async_context(running(flags, start_s=START_S)))
        seen.seen_s = await _added(gateways[0], others[0], gateways[1], 3)
        before = await ready(gateways[0], 3)
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for i in range(n_clients):
                tasks.create_task(load(gateways[i % N_REPLICAS], seen.statuses, is_over))
            for i in range(n_kills):
                await asyncio.sleep(every_s)
                if i == n_kills // 2:
                    await redis.kill()
                    await asyncio.sleep(away_s)
                    # Nobody can tell the other of it now.
                    await _post(gateways[1], others[1])
                    await redis.start()
                await _kill(gateways[i % N_REPLICAS], n_pipes)
                seen.n_kills += 1
            await asyncio.sleep(max(every_s / 2, 1.0))
            is_over.set()
        for gateway in gateways:
            seen.n_left = max(seen.n_left, await settled(gateway))
        after = [await ready(gateway, 4) for gateway in gateways]
        seen.is_whole = after[0] == after[1] and before.items() <= after[0].items()
        seen.n_led = sum(len(g.lines("decides for all replicas")) for g in gateways)
    return seen


def _flags(redis: RedisServer, n_pipes: int) -> list[str]:
    port = str(free_port())
    return [
        *("--workers", str(n_pipes), "--state-url", redis.url, "--brain-port", port),
        *("--brain-announce", "127.0.0.1", "--brain-secret", SECRET),
    ]


async def _kill(gateway: GatewayProcess, n_pipes: int) -> None:
    n_before = len(gateway.lines("brain is there"))
    os.kill(brain_of(gateway), signal.SIGKILL)
    # Of those that have their own brain again; links to another one's may come and go.
    await joined(gateway, n_before + n_pipes)


async def _post(gateway: GatewayProcess, url: str) -> None:
    async with gateway.connected() as client:
        await client.send(post_of("/workers", {"url": url, "worker_type": "decode"}))
        status, _, body = await client.answer()
        assert status == 202, body


async def _added(one: GatewayProcess, url: str, other: GatewayProcess, n_workers: int) -> float:
    """Adds a worker at one; returns how long it took to be ready at the other, in seconds."""
    await _post(one, url)
    begun_s = asyncio.get_running_loop().time()
    await ready(other, n_workers)
    return asyncio.get_running_loop().time() - begun_s

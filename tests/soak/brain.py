"""kill -9 of the brain, again and again, under load: ``python -m tests.soak.brain --time 5m``.

No request may be lost, nothing may leak, and a worker that was added by hand has to stay.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.sim import sim_pair
from tests.flow.fleet import CHAT, body_of
from tests.flow.process import GatewayProcess, pair_flags, running
from tests.flow.raw_client import RawClient, head_of, post_of

START_S = 60.0
SETTLE_S = 30.0
N_A_CONNECTION = 20


@dataclass
class Outcome:
    """What was seen.

    Attributes:
        statuses: How often each came; 0: none did.
        n_kills: Brains that were killed.
        n_left: Leases after the load; 0 if nothing leaked.
        is_whole: The registry is the one of before.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    n_kills: int = 0
    n_left: int = -1
    is_whole: bool = False

    @property
    def is_good(self) -> bool:
        """Nothing was lost."""
        return set(self.statuses) == {200} and self.n_left == 0 and self.is_whole


async def run(n_pipes: int, n_clients: int, n_kills: int, every_s: float) -> Outcome:
    """Runs a gateway before simulated workers, and kills its brain so often."""
    seen = Outcome()
    async with AsyncExitStack() as stack:
        prefill, decode = await stack.enter_async_context(sim_pair())
        _, added = await stack.enter_async_context(sim_pair())
        flags = pair_flags(prefill, decode, "--workers", str(n_pipes))
        gateway = await stack.enter_async_context(running(flags, start_s=START_S, n_pipes=n_pipes))
        async with gateway.connected() as client:
            await client.send(post_of("/workers", {"url": added.url, "worker_type": "decode"}))
            await client.answer()
        before = await ready(gateway, 3)
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(n_clients):
                tasks.create_task(load(gateway, seen.statuses, is_over))
            for _ in range(n_kills):
                await asyncio.sleep(every_s)
                os.kill(brain_of(gateway), signal.SIGKILL)
                seen.n_kills += 1
                gateway.logged[:] = gateway.lines("process started")
                await joined(gateway, n_pipes)
            await asyncio.sleep(every_s / 2)
            is_over.set()
        seen.n_left = await settled(gateway)
        seen.is_whole = await ready(gateway, 3) == before
    return seen


async def settled(gateway: GatewayProcess) -> int:
    """Waits until nothing is held any more; returns how many leases are left."""
    async with asyncio.timeout(SETTLE_S):
        while any(await gateway.loads()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return sum(await gateway.loads())


def brain_of(gateway: GatewayProcess) -> int:
    """The process id of its brain, the latest one."""
    started = [line for line in gateway.lines("process started") if line["name"] == "brain"]
    pid: int = started[-1]["pid"]
    return pid


async def joined(gateway: GatewayProcess, n_times: int) -> None:
    """Waits until pipes have said so often that they have a brain."""
    async with asyncio.timeout(SETTLE_S):
        while len(gateway.lines("brain is there")) < n_times:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def load(gateway: GatewayProcess, statuses: Counter[int], is_over: asyncio.Event) -> None:
    """Asks one request after the other, on a new connection now and then."""
    while not is_over.is_set():
        async with gateway.connected() as client:
            for _ in range(N_A_CONNECTION):
                await client.send(post_of(CHAT, body_of(CHAT)))
                statuses[await _status(client)] += 1


async def _status(client: RawClient) -> int:
    try:
        return (await client.answer())[0]
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0


async def ready(gateway: GatewayProcess, n_workers: int) -> dict[str, Any]:
    """Waits until so many workers are ready; returns their URLs by id."""
    async with asyncio.timeout(SETTLE_S), gateway.connected() as client:
        while True:
            await client.send(head_of("GET", "/workers"))
            listed = orjson.loads((await client.answer())[2])["workers"]
            found = {one["id"]: one["url"] for one in listed if one["status"] == "ready"}
            if len(found) >= n_workers:
                return found
            await asyncio.sleep(0.05)


def main() -> int:
    """Runs it as asked; 0 if nothing was lost."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--time", default="5m", help="how long, as 90s or 5m")
    words.add_argument("--every-s", type=float, default=10.0, help="between two kills")
    words.add_argument("--pipes", type=int, default=2)
    words.add_argument("--clients", type=int, default=8)
    words.add_argument(
        "--redis", action="store_true", help="two replicas with one brain; their store dies once"
    )
    asked = words.parse_args()
    time_s = float(asked.time[:-1]) * {"s": 1, "m": 60, "h": 3600}[asked.time[-1]]
    n_kills = max(1, int(time_s / asked.every_s))
    if asked.redis:
        # It takes most of what it does from here.
        from tests.soak import replicas

        shared = asyncio.run(replicas.run(asked.pipes, asked.clients, n_kills, asked.every_s))
        print(
            f"two replicas; a change was seen after {shared.seen_s * 1000:.0f} ms; the store was "
            f"killed once; a brain began to decide for all {shared.n_led} times"
        )
        return _told(shared)
    return _told(asyncio.run(run(asked.pipes, asked.clients, n_kills, asked.every_s)))


def _told(seen: Outcome) -> int:
    print(
        f"{sum(seen.statuses.values())} requests, by status {dict(seen.statuses)}; "
        f"{seen.n_kills} brains killed, {seen.n_left} leases left, "
        f"registry {'whole' if seen.is_whole else 'NOT whole'}"
    )
    return 0 if seen.is_good else 1


if __name__ == "__main__":
    sys.exit(main())

"""How soon every process knows a change of the workers: ``python -m tests.soak.changes``.

The decode worker is taken out and put in again by REST, over and over, while one connection to
each process asks for the models, which are there or not.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.sim import sim_pair
from tests.flow.fleet import until
from tests.flow.process import GatewayProcess, pair_flags, running
from tests.flow.raw_client import RawClient, head_of, post_of

START_S = 60.0
SEEN_S = 20.0
_PAUSE_S = 0.002
_MANY = 16
"""Connections for each process, so that every process has one."""


@dataclass
class Delays:
    """Seconds, one figure for each change.

    Attributes:
        removed: From the answer to DELETE until the last process knew; 0: all knew before.
        added: From the first process that could use a worker to the last one.
    """

    removed: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)

    @property
    def largest_s(self) -> float:
        """The longest of all."""
        return max(*self.removed, *self.added)


async def measure(gateway: GatewayProcess, n_pipes: int, decode_url: str, n_changes: int) -> Delays:
    """Takes the one decode worker out and in so often.

    Args:
        gateway: One of several processes, its workers ready.
        n_pipes: How many.
        decode_url: The worker.
        n_changes: How often.
    """
    delays = Delays()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        clients = await one_each(gateway, n_pipes, stack)
        admin = await stack.enter_async_context(gateway.connected())
        for _ in range(n_changes):
            listed = (await _ask(admin, head_of("GET", "/workers")))["workers"]
            (gone,) = [worker["id"] for worker in listed if worker["url"] == decode_url]
            async with asyncio.TaskGroup() as tasks:
                seeing = [tasks.create_task(_seen_s(client, n_models=0)) for client in clients]
                await _ask(admin, head_of("DELETE", f"/workers/{gone}"))
                answered_s = loop.time()
            delays.removed.append(max(0.0, *(one.result() - answered_s for one in seeing)))
            async with asyncio.TaskGroup() as tasks:
                seeing = [tasks.create_task(_seen_s(client, n_models=1)) for client in clients]
                new = {"url": decode_url, "worker_type": "decode"}
                await _ask(admin, post_of("/workers", new))
            times = [one.result() for one in seeing]
            delays.added.append(max(times) - min(times))
    return delays


async def one_each(gateway: GatewayProcess, n_pipes: int, stack: AsyncExitStack) -> list[RawClient]:
    """Returns a connection to each process, of many that are made."""
    found: dict[str, RawClient] = {}
    for _ in range(_MANY * n_pipes):
        client = await stack.enter_async_context(gateway.connected())
        gateway.logged[:] = gateway.lines("process started")
        await _ask(client, head_of("GET", "/v1/models"))
        await until(lambda: gateway.lines("request"))
        found.setdefault(gateway.lines("request")[-1]["process"], client)
        if len(found) == n_pipes:
            break
    assert len(found) == n_pipes, sorted(found)
    return list(found.values())


async def _seen_s(client: RawClient, n_models: int) -> float:
    """Returns when a process knew so many models."""
    async with asyncio.timeout(SEEN_S):
        while True:
            listed = await _ask(client, head_of("GET", "/v1/models"))
            if len(listed["data"]) == n_models:
                return asyncio.get_running_loop().time()
            await asyncio.sleep(_PAUSE_S)


async def _ask(client: RawClient, request: bytes) -> Any:
    await client.send(request)
    status, _, body = await client.answer()
    assert status < 300, (status, body)
    return orjson.loads(body)


async def run(n_pipes: int, n_changes: int) -> Delays:
    """Runs a gateway before simulated workers, and changes them."""
    async with AsyncExitStack() as stack:
        prefill, decode = await stack.enter_async_context(sim_pair())
        flags = pair_flags(prefill, decode, "--workers", str(n_pipes))
        gateway = await stack.enter_async_context(running(flags, start_s=START_S, n_pipes=n_pipes))
        return await measure(gateway, n_pipes, decode.url, n_changes)


def main() -> None:
    """Prints the median and the longest."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--pipes", type=int, default=4)
    words.add_argument("--changes", type=int, default=100)
    asked = words.parse_args()
    seen = asyncio.run(run(asked.pipes, asked.changes))
    for what, times in (("removed", seen.removed), ("added", seen.added)):
        typical_ms, longest_ms = statistics.median(times) * 1e3, max(times) * 1e3
        print(
            f"{what}: all {asked.pipes} processes knew it after {typical_ms:.1f} ms, "
            f"{longest_ms:.1f} ms at most ({len(times)} changes)"
        )


if __name__ == "__main__":
    main()

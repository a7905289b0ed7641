"""kill -9 of the brain under load: no request is lost, nothing leaks, the registry stays whole."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import pytest

from app.sim import sim_pair
from tests.flow.fleet import CHAT, body_of, until
from tests.flow.process import GatewayProcess, pair_flags, running
from tests.flow.raw_client import post_of
from tests.flow.test_many_processes import get, pids

N_CLIENTS = 12
N_KILLS = 3


async def load(gateway: GatewayProcess, statuses: list[int], is_over: asyncio.Event) -> None:
    """One client that asks again and again, on a new connection now and then."""
    while not is_over.is_set():
        async with gateway.connected() as client:
            for _ in range(20):
                await client.send(post_of(CHAT, body_of(CHAT)))
                statuses.append((await client.answer())[0])


@pytest.mark.timeout(90)
async def test_killed_again_and_again(stack: AsyncExitStack) -> None:
    prefill, decode = await stack.enter_async_context(sim_pair())
    _, added = await stack.enter_async_context(sim_pair())
    flags = pair_flags(prefill, decode, "--workers", "2")
    gateway = await stack.enter_async_context(running(flags))
    async with gateway.connected() as client:
        await client.send(post_of("/workers", {"url": added.url, "worker_type": "decode"}))
        assert (await client.answer())[0] in (200, 201, 202)
        while sum(w["status"] == "ready" for w in (await get(client, "/workers"))["workers"]) < 3:
            await asyncio.sleep(0.05)
        before = {w["id"]: w["url"] for w in (await get(client, "/workers"))["workers"]}
    statuses: list[int] = []
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(N_CLIENTS):
            tasks.create_task(load(gateway, statuses, is_over))
        for _ in range(N_KILLS):
            await asyncio.sleep(1.5)
            dead = pids(gateway)["brain"]
            n_asked, n_joined = len(statuses), len(gateway.lines("brain is there"))
            os.kill(dead, signal.SIGKILL)
            await until(lambda dead=dead: pids(gateway)["brain"] != dead)
            async with asyncio.timeout(10.0):
                while len(gateway.lines("brain is there")) < n_joined + 2:
                    await asyncio.sleep(0.02)
            assert len(statuses) > n_asked
        await asyncio.sleep(1.0)
        is_over.set()
    assert set(statuses) == {200}
    async with asyncio.timeout(5.0):
        while any(await gateway.loads()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    async with gateway.connected() as client:
        listed = (await get(client, "/workers"))["workers"]
    assert {w["id"]: w["url"] for w in listed} == before
    assert {w["status"] for w in listed} == {"ready"}

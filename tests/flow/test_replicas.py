"""Two gateways that share a store, as an operator runs them."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim import sim_pair
from tests.flow.fleet import CHAT, body_of
from tests.flow.process import GatewayProcess, pair_flags, running
from tests.flow.raw_client import RawClient, head_of, post_of
from tests.redis_server import PASSWORD, redis_server
from tests.soak import replicas

pytestmark = pytest.mark.timeout(120)
START_S = 60.0
QUICK = ("--shutdown-settle-secs", "0")
SOON_S = 0.2
"""Within which a change has to be seen; the tests allow several times as much."""


async def get(client: RawClient, path: str) -> Any:
    """What a GET answers."""
    await client.send(head_of("GET", path))
    status, _, body = await client.answer()
    assert status == 200, body
    return json.loads(body)


async def urls_are(client: RawClient, urls: set[str], limit_s: float = 10 * SOON_S) -> None:
    """Waits until a gateway has these workers."""
    async with asyncio.timeout(limit_s):
        while {w["url"] for w in (await get(client, "/workers"))["workers"]} != urls:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def shared_state_is(client: RawClient, word: str) -> None:
    """Waits until a gateway says so of the store."""
    async with asyncio.timeout(10.0):
        while (await get(client, "/readiness"))["shared_state"] != word:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_workers_and_limits_are_shared(stack: AsyncExitStack) -> None:
    """And while the store is away, each goes on, with its part of the limit."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    _, added = await stack.enter_async_context(sim_pair())
    redis = await stack.enter_async_context(redis_server())
    limit = ("--rate-limit-tokens-per-second", "2", "--metrics-on-main")
    flags = pair_flags(prefill, decode, "--state-url", redis.url, *limit, *QUICK)
    gateways = [await stack.enter_async_context(running(flags, start_s=START_S)) for _ in range(2)]
    one, other = [await stack.enter_async_context(g.connected()) for g in gateways]
    listed = [(await get(client, "/workers"))["workers"] for client in (one, other)]
    assert {w["id"] for w in listed[0]} == {w["id"] for w in listed[1]}

    await one.send(post_of("/workers", {"url": added.url, "worker_type": "decode"}))
    assert (await one.answer())[0] == 202
    await urls_are(other, {prefill.url, decode.url, added.url})
    (gone,) = [w["id"] for w in listed[0] if w["url"] == decode.url]
    await other.send(head_of("DELETE", f"/workers/{gone}"))
    assert (await other.answer())[0] == 202
    await urls_are(one, {prefill.url, added.url})

    assert await let_in(gateways, 2.5) <= 12

    await redis.kill()
    await shared_state_is(one, "away")
    await shared_state_is(other, "away")
    await one.send(post_of("/workers", {"url": decode.url, "worker_type": "decode"}))
    assert (await one.answer())[0] == 202
    assert 1 <= await let_in(gateways, 2.0) <= 10
    await one.send(head_of("GET", "/metrics"))
    assert b"tandem_state_store_up 0.0" in (await one.answer())[2]
    await redis.start()
    await urls_are(other, {prefill.url, decode.url, added.url}, 10.0)
    assert not [line for g in gateways for line in g.logged if PASSWORD in json.dumps(line)]


async def test_one_brain_dies_and_the_store_too() -> None:
    """No request is lost, nothing is left, all workers stay; ``make soak-brain`` does it longer."""
    seen = await replicas.run(n_pipes=1, n_clients=2, n_kills=2, every_s=1.0, away_s=1.0)
    assert set(seen.statuses) == {200}
    assert seen.statuses[200] > 50
    assert (seen.n_kills, seen.n_left) == (2, 0)
    assert seen.is_whole
    assert seen.n_led >= 2


async def let_in(gateways: list[GatewayProcess], time_s: float) -> int:
    """How many requests both let in, asked again and again."""
    end_s = asyncio.get_running_loop().time() + time_s
    n = 0

    async def ask(gateway: GatewayProcess) -> None:
        nonlocal n
        async with gateway.connected() as client:
            while asyncio.get_running_loop().time() < end_s:
                await client.send(post_of(CHAT, body_of(CHAT)))
                status = (await client.answer())[0]
                assert status in (200, 429), status
                n += status == 200
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        for gateway in gateways:
            tasks.create_task(ask(gateway))
    return n

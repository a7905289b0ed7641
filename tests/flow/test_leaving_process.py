"""A client of a real gateway that leaves while its prompt is computed, on every transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import sim_pair
from tests.flow.fleet import CHAT, body_of, until
from tests.flow.process import GatewayProcess, pair_flags, running
from tests.flow.raw_client import post_of
from tests.flow.vllm_fleet import sim

LONG: dict[str, Any] = {"messages": [{"role": "user", "content": "word " * 200}]}
WAYS = [(stream, is_reset) for stream in (False, True) for is_reset in (False, True)]


async def leave(
    gateway: GatewayProcess,
    stream: bool,
    is_reset: bool,
    is_there: Callable[[], object],
    is_over: Callable[[], object],
) -> None:
    """Asks, and ends the connection as a killed process does or in good order.

    The workers are told while the connection still is the client's; then no lease is left.
    """
    async with gateway.connected() as client:
        await client.send(post_of(CHAT, body_of(CHAT, stream=stream, **LONG)))
        await until(is_there)
        if is_reset:
            client.leave()
        else:
            client.close()
        await until(is_over)
    async with asyncio.timeout(5.0):
        while any(await gateway.loads()):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)


async def test_sglang(stack: AsyncExitStack) -> None:
    """Both legs are aborted by id, whatever was asked for and however the client went."""
    prefill, decode = await stack.enter_async_context(
        sim_pair(disconnect_notice_s=60.0, prefill={"prefill_tokens_per_s": 20.0})
    )

    def is_aborted() -> bool:
        rids = [seen.rid for seen in decode.seen]
        return all(
            [call["rid"] for call in worker.counters.abort_calls] == rids
            for worker in (prefill, decode)
        )

    async with running(pair_flags(prefill, decode)) as gateway:
        for stream, is_reset in WAYS:
            await leave(
                gateway,
                stream,
                is_reset,
                lambda: len(decode.seen) > len(decode.counters.abort_calls) and prefill.n_rooms,
                is_aborted,
            )
        await until(lambda: len(gateway.outcomes(CHAT)) == len(WAYS))
    assert (prefill.n_rooms, prefill.n_active, decode.n_active) == (0, 0, 0)
    assert decode.generated_tokens == 0
    assert gateway.outcomes(CHAT) == ["client_gone"] * len(WAYS)


@pytest.mark.parametrize("connector", ["nixl", "mooncake"])
async def test_vllm(stack: AsyncExitStack, model: Path, connector: str) -> None:
    """Prefill is aborted by its id, and decode never asked."""
    prefill = sim("prefill", model, connector, prefill_tokens_per_s=200.0)
    decode = sim("decode", model, connector)
    for worker in (prefill, decode):
        await stack.enter_async_context(worker)
    flags = pair_flags(prefill, decode, "--model-path", str(model))
    async with running(flags) as gateway:
        for stream, is_reset in WAYS[1:3]:
            await leave(
                gateway,
                stream,
                is_reset,
                lambda: len(prefill.seen) > len(prefill.aborted) and prefill.engine.jobs,
                lambda: prefill.aborted == [seen.request_id for seen in prefill.seen],
            )
        await until(lambda: gateway.outcomes(CHAT) == ["client_gone"] * 2)
    assert not decode.seen

"""Only workers whose KV caches fit are paired, seen from what the workers got."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.sim import SglangSim, sim_pair
from app.workers.states import State
from tests.flow.fleet import CHAT, GENERATE, body_of, serving, until
from tests.flow.vllm_fleet import fleet_of


async def sglang(stack: AsyncExitStack, page_size: int) -> tuple[SglangSim, SglangSim]:
    """A started pair with pages of one size."""
    return await stack.enter_async_context(sim_pair(page_size=page_size))


async def test_requests_meet_fitting_decodes_only(stack: AsyncExitStack) -> None:
    """Of two kinds of pairs in one fleet, none is ever mixed, and both are used."""
    small, large = await sglang(stack, 16), await sglang(stack, 32)
    fleet = await stack.enter_async_context(serving([small[0], large[0]], [large[1], small[1]]))
    for _ in range(12):
        assert (await fleet.ask(GENERATE, body_of(GENERATE))).status == 200
    for prefill, decode in (small, large):
        rooms = [seen.room for seen in prefill.seen]
        assert rooms == [seen.room for seen in decode.seen]
        assert len(rooms) == 6


async def test_pair_that_does_not_fit_gets_nothing(stack: AsyncExitStack) -> None:
    """503 with the reason, and no worker sees the request, until one comes that fits."""
    prefill, good = await sglang(stack, 16)
    _, bad = await sglang(stack, 64)
    fleet = await stack.enter_async_context(serving([prefill], [bad]))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["code"]) == (503, "no_available_pair")
    assert "(page size 16 against 64)" in got.error["message"]
    ready = await fleet.http.get("/readiness")
    assert ready.status_code == 503
    assert ready.json()["reason"].endswith("that fit together: page size 16 against 64")
    assert (await fleet.http.get("/v1/models")).json()["data"] == []
    added = await fleet.http.post("/workers", json={"url": good.url, "worker_type": "decode"})
    assert added.status_code == 202
    worker = fleet.gateway.registry.find(good.url)
    assert worker is not None
    await until(lambda: worker.state is State.READY)
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert (len(prefill.seen), len(bad.seen), len(good.seen)) == (1, 0, 1)
    await fleet.http.delete(added.headers["location"])


@pytest.mark.parametrize(
    ("decode", "reason"),
    [
        ({"version": "0.31.0"}, "engine version 0.32.0 against 0.31.0"),
        ({"kv_cache_dtype": "fp8"}, "KV cache dtype auto against fp8"),
        ({"model_dtype": "torch.bfloat16"}, "dtype float32 against bfloat16"),
        ({"block_size": 128}, "page size 16 against 128"),
    ],
)
async def test_what_nixl_would_refuse(
    stack: AsyncExitStack, model: Path, decode: dict[str, object], reason: str
) -> None:
    """Refused before prefill computes anything; the operator's own word overrules."""
    fleet = await fleet_of(stack, model, decode=decode)
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert got.status == 503
    assert f"({reason})" in got.error["message"]
    assert fleet.prefill.seen == fleet.decode.seen == []
    async with AsyncExitStack() as inner:
        fleet = await fleet_of(inner, model, decode=decode, pairing_protocol="mine")
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
        assert fleet.counts["nixl"] == 1

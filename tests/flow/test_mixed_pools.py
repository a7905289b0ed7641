"""SGLang pairs beside regular workers of the same model, and pairs that have lost a half."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim import Fault, FaultKind, SglangSim, SimConfig, sim_pair
from tests.flow.fleet import CHAT, COMPLETIONS, Fleet, body_of, serving

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
LONG = "word " * 2000


async def mixed(stack: AsyncExitStack, **settings: Any) -> Fleet:
    """A gateway before a pair and a regular worker; prompts below 100 tokens skip prefill."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    regular = await stack.enter_async_context(SglangSim(SimConfig(role="regular")))
    told = {"skip_prefill_below_tokens": 100} | settings
    return await stack.enter_async_context(serving([prefill], [decode], regulars=[regular], **told))


def seen(fleet: Fleet) -> list[int]:
    """What prefill, decode and the regular worker saw."""
    return [len(worker.seen) for worker in fleet.workers]


@BOTH
async def test_short_prompts_skip_prefill(stack: AsyncExitStack, stream: bool) -> None:
    """They go to the regular worker, long ones to the pair; both are counted."""
    fleet = await mixed(stack)
    assert (await fleet.ask(CHAT, body_of(CHAT, stream=stream))).status == 200
    assert seen(fleet) == [0, 0, 1]
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS, prompt=LONG))).status == 200
    assert seen(fleet) == [1, 1, 1]
    stats = (await fleet.http.get("/workers")).json()["stats"]
    assert stats["without_prefill"] == {"short": 1}


async def test_nothing_is_skipped_by_default(stack: AsyncExitStack) -> None:
    """A pair serves whatever it can."""
    fleet = await mixed(stack, skip_prefill_below_tokens=0)
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert seen(fleet) == [1, 1, 0]


async def test_busy_workers_get_no_short_prompts(stack: AsyncExitStack) -> None:
    """The share of its running requests decides, with room to spare until it does again."""
    fleet = await mixed(stack, skip_prefill_max_load=0.5)
    live = fleet.live(fleet.regulars[0])
    n_slots = live.info.max_running_requests
    assert n_slots is not None
    for n_leases, expected in (
        (n_slots // 2, [1, 1, 0]),
        (n_slots * 2 // 5, [2, 2, 0]),
        (n_slots // 3, [2, 2, 1]),
        (n_slots * 2 // 5, [2, 2, 2]),
    ):
        live.n_leases += n_leases
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
        live.n_leases -= n_leases
        assert seen(fleet) == expected


async def test_dead_regular_worker_is_no_loss(stack: AsyncExitStack) -> None:
    """The pair serves the short prompt that the regular worker never got."""
    fleet = await mixed(stack)
    await fleet.regulars[0].kill()
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.headers["x-tandem-attempts"]) == (200, "2")
    assert seen(fleet) == [1, 1, 0]
    await fleet.regulars[0].restart()
    await fleet.ready()


async def test_sglang_decode_cannot_serve_alone(stack: AsyncExitStack) -> None:
    """Asked to, the gateway says why not; decode is sent nothing."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(
        serving([prefill], [decode], on_missing_prefill="decode_only")
    )
    await prefill.kill()
    first = await fleet.ask(CHAT, body_of(CHAT))
    assert (first.status, first.error["code"]) == (502, "worker_unreachable")
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["code"]) == (503, "no_available_pair")
    assert "SGLang decode workers cannot compute prompts" in got.error["message"]
    assert got.headers["retry-after"] == "1"
    assert decode.seen == []
    assert (await fleet.http.get("/readiness")).status_code == 503
    await prefill.restart()
    await fleet.ready()


@pytest.mark.parametrize("queue", ["on", "off"])
async def test_open_breaker_of_a_pair(stack: AsyncExitStack, queue: str) -> None:
    """The pair is there and must not be used: the regular worker serves meanwhile."""
    fleet = await mixed(stack, skip_prefill_below_tokens=0, prefill_queue=queue)
    fleet.decodes[0].faults.add(Fault(kind=FaultKind.REFUSE, route=CHAT))
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 500
    await fleet.settle()
    assert fleet.charged == ["decode"]
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert seen(fleet) == [1, 1, 1]

"""vLLM workers that serve alone: regular ones, and decode workers without a prefill worker."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import VllmFault, VllmFaultKind
from tests.flow.fleet import CHAT, COMPLETIONS, body_of, until
from tests.flow.vllm_fleet import VllmFleet, asked, fleet_of, serving, sim

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


async def regular_fleet(
    stack: AsyncExitStack,
    model: Path,
    n_workers: int = 1,
    settings: dict[str, Any] | None = None,
    **config: Any,
) -> VllmFleet:
    """A gateway before regular workers without a KV connector."""
    sims = [sim("regular", model, "", **config) for _ in range(n_workers)]
    for one in sims:
        await stack.enter_async_context(one)
    told = {"model_path": str(model)} | (settings or {})
    return await stack.enter_async_context(serving([], [], regulars=sims, **told))


def alone_counts(fleet: VllmFleet) -> dict[str, int]:
    """How many requests one worker served, by reason."""
    return {str(why): n for why, n in fleet.gateway.solo_counts.by_why.items()}


@BOTH
@pytest.mark.parametrize("more", [{}, {"n": 2}], ids=["one", "two choices"])
async def test_regular_worker(
    stack: AsyncExitStack, model: Path, more: dict[str, Any], stream: bool
) -> None:
    """One call a choice, for the whole budget, without a handoff."""
    fleet = await regular_fleet(stack, model)
    (worker,) = fleet.regulars
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream, **more))
    assert (got.status, got.is_stream) == (200, stream)
    n_calls = more.get("n", 1)
    assert len(worker.seen) == n_calls
    request = asked(worker)
    assert request.sampling_params.max_tokens == 4
    assert request.stream is stream
    assert not request.HasField("kv_transfer_params_json")
    assert not request.HasField("data_parallel_rank")
    await fleet.settle()
    assert worker.counters.generated_tokens == 4 * n_calls
    assert worker.counters.computed_prompt_tokens > 0
    assert worker.counters.cancelled == []
    assert alone_counts(fleet) == {"no_pair": 1}
    assert fleet.counts == {}


@BOTH
async def test_client_leaves_a_regular_worker(
    stack: AsyncExitStack, model: Path, stream: bool
) -> None:
    """The engine ends it at once."""
    fleet = await regular_fleet(stack, model, prefill_tokens_per_s=50.0)
    (worker,) = fleet.regulars
    body = body_of(COMPLETIONS, stream=stream, prompt="word " * 200)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(fleet.ask(COMPLETIONS, body))
        await until(lambda: worker.engine.jobs)
        asking.cancel()
    await fleet.settle()
    assert worker.counters.abort_calls == [[asked(worker).request_id]]
    assert fleet.charged == []


async def test_failure_of_a_regular_worker(stack: AsyncExitStack, model: Path) -> None:
    """It is charged, and the error names no leg; the next request goes to the other one."""
    fleet = await regular_fleet(stack, model, 2)
    for worker in fleet.regulars:
        worker.faults.add(VllmFault(rpc="Generate", kind=VllmFaultKind.ERROR_FINISH))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["code"]) == (502, "generation_aborted")
    assert got.error.get("leg") is None
    assert got.error["message"].startswith("the worker ended")
    await fleet.settle()
    assert fleet.charged == ["regular"]


async def test_ranks_of_a_regular_worker(stack: AsyncExitStack, model: Path) -> None:
    """Requests are pinned to its ranks in turn."""
    fleet = await regular_fleet(stack, model, dp_size=2)
    (worker,) = fleet.regulars
    for _ in range(4):
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert sorted(seen.request.data_parallel_rank for seen in worker.seen) == [0, 0, 1, 1]


@BOTH
@pytest.mark.parametrize("kv_role", ["kv_consumer", "kv_both"])
async def test_decode_serves_alone_if_wanted(
    stack: AsyncExitStack, model: Path, kv_role: str, stream: bool
) -> None:
    """With prefill gone decode computes the prompt; with prefill back it does not any more."""
    fleet = await fleet_of(
        stack,
        model,
        decode={"kv_role": kv_role},
        settings={"on_missing_prefill": "decode_only"},
    )
    await fleet.prefill.kill()
    for _ in range(2):
        got = await fleet.ask(CHAT, body_of(CHAT, stream=stream, model="sim-model"))
        assert got.status == 200
        assert not asked(fleet.decode).HasField("kv_transfer_params_json")
    assert len(fleet.decode.seen) == 2
    assert fleet.decode.counters.computed_prompt_tokens > 0
    assert alone_counts(fleet) == {"missing_prefill": 2}
    assert (await fleet.http.get("/readiness")).status_code == 200
    assert len((await fleet.http.get("/v1/models")).json()["data"]) == 1
    await fleet.prefill.restart()
    await fleet.ready()
    assert (await fleet.ask(CHAT, body_of(CHAT, model="sim-model"))).status == 200
    assert fleet.counts == {"nixl": 1}


async def test_missing_prefill_fails_by_default(stack: AsyncExitStack, model: Path) -> None:
    """Nobody computes a prompt that was not to be computed there."""
    fleet = await fleet_of(stack, model, decode={"kv_role": "kv_both"})
    await fleet.prefill.kill()
    statuses = [(await fleet.ask(CHAT, body_of(CHAT))).status for _ in range(2)]
    assert statuses == [502, 503]
    assert fleet.decode.seen == []
    assert (await fleet.http.get("/readiness")).status_code == 503
    await fleet.prefill.restart()
    await fleet.ready()


async def test_failure_of_decode_alone(stack: AsyncExitStack, model: Path) -> None:
    """The leg is still decode's."""
    fleet = await fleet_of(stack, model, settings={"on_missing_prefill": "decode_only"})
    await fleet.prefill.kill()
    fleet.decode.faults.add(VllmFault(rpc="Generate", kind=VllmFaultKind.ABORT_FINISH))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"], got.error["code"]) == (
        502,
        "decode",
        "generation_aborted",
    )
    await fleet.prefill.restart()
    await until(lambda: fleet.live(fleet.prefill).breaker.is_closed)


async def test_short_prompts_skip_prefill(stack: AsyncExitStack, model: Path) -> None:
    """On a decode worker of both roles; longer ones are handed over, until they are cached."""
    fleet = await fleet_of(
        stack,
        model,
        decode={"kv_role": "kv_both"},
        settings={"skip_prefill_below_tokens": 64},
    )
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))).status == 200
    assert (len(fleet.prefill.seen), len(fleet.decode.seen)) == (0, 1)
    assert not asked(fleet.decode).HasField("kv_transfer_params_json")
    assert alone_counts(fleet) == {"short": 1}
    long = body_of(COMPLETIONS, prompt="word " * 1000)
    assert (await fleet.ask(COMPLETIONS, long)).status == 200
    assert (len(fleet.prefill.seen), fleet.counts) == (1, {"nixl": 1})
    # Decode has the blocks from the transfer: nothing is left to compute.
    assert (await fleet.ask(COMPLETIONS, long)).status == 200
    assert len(fleet.prefill.seen) == 1
    assert alone_counts(fleet) == {"short": 1, "cached": 1}


async def test_consumers_get_no_short_prompts(stack: AsyncExitStack, model: Path) -> None:
    """Only workers that are made for both phases do."""
    fleet = await fleet_of(stack, model, settings={"skip_prefill_below_tokens": 64})
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS))).status == 200
    assert (len(fleet.prefill.seen), fleet.counts) == (1, {"nixl": 1})

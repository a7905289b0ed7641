"""KV handed over by Mooncake between two simulated vLLM workers: asks, and what holds room."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from app.sim import VllmSim, vllm_pair
from app.upstream.generated import vllm_engine_pb2 as pb

PROMPT = "Tell me of two legs, please."


def text(end: pb.GenerateComplete) -> str:
    """Bytes as text."""
    return bytes(i for i in end.output_ids if i < 256).decode()


def mooncake(prefill: Any, transfer_id: str = "xfer-1") -> tuple[dict[str, Any], dict[str, Any]]:
    """What a gateway tells prefill and decode."""
    keep = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": transfer_id}
    load = {
        "do_remote_decode": False,
        "do_remote_prefill": True,
        "transfer_id": transfer_id,
        "remote_engine_id": prefill.engine_id,
        "remote_bootstrap_addr": f"http://127.0.0.1:{prefill.bootstrap_port}",
    }
    return keep, load


async def test_mooncake_one_after_the_other(talk: Any) -> None:
    """No handoff comes back; decode reports the whole prompt as cached."""
    async with vllm_pair("mooncake") as (prefill, decode):
        keep, load = mooncake(prefill)
        kept = await talk.prefill(prefill, PROMPT, kv=keep)
        assert not kept.HasField("kv_transfer_params_json")
        assert prefill.n_pinned_blocks == 2
        end = await talk.whole(decode, PROMPT, kv=load)
        assert prefill.mark(list(PROMPT.encode())) in text(end)
        assert end.cached_tokens == len(PROMPT)
        await talk.until(lambda: prefill.n_pinned_blocks == 0)


async def test_mooncake_both_at_once(talk: Any) -> None:
    """Decode may ask before prefill has the request."""
    async with vllm_pair("mooncake") as (prefill, decode):
        keep, load = mooncake(prefill)
        async with asyncio.TaskGroup() as group:
            decoding = group.create_task(talk.whole(decode, PROMPT, kv=load))
            await talk.until(lambda: decode.n_active == 1)
            await asyncio.sleep(0.05)
            await talk.prefill(prefill, PROMPT, kv=keep)
        assert prefill.mark(list(PROMPT.encode())) in text(decoding.result())
        assert decode.computed_prompt_tokens == 1


async def test_mooncake_without_prefill_waits_its_timeout(talk: Any) -> None:
    """Then it is a load failure."""
    async with vllm_pair("mooncake", mooncake_abort_s=0.1) as (prefill, decode):
        end = await talk.whole(decode, PROMPT, kv=mooncake(prefill)[1])
        assert end.finish_reason == "error"
        assert prefill.counters.n_asks_in_vain == 1
        assert decode.n_held_tokens == 0


# What follows was seen with real workers: vLLM 0.32.0, servicer 0.14.1, Mooncake over TCP.


async def asked_and_cancelled(
    talk: Any, decode: VllmSim, load: dict[str, Any], prompt: str = PROMPT
) -> None:
    """A decode leg that was cancelled while its engine waits for blocks."""
    stub = await talk.stub(decode)
    call = stub.Generate(talk.request(prompt, request_id=load["transfer_id"], kv=load))
    n_before = len(decode.engine.ranks[0].receiving)
    await talk.until(lambda: len(decode.engine.ranks[0].receiving) > n_before)
    call.cancel()
    await talk.until(lambda: decode.n_active == 0)


async def test_mooncake_room_is_held_for_blocks_that_never_come(talk: Any) -> None:
    """The request is over; its room comes free when the ask ends at prefill."""
    async with vllm_pair("mooncake", mooncake_abort_s=0.3) as (prefill, decode):
        started_s = time.monotonic()
        await asked_and_cancelled(talk, decode, mooncake(prefill)[1])
        assert not decode.engine.jobs
        assert decode.n_orphaned_tokens == len(PROMPT)
        await talk.until(lambda: decode.n_held_tokens == 0)
        assert time.monotonic() - started_s > 0.25
        assert decode.counters.n_orphaned_loads == decode.counters.n_load_failures == 1


async def test_mooncake_room_comes_free_with_the_blocks(talk: Any) -> None:
    """However late prefill is; a prefill of one block does it, too, as a failed load."""
    for prompt, n_transfers in ((PROMPT, 1), ("x", 0)):
        async with vllm_pair("mooncake", mooncake_abort_s=480.0) as (prefill, decode):
            keep, load = mooncake(prefill)
            await asked_and_cancelled(talk, decode, load)
            await talk.until(lambda p=prefill: p.n_waiting_asks == 2)
            await talk.prefill(prefill, prompt, kv=keep)
            await talk.until(lambda d=decode: d.n_held_tokens == 0)
            assert decode.counters.n_transfers == n_transfers
            assert decode.counters.n_load_failures == 1 - n_transfers
            await talk.until(lambda p=prefill: p.n_pinned_blocks == 0)
            assert prefill.n_waiting_asks == 0


async def test_mooncake_ask_outlives_a_prefill_that_was_aborted(talk: Any) -> None:
    """It waits in vain, also when the same prompt is computed again under the same id."""
    slow = {"prefill_tokens_per_s": 50.0}
    async with vllm_pair("mooncake", prefill=slow, mooncake_abort_s=1.0) as (prefill, decode):
        keep, load = mooncake(prefill)
        stub = await talk.stub(prefill)
        first = stub.Generate(talk.request(PROMPT, kv=keep, max_tokens=1, ignore_eos=True))
        await talk.until(lambda: prefill.engine.jobs)
        await asked_and_cancelled(talk, decode, load)
        await talk.until(lambda: prefill.n_waiting_asks == 2)
        first.cancel()
        await talk.until(lambda: not prefill.engine.jobs)
        await talk.prefill(prefill, "x", kv=keep)
        assert (decode.n_orphaned_tokens, prefill.n_pinned_blocks) == (len(PROMPT), 1)
        await talk.until(lambda: decode.n_held_tokens == 0)
        await talk.until(lambda: prefill.counters.n_asks_in_vain == 2)


async def test_mooncake_asks_in_vain_hold_everybody_up(talk: Any) -> None:
    """Prefill has so many tasks for asks, and every cancelled leg takes two of them."""
    both: dict[str, Any] = {"mooncake_abort_s": 0.6, "mooncake_sender_tasks": 4}
    async with vllm_pair("mooncake", **both) as (prefill, decode):
        for number in range(2):
            await asked_and_cancelled(talk, decode, mooncake(prefill, f"xfer-{number}")[1])
        await talk.until(lambda: prefill.n_waiting_asks == 4)
        started_s = time.monotonic()
        keep, load = mooncake(prefill, "xfer-good")
        await talk.prefill(prefill, "Hello", kv=keep)
        end = await talk.whole(decode, "Hello", kv=load)
        assert end.finish_reason == "stop"
        assert time.monotonic() - started_s > 0.3


@pytest.mark.parametrize("is_after_a_token", [False, True], ids=["before a token", "after one"])
async def test_mooncake_cancel_before_the_first_token(talk: Any, is_after_a_token: bool) -> None:
    """The servicer has prefill asked once more: for blocks that are gone, so in vain."""
    slow = {"prefill_tokens_per_s": 4.0}
    async with vllm_pair("mooncake", decode=slow, mooncake_abort_s=480.0) as (prefill, decode):
        keep, load = mooncake(prefill)
        await talk.prefill(prefill, PROMPT, kv=keep)
        stub = await talk.stub(decode)
        order = talk.request(PROMPT, kv=load, stream=True, max_tokens=3000, ignore_eos=True)
        call = stub.Generate(order)
        if is_after_a_token:
            await call.read()
        else:
            await talk.until(lambda: decode.counters.n_transfers == 1)
        call.cancel()
        await talk.until(lambda: decode.n_active == 0 and not prefill.n_pinned_blocks)
        if is_after_a_token:
            await asyncio.sleep(0.05)
            assert prefill.n_waiting_asks == 0
        else:
            await talk.until(lambda: prefill.n_waiting_asks == 1)


async def test_mooncake_prefill_that_died_is_waited_for(talk: Any) -> None:
    """Nobody tells decode: it waits longer than prefill would have."""
    both: dict[str, Any] = {"mooncake_abort_s": 0.2, "mooncake_grace_s": 0.2}
    async with vllm_pair("mooncake", **both) as (prefill, decode):
        _, load = mooncake(prefill)
        started_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            decoding = group.create_task(talk.whole(decode, PROMPT, kv=load))
            await talk.until(lambda: prefill.n_waiting_asks == 1)
            await prefill.kill()
        assert decoding.result().finish_reason == "error"
        assert time.monotonic() - started_s > 0.35
        await prefill.restart()


async def test_mooncake_checks_the_engine_id_and_the_address(talk: Any) -> None:
    """Unknown engine and wrong bootstrap address are load failures; missing keys mean local."""
    async with vllm_pair("mooncake") as (prefill, decode):
        keep, load = mooncake(prefill)
        await talk.prefill(prefill, PROMPT, kv=keep)
        for wrong in (
            {"remote_bootstrap_addr": "http://127.0.0.1:1"},
            {"remote_engine_id": "another"},
        ):
            end = await talk.whole(decode, PROMPT, kv=load | wrong)
            assert end.finish_reason == "error"
        assert prefill.n_pinned_blocks == 2
        end = await talk.whole(decode, PROMPT, kv=load | {"transfer_id": ""})
        assert end.finish_reason == "stop"
        assert decode.computed_prompt_tokens == len(PROMPT)


async def test_mooncake_ranks(talk: Any) -> None:
    """The engine id carries the rank; the bootstrap server lists both."""
    async with vllm_pair("mooncake", prefill={"dp_size": 2, "engine_id": "p"}) as (prefill, decode):
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{prefill.bootstrap_port}/query"
            listed = (await client.get(url)).json()
        assert {rank: entry["engine_id"] for rank, entry in listed.items()} == {
            "0": "p_dp0",
            "1": "p_dp1",
        }
        keep, load = mooncake(prefill)
        await talk.prefill(prefill, PROMPT, kv=keep, rank=1)
        end = await talk.whole(decode, PROMPT, kv=load | {"remote_engine_id": "p_dp1"})
        assert end.finish_reason == "stop"
        assert (await talk.whole(decode, PROMPT, kv=load)).finish_reason == "error"

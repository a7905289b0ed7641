"""KV handed over between two simulated vLLM workers: leases, read once, roles, aborts."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import grpc
import pytest

from app.sim import VllmFault, VllmFaultKind, vllm_pair
from app.sim.vllm_tokens import GARBAGE_MARK
from app.upstream.generated import vllm_engine_pb2 as pb

PROMPT = "Tell me of two legs, please."
NIXL_KEYS = {
    *("do_remote_prefill", "do_remote_decode", "remote_block_ids", "remote_engine_id"),
    *("remote_request_id", "remote_host", "remote_port", "tp_size", "dcp_size", "pp_size"),
    *("remote_num_tokens", "remote_blocks_expiry_time", "transfer_mode"),
    "remote_prefill_cached_tokens",
}


def text(end: pb.GenerateComplete) -> str:
    """Bytes as text."""
    return bytes(i for i in end.output_ids if i < 256).decode()


# ---- NIXL


@pytest.mark.parametrize("name", ["NixlConnector", "NixlPullConnector", "NixlPushConnector"])
async def test_nixl(talk: Any, name: str) -> None:
    """Prefill computes the prompt, decode its last position; the blocks are free at the end."""
    async with vllm_pair(name) as (prefill, decode):
        kept = await talk.prefill(prefill, PROMPT)
        assert (kept.finish_reason, len(kept.output_ids)) == ("length", 1)
        assert prefill.n_pinned_blocks == 2
        handoff = json.loads(kept.kv_transfer_params_json)
        is_push = name == "NixlPushConnector"
        assert set(handoff) == NIXL_KEYS - ({"remote_blocks_expiry_time"} if is_push else set())
        assert handoff["transfer_mode"] == ("push" if is_push else "pull")
        assert [len(group) for group in handoff["remote_block_ids"]] == [2]
        assert handoff["remote_engine_id"] == prefill.engine_id
        assert handoff["remote_num_tokens"] == len(PROMPT)
        end = await talk.whole(decode, PROMPT, kv=kept.kv_transfer_params_json)
        assert prefill.mark(list(PROMPT.encode())) in text(end)
        assert (prefill.computed_prompt_tokens, decode.computed_prompt_tokens) == (len(PROMPT), 1)
        assert end.cached_tokens == 0
        assert decode.counters.n_transferred_tokens == len(PROMPT)
        await talk.until(lambda: prefill.n_pinned_blocks == 0)
        assert prefill.counters.n_releases == 1
        assert decode.seen[0].handoff == handoff


async def test_nixl_reports_what_prefill_had_cached(talk: Any) -> None:
    """A handoff without that number makes decode claim the whole prompt."""
    async with vllm_pair() as (prefill, decode):
        await talk.prefill(prefill, PROMPT)
        kept = await talk.prefill(prefill, PROMPT)
        assert kept.cached_tokens == 16
        end = await talk.whole(decode, PROMPT, kv=kept.kv_transfer_params_json)
        assert end.cached_tokens == 16
        handoff = json.loads((await talk.prefill(prefill, PROMPT)).kv_transfer_params_json)
        del handoff["remote_prefill_cached_tokens"]
        end = await talk.whole(decode, PROMPT, kv=handoff)
        assert end.cached_tokens == len(PROMPT)


async def test_nixl_handoff_is_read_once(talk: Any) -> None:
    """The second reader gets somebody else's blocks, with status OK."""
    async with vllm_pair() as (prefill, decode):
        kept = await talk.prefill(prefill, PROMPT)
        await talk.whole(decode, PROMPT, kv=kept.kv_transfer_params_json)
        await talk.until(lambda: prefill.n_pinned_blocks == 0)
        end = await talk.whole(decode, PROMPT, kv=kept.kv_transfer_params_json)
        assert end.finish_reason == "stop"
        assert GARBAGE_MARK in text(end)
        assert prefill.counters.n_garbage_reads == 1


async def test_nixl_lease_ends(talk: Any) -> None:
    """Nobody came: the blocks are free, and reading them is too late."""
    async with vllm_pair(lease_s=0.1) as (prefill, decode):
        started_s = time.monotonic()
        kept = await talk.prefill(prefill, PROMPT)
        await talk.until(lambda: prefill.n_pinned_blocks == 0)
        assert 0.09 < time.monotonic() - started_s < 0.5
        assert prefill.counters.n_expired == 1
        end = await talk.whole(decode, PROMPT, kv=kept.kv_transfer_params_json)
        assert GARBAGE_MARK in text(end)


@pytest.mark.parametrize("has_heartbeats", [True, False])
async def test_nixl_heartbeats_of_a_queued_decode(talk: Any, has_heartbeats: bool) -> None:
    """With them the blocks outlive the lease while decode has no slot."""
    decode_settings = {
        "max_num_seqs": 1,
        "decode_step_s": 0.01,
        "has_heartbeats": has_heartbeats,
    }
    async with vllm_pair(decode=decode_settings, lease_s=0.15) as (prefill, decode):
        async with asyncio.TaskGroup() as group:
            # The only slot is taken for twice the lease.
            group.create_task(talk.whole(decode, "busy", max_tokens=30, ignore_eos=True))
            await talk.until(lambda: decode.generated_tokens > 0)
            kept = await talk.prefill(prefill, PROMPT)
            order = {"kv": kept.kv_transfer_params_json, "max_tokens": 30}
            waiting = group.create_task(talk.whole(decode, PROMPT, **order))
        said = text(waiting.result())
        assert (GARBAGE_MARK in said) is not has_heartbeats
        assert (prefill.counters.n_heartbeats > 0) is has_heartbeats
        assert (prefill.counters.n_expired == 0) is has_heartbeats


async def test_nixl_keeps_nothing_of_an_untagged_or_aborted_prefill(talk: Any) -> None:
    """No tag, no pin; an aborted prefill frees its blocks at once."""
    async with vllm_pair(prefill={"prefill_tokens_per_s": 100.0}) as (prefill, _):
        assert not (await talk.prefill(prefill, "abc", kv={})).HasField("kv_transfer_params_json")
        stub = await talk.stub(prefill)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(talk.prefill(prefill, PROMPT, request_id="gone"))
            await talk.until(lambda: prefill.n_active == 1)
            await stub.Abort(pb.AbortRequest(request_ids=["gone"]))
        assert running.result().finish_reason == "abort"
        assert not running.result().HasField("kv_transfer_params_json")
        assert prefill.n_pinned_blocks == 0
        assert prefill.aborted == ["gone"]


async def test_cancelled_prefill(talk: Any) -> None:
    """The worker notices the cancel and keeps nothing."""
    async with vllm_pair(prefill={"prefill_tokens_per_s": 50.0}) as (prefill, _):
        stub = await talk.stub(prefill)
        call = stub.Generate(talk.request(PROMPT, request_id="left", max_tokens=1))
        await talk.until(lambda: prefill.n_active == 1)
        call.cancel()
        await talk.until(lambda: prefill.cancelled == ["left"])
        await talk.until(lambda: not prefill.engine.jobs)
        assert prefill.n_pinned_blocks == 0


async def test_a_decode_cancelled_in_the_queue_releases_prefill(talk: Any) -> None:
    """Long before the lease ends."""
    settings = {"max_num_seqs": 1, "decode_step_s": 0.01}
    async with vllm_pair(decode=settings, lease_s=30.0) as (prefill, decode):
        stub = await talk.stub(decode)
        busy = stub.Generate(talk.request("busy", max_tokens=3000, ignore_eos=True))
        await talk.until(lambda: decode.generated_tokens > 0)
        kept = await talk.prefill(prefill, PROMPT)
        call = stub.Generate(talk.request(PROMPT, kv=kept.kv_transfer_params_json))
        await talk.until(lambda: decode.n_active == 2)
        call.cancel()
        await talk.until(lambda: prefill.n_pinned_blocks == 0)
        assert prefill.counters.n_releases == 1
        busy.cancel()


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "aborted"])
async def test_decode_given_up_while_it_loads(talk: Any, is_cancelled: bool) -> None:
    """Its room is held until the read is over; the servicer tells prefill of a cancel at once."""
    async with vllm_pair(decode={"transfer_s_per_token": 0.02}, lease_s=30.0) as (prefill, decode):
        kept = await talk.prefill(prefill, PROMPT)
        stub = await talk.stub(decode)
        call = stub.Generate(talk.request(PROMPT, kv=kept.kv_transfer_params_json))
        await talk.until(lambda: decode.engine.ranks[0].receiving)
        if is_cancelled:
            call.cancel()
        else:
            await stub.Abort(pb.AbortRequest(request_ids=["r"]))
        await talk.until(lambda: decode.n_active == 0)
        assert (decode.n_held_tokens, decode.n_orphaned_tokens) == (len(PROMPT), len(PROMPT))
        if is_cancelled:
            await talk.until(lambda: prefill.n_pinned_blocks == 0)
            assert decode.n_orphaned_tokens == len(PROMPT)
        else:
            assert prefill.n_pinned_blocks == 2
        await talk.until(lambda: prefill.n_pinned_blocks == decode.n_held_tokens == 0)
        assert decode.generated_tokens == 0
        assert (decode.counters.n_orphaned_loads, decode.counters.n_transfers) == (1, 1)


async def test_loads_take_no_slot(talk: Any) -> None:
    """Two loads at a time on an engine that runs one sequence."""
    settings = {"max_num_seqs": 1, "transfer_s_per_token": 0.004, "decode_step_s": 0.02}
    async with vllm_pair(decode=settings, lease_s=30.0) as (prefill, decode):
        rank = decode.engine.ranks[0]
        async with asyncio.TaskGroup() as group:
            for prompt in (PROMPT, PROMPT[::-1]):
                kept = await talk.prefill(prefill, prompt)
                kv = kept.kv_transfer_params_json
                group.create_task(talk.whole(decode, prompt, kv=kv))
            await talk.until(lambda: len(rank.receiving) == 2)
            await talk.until(lambda: rank.arrived and len(rank.running) == 1)
        assert decode.counters.n_transfers == 2
        assert decode.n_held_tokens == 0


async def test_a_refused_decode_releases_prefill(talk: Any) -> None:
    """Its parameters were wrong, but its handoff was read."""
    async with vllm_pair(lease_s=30.0) as (prefill, decode):
        kept = await talk.prefill(prefill, PROMPT)
        order = talk.request(PROMPT, kv=kept.kv_transfer_params_json, temperature=9.0)
        await talk.refused(decode, order)
        await talk.until(lambda: prefill.n_pinned_blocks == 0)


@pytest.mark.parametrize("policy", ["fail", "recompute"])
async def test_load_failure(talk: Any, policy: str) -> None:
    """Prefill was restarted: an error with status OK and no token, or computed by decode."""
    settings = {"load_failure_policy": policy}
    async with vllm_pair(decode=settings) as (prefill, decode):
        kept = await talk.prefill(prefill, PROMPT)
        old_id = prefill.engine_id
        await prefill.kill()
        await prefill.restart()
        assert prefill.engine_id != old_id
        *_, last = await talk.ask(decode, PROMPT, kv=kept.kv_transfer_params_json, stream=True)
        end = last.complete
        assert decode.counters.n_load_failures == 1
        if policy == "fail":
            assert (end.finish_reason, list(end.output_ids)) == ("error", [])
        else:
            assert end.finish_reason == "stop"
            assert decode.computed_prompt_tokens == len(PROMPT)


async def test_after_a_load_failure_another_decode_can_read(talk: Any) -> None:
    """The failed one did not release the blocks."""
    async with vllm_pair(lease_s=30.0) as (prefill, decode):
        kept = await talk.prefill(prefill, PROMPT)
        decode.faults.add(VllmFault(kind=VllmFaultKind.ERROR_FINISH))
        failed = await talk.whole(decode, PROMPT, kv=kept.kv_transfer_params_json)
        assert (failed.finish_reason, len(failed.output_ids)) == ("error", 0)
        assert prefill.n_pinned_blocks == 2
        end = await talk.whole(decode, PROMPT, kv=kept.kv_transfer_params_json)
        assert prefill.mark(list(PROMPT.encode())) in text(end)


async def test_decode_without_a_handoff_computes_the_prompt(talk: Any) -> None:
    """Correct, and counted where it was computed."""
    async with vllm_pair() as (_, decode):
        end = await talk.whole(decode, PROMPT)
        assert decode.mark(list(PROMPT.encode())) in text(end)
        assert decode.computed_prompt_tokens == len(PROMPT)


# ---- assertions that kill the process


@pytest.mark.parametrize(
    ("role", "kv"),
    [
        ("prefill", {"do_remote_prefill": True, "remote_block_ids": [[1]]}),
        ("decode", {"do_remote_decode": True}),
        ("decode", {"do_remote_prefill": True}),
        ("decode", {"do_remote_prefill": True, "remote_block_ids": []}),
    ],
)
async def test_orders_that_crash_the_engine(talk: Any, role: str, kv: dict[str, Any]) -> None:
    """The whole process goes, with every other request on it."""
    async with vllm_pair(decode_step_s=0.01) as (prefill, decode):
        sim = prefill if role == "prefill" else decode
        stub = await talk.stub(sim)
        other = stub.Generate(talk.request("other", max_tokens=1000, ignore_eos=True, stream=True))
        await other.read()
        error = await talk.refused(sim, talk.request(PROMPT, kv=kv))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert len(sim.counters.crashes) == 1
        with pytest.raises(grpc.aio.AioRpcError):  # noqa: PT012 - reads what came before
            while await other.read():
                pass
        assert not sim.is_up
        await sim.restart()
        await talk.until(lambda: sim.n_active == 0)


async def test_an_incomplete_handoff_parks_the_request(talk: Any) -> None:
    """It waits for KV that nobody was asked for, until it is cancelled."""
    async with vllm_pair() as (_, decode):
        kv = {"do_remote_prefill": True, "remote_block_ids": [[1]], "remote_engine_id": "e"}
        stub = await talk.stub(decode)
        call = stub.Generate(talk.request(PROMPT, kv=kv))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await call.read()
        await talk.until(lambda: len(decode.cancelled) == 1)


# ---- faults on command


async def test_faults_of_a_prefill_answer(talk: Any) -> None:
    """No handoff, a malformed one, an error, an abort; each used up after one request."""
    async with vllm_pair() as (prefill, _):
        prefill.faults.add(VllmFault(kind=VllmFaultKind.NO_HANDOFF))
        prefill.faults.add(VllmFault(kind=VllmFaultKind.BAD_HANDOFF, message='{"do_remote'))
        prefill.faults.add(VllmFault(kind=VllmFaultKind.ABORT_FINISH))
        assert not (await talk.prefill(prefill)).HasField("kv_transfer_params_json")
        assert (await talk.prefill(prefill)).kv_transfer_params_json == '{"do_remote'
        assert (await talk.prefill(prefill)).finish_reason == "abort"
        assert (await talk.prefill(prefill)).HasField("kv_transfer_params_json")


async def test_faults_in_the_middle_of_a_stream(talk: Any) -> None:
    """A status, or the death of the worker, after so many messages."""
    async with vllm_pair(decode_step_s=0.002) as (_, decode):
        stub = await talk.stub(decode)
        for kind, status in (
            (VllmFaultKind.BREAK, grpc.StatusCode.DATA_LOSS),
            (VllmFaultKind.DIE, grpc.StatusCode.UNAVAILABLE),
        ):
            fault = VllmFault(kind=kind, after_messages=3, status="DATA_LOSS", message="why")
            decode.faults.add(fault)
            call = stub.Generate(talk.request(PROMPT, stream=True))
            n_messages = 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012 - counts as well
                while await call.read() is not grpc.aio.EOF:
                    n_messages += 1
            assert (n_messages, caught.value.code()) == (3, status)
        assert not decode.is_up


async def test_pinned_blocks_fill_the_cache(talk: Any) -> None:
    """A prefill worker whose blocks nobody takes has no room for the next prompt."""
    settings = {"max_total_tokens": 50}
    async with vllm_pair(prefill=settings, lease_s=0.15) as (prefill, _):
        await talk.prefill(prefill, PROMPT)
        started_s = time.monotonic()
        await talk.prefill(prefill, PROMPT)
        assert time.monotonic() - started_s > 0.1
        assert prefill.counters.n_expired == 1

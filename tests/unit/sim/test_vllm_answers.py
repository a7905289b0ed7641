"""Answers of one simulated vLLM worker: frames, stops, logprobs, what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import Any

import grpc
import pytest

from app.sim import VllmConfig, VllmSim
from app.sim.text import logprob
from app.upstream.generated import vllm_engine_pb2 as pb

ALONE = VllmConfig(role="regular", connector="", dp_size=2, context_length=4000)
EOS = 256


def text(ids: Any) -> str:
    """Bytes as text."""
    return bytes(i for i in ids if i < 256).decode()


async def test_the_answer_names_its_prompt(talk: Any) -> None:
    """Its words and its mark; the end-of-sequence token is in the ids and matches nothing."""
    async with VllmSim(ALONE) as sim:
        end = await talk.whole(sim, "a pair of legs")
        said = text(end.output_ids)
        assert "a pair of legs" in said
        assert sim.mark(list(b"a pair of legs")) in said
        assert end.output_ids[-1] == EOS
        assert (end.finish_reason, end.WhichOneof("matched_stop")) == ("stop", None)
        assert (end.prompt_tokens, end.completion_tokens) == (14, len(end.output_ids))
        assert sim.computed_prompt_tokens == 14
        assert sim.generated_tokens == len(end.output_ids)


async def test_stream_frames(talk: Any) -> None:
    """A chunk a step with its own count, then Complete with the last chunk's tokens again."""
    async with VllmSim(VllmConfig(role="regular", connector="", decode_step_s=0.01)) as sim:
        *chunks, last = await talk.ask(sim, stream=True, max_tokens=5, ignore_eos=True)
        # A worker that is late puts two tokens in one chunk, as vLLM does.
        assert len(chunks) > 1
        assert {m.WhichOneof("response") for m in chunks} == {"chunk"}
        assert all(m.chunk.completion_tokens == len(m.chunk.token_ids) for m in chunks)
        assert list(last.complete.output_ids) == list(chunks[-1].chunk.token_ids)
        assert last.complete.completion_tokens == len(chunks[-1].chunk.token_ids)
        whole = await talk.whole(sim, max_tokens=5, ignore_eos=True)
        assert list(whole.output_ids) == [t for m in chunks for t in m.chunk.token_ids]
        assert whole.finish_reason == "length"


async def test_stop_string_ends_with_the_token_that_completes_it(talk: Any) -> None:
    """The ids spell it; where it stands first counts."""
    async with VllmSim(ALONE) as sim:
        end = await talk.whole(sim, stop=["nowhere", "answer"])
        assert text(end.output_ids) == "Simulated answer"
        assert (end.finish_reason, end.matched_stop_str) == ("stop", "answer")


async def test_min_tokens_hold_stops_and_the_end_back(talk: Any) -> None:
    """Nothing ends an answer before."""
    async with VllmSim(ALONE) as sim:
        end = await talk.whole(sim, stop=["i", "answer"], min_tokens=5)
        assert text(end.output_ids) == "Simulated answer"
        end = await talk.whole(sim, min_tokens=200)
        assert len(end.output_ids) == 201
        assert end.output_ids[-1] == EOS


async def test_stop_token(talk: Any) -> None:
    """Named by its id."""
    async with VllmSim(ALONE) as sim:
        end = await talk.whole(sim, stop_token_ids=[ord("m")])
        assert (text(end.output_ids), end.matched_token_id) == ("Sim", ord("m"))


async def test_constraints(talk: Any) -> None:
    """Kept for JSON and choices; one that does not compile is refused."""
    async with VllmSim(ALONE) as sim:
        assert text((await talk.whole(sim, json_object=True)).output_ids).startswith('{"answer"')
        choice = pb.ChoiceConstraint(choices=["yes", "no"])
        assert text((await talk.whole(sim, choice=choice)).output_ids) == "yes"
        error = await talk.refused(sim, talk.request("a", regex="("))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "regex" in str(error.details())


async def test_a_script_takes_the_place_of_the_answer(talk: Any) -> None:
    """For tests that need tool calls or thoughts."""
    async with VllmSim(ALONE) as sim:
        sim.script = "<think>{mark}</think>ok"
        said = text((await talk.whole(sim)).output_ids)
        assert said == f"<think>{sim.mark(list(b'Hello'))}</think>ok"


async def test_logprobs(talk: Any) -> None:
    """The sampled token takes one of the places; none without being asked."""
    async with VllmSim(ALONE) as sim:
        plain = await talk.whole(sim, max_tokens=2)
        assert not plain.HasField("output_logprobs")
        end = await talk.whole(sim, max_tokens=2, logprobs=3)
        said = end.output_logprobs
        assert list(said.token_ids) == list(end.output_ids)
        assert said.token_logprobs[0] == pytest.approx(logprob(end.output_ids[0]))
        assert [len(top.token_ids) for top in said.top_logprobs] == [3, 3]
        assert said.top_logprobs[0].token_ids[0] == end.output_ids[0]
        assert not (await talk.whole(sim, max_tokens=1, logprobs=0)).output_logprobs.top_logprobs


async def test_prompt_logprobs(talk: Any) -> None:
    """Of the first chunk and of Complete, nothing for the first token, and no cache is read."""
    async with VllmSim(ALONE) as sim:
        await talk.whole(sim, "x" * 40)
        assert (await talk.whole(sim, "x" * 40)).cached_tokens == 32
        first, *_, last = await talk.ask(
            sim, "x" * 40, stream=True, prompt_logprobs=1, max_tokens=3
        )
        for said in (first.chunk.input_logprobs, last.complete.input_logprobs):
            assert len(said.token_logprobs) == 40
            assert not said.token_logprobs[0].HasField("value")
            assert said.token_logprobs[1].HasField("value")
        assert last.complete.cached_tokens == 0


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 2.5},
        {"temperature": -1.0},
        {"top_p": 1.5},
        {"min_p": 2.0},
        {"presence_penalty": 3.0},
        {"frequency_penalty": -3.0},
        {"repetition_penalty": -1.0},
        {"max_tokens": 0},
        {"max_tokens": 2, "min_tokens": 3},
        {"logprobs": 21},
        {"logprobs": -2},
        {"prompt_logprobs": 21},
        {"stop": [""]},
        {"n": 2},
    ],
)
async def test_values_out_of_range(talk: Any, params: dict[str, Any]) -> None:
    """Refused as vLLM refuses them; nothing is computed."""
    async with VllmSim(ALONE) as sim:
        error = await talk.refused(sim, talk.request("a", **params))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details()
        assert sim.computed_prompt_tokens == 0


@pytest.mark.parametrize("kv", ["", "[1]", "{", "null"])
async def test_a_handoff_must_be_a_json_object(talk: Any, kv: str) -> None:
    """Also an empty text: presence counts."""
    async with VllmSim(ALONE) as sim:
        error = await talk.refused(sim, talk.request("a", kv=kv))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_other_refusals(talk: Any) -> None:
    """No prompt, one that is too long, a rank that is not there."""
    async with VllmSim(ALONE) as sim:
        for request in (
            pb.GenerateRequest(request_id="none"),
            talk.request(""),
            talk.request("x" * 4000),
            talk.request("a", rank=2),
        ):
            error = await talk.refused(sim, request)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (await talk.whole(sim, rank=1)).finish_reason == "stop"
        raw = pb.GenerateRequest(request_id="text", text="Hello")
        stub = await talk.stub(sim)
        [message] = [m async for m in stub.Generate(raw)]
        assert message.complete.prompt_tokens == 5


async def test_chunked_prefill_takes_its_time(talk: Any) -> None:
    """Prompts share the steps; the first token comes with the last chunk."""
    config = VllmConfig(
        role="regular", connector="", chunk_tokens=50, prefill_tokens_per_s=1000, block_size=1000
    )
    async with VllmSim(config) as sim:
        started_s = time.monotonic()
        await talk.whole(sim, "x" * 200, max_tokens=1)
        assert 0.2 <= time.monotonic() - started_s < 0.4
        assert sim.counters.n_steps == 4
        assert sim.counters.prefill_busy_us == pytest.approx(200_000, rel=0.01)


async def test_slots_and_room_make_requests_wait(talk: Any) -> None:
    """With one slot the second request counts as waiting, until the first is done."""
    config = VllmConfig(role="regular", connector="", max_num_seqs=1, decode_step_s=0.003)
    async with VllmSim(config) as sim, asyncio.TaskGroup() as group:
        for name in ("one", "two"):
            group.create_task(talk.whole(sim, request_id=name, max_tokens=20))
        stub = await talk.stub(sim)
        await talk.until(lambda: sim.n_active == 2)
        [load] = (await stub.GetLoads(pb.GetLoadsRequest())).loads
        assert (load.num_running_reqs, load.num_waiting_reqs) == (1, 1)
        assert load.num_waiting_uncached_tokens > 0
    assert sim.counters.max_active == 2


async def test_ranks_have_their_own_caches(talk: Any) -> None:
    """A prompt that one rank knows is new to the other."""
    async with VllmSim(ALONE) as sim:
        await talk.whole(sim, "y" * 33, rank=1)
        assert (await talk.whole(sim, "y" * 33, rank=0)).cached_tokens == 0
        assert (await talk.whole(sim, "y" * 33, rank=1)).cached_tokens == 32


async def test_the_command_runs_a_pair(talk: Any) -> None:
    """Two worker processes in one, which hand KV over and stop on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.sim", "--engine", "vllm", "--pairs", "1"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        lines = [(await process.stdout.readline()).decode().split() for _ in range(2)]
        urls = [next(word for word in line if word.startswith("grpc://")) for line in lines]
        assert [line[1] for line in lines] == ["prefill", "decode"]
        stubs = [await talk.stub(type("At", (), {"url": url})()) for url in urls]
        order = talk.request("Hello", kv={"do_remote_decode": True}, max_tokens=1, ignore_eos=True)
        [prefilled] = [m async for m in stubs[0].Generate(order)]
        order = talk.request("Hello", kv=prefilled.complete.kv_transfer_params_json)
        [decoded] = [m async for m in stubs[1].Generate(order)]
        assert "Hello" in text(decoded.complete.output_ids)
    finally:
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.parametrize("n_steps", range(6))
async def test_connection_that_comes_as_the_worker_dies(n_steps: int) -> None:
    """It is cut like the others, however far it came; nothing outlives the worker."""
    async with VllmSim(ALONE) as sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        for _ in range(n_steps):
            await asyncio.sleep(0)
        await sim.kill()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(1):
                assert await reader.read() == b""
        writer.close()

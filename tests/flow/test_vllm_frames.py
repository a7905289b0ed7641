"""The checklist of the wire, rows 8, 12 to 16, 19 and 20: what the client gets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import VllmFault, VllmFaultKind
from app.sim.vllm_job import VllmJob
from app.sim.vllm_servicer import VllmServicer
from app.upstream.generated import vllm_engine_pb2 as pb
from tests.flow.fleet import CHAT, GENERATE, Got, body_of, until
from tests.flow.vllm_fleet import SHORT_LEASE_S, VllmFleet, asked, fleet_of, record_handoffs

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
async def nixl(stack: AsyncExitStack, model: Path) -> VllmFleet:
    """A gateway before one NIXL pair."""
    return await fleet_of(stack, model)


def answer_with(monkeypatch: pytest.MonkeyPatch, *messages: pb.GenerateResponse) -> None:
    """Has decode workers answer exactly so, once their engine is done."""
    usual = VllmServicer._frames

    async def frames(
        servicer: VllmServicer, job: VllmJob, fault: VllmFault | None
    ) -> AsyncIterator[pb.GenerateResponse]:
        if servicer._config.role == "prefill":
            async for message in usual(servicer, job, fault):
                yield message
            return
        await until(lambda: job.is_over)
        for message in messages:
            yield message

    monkeypatch.setattr(VllmServicer, "_frames", frames)


def chunk(*ids: int) -> pb.GenerateResponse:
    """New tokens."""
    said = pb.GenerateStreamChunk(token_ids=ids, completion_tokens=len(ids))
    return pb.GenerateResponse(chunk=said)


def complete(*ids: int, reason: str = "stop") -> pb.GenerateResponse:
    """The last message."""
    said = pb.GenerateComplete(output_ids=ids, finish_reason=reason, completion_tokens=len(ids))
    return pb.GenerateResponse(complete=said)


def chat(**more: Any) -> dict[str, Any]:
    """A chat that ends when the model says so."""
    return {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64} | more


def events_of(got: Got) -> list[dict[str, Any]]:
    """The events before [DONE]."""
    assert got.events[-1] == "[DONE]"
    return [json.loads(event) for event in got.events[:-1]]


def said_in(events: list[dict[str, Any]]) -> list[str]:
    """The pieces of text."""
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return [delta["content"] for delta in deltas if delta.get("content")]


async def test_row_8_last_delta_comes_twice(
    nixl: VllmFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tokens in two chunks, the last again in Complete: counted and said once."""
    ids = list(nixl.decode.tokenizer.encode("a")) * 3
    answer_with(monkeypatch, chunk(*ids[:2]), chunk(ids[2]), complete(ids[2]))
    events = events_of(await nixl.ask(CHAT, chat(**USAGE)))
    assert "".join(said_in(events)) == "aaa"
    assert events[-1]["usage"]["completion_tokens"] == 3


async def test_row_12_character_over_two_chunks(
    nixl: VllmFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A character of several tokens is sent once, whole."""
    ids = list(nixl.decode.tokenizer.encode("\U0001f600"))
    assert len(ids) > 1
    answer_with(monkeypatch, chunk(*ids[:1]), chunk(*ids[1:]), complete(*ids[1:]))
    events = events_of(await nixl.ask(CHAT, chat(stream=True)))
    assert said_in(events) == ["\U0001f600"]


@BOTH
async def test_row_13_stop_string(nixl: VllmFleet, stream: bool) -> None:
    """The text ends before it, and the answer says which one it was."""
    nixl.decode.script = "one two END three"
    got = await nixl.ask(CHAT, chat(stop=["END"], stream=stream))
    if stream:
        events = events_of(got)
        text, choice = "".join(said_in(events)), events[-1]["choices"][0]
    else:
        choice = got.json["choices"][0]
        text = choice["message"]["content"]
    assert text == "one two "
    assert (choice["finish_reason"], choice["matched_stop"]) == ("stop", "END")
    assert list(asked(nixl.decode).sampling_params.stop) == ["END"]


async def test_row_14_usage_event(nixl: VllmFleet) -> None:
    """One more event before [DONE], without a choice; prefill's cached tokens are in it."""
    body = chat(**USAGE, messages=[{"role": "user", "content": "word " * 64}])
    for n_cached in (0, 16):
        events = events_of(await nixl.ask(CHAT, body))
        *others, last = events
        assert last["choices"] == []
        assert all(event.get("usage") is None for event in others)
        usage = last["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert usage["prompt_tokens"] == len(asked(nixl.decode).tokenized.input_ids)
        assert usage["prompt_tokens_details"]["cached_tokens"] >= n_cached


@BOTH
async def test_row_15_end_of_sequence(nixl: VllmFleet, stream: bool) -> None:
    """Its token is not in the text, but in the count."""
    nixl.decode.script = "Bye"
    got = await nixl.ask(CHAT, chat(**(USAGE if stream else {})))
    events = events_of(got) if stream else []
    usage = events[-1]["usage"] if stream else got.json["usage"]
    text = "".join(said_in(events)) or got.json["choices"][0]["message"]["content"]
    assert text == "Bye"
    assert usage["completion_tokens"] == len(nixl.decode.tokenizer.encode("Bye")) + 1


async def test_row_16_default_parameters_of_decode(stack: AsyncExitStack, model: Path) -> None:
    """They hold where the client says nothing, on both legs; prefill's own do not."""
    fleet = await fleet_of(
        stack,
        model,
        prefill={"default_sampling": {"temperature": 0.1, "min_p": 0.5}},
        decode={"default_sampling": {"temperature": 0.6, "top_k": 20}},
    )
    await fleet.ask(CHAT, chat())
    await fleet.ask(CHAT, chat(temperature=0.2, top_k=3))
    for worker in fleet.workers:
        first, second = (seen.request.sampling_params for seen in worker.seen)
        assert (round(first.temperature, 4), first.top_k, first.min_p) == (0.6, 20, 0.0)
        assert (round(second.temperature, 4), second.top_k) == (0.2, 3)


@BOTH
async def test_row_19_decode_fails_at_once(
    stack: AsyncExitStack, model: Path, stream: bool
) -> None:
    """Finish reason error without a token is 502, however it was asked; never an empty 200."""
    fleet = await fleet_of(stack, model, lease_s=SHORT_LEASE_S)
    fleet.decode.faults.add(VllmFault(kind=VllmFaultKind.ERROR_FINISH))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.error["leg"]) == (502, "decode")
    assert fleet.charged == ["decode"]


@pytest.mark.parametrize("reason", ["error", "abort"])
@pytest.mark.parametrize("route", [CHAT, GENERATE])
async def test_row_19_decode_fails_in_mid_stream(
    nixl: VllmFleet, monkeypatch: pytest.MonkeyPatch, route: str, reason: str
) -> None:
    """After the first token it is one error event, and no [DONE]."""
    (token,) = nixl.decode.tokenizer.encode("a")
    answer_with(monkeypatch, chunk(token), complete(token, reason=reason))
    got = await nixl.ask(route, body_of(route, stream=True))
    assert (got.status, got.is_stream, got.error["leg"]) == (200, True, "decode")
    assert got.error["code"] == "generation_aborted"
    await nixl.settle()
    assert nixl.charged == ["decode"]


async def test_row_20_unknown_keys_are_relayed(nixl: VllmFleet) -> None:
    """White space, order and members of a later version: letter by letter."""

    def change(text: str) -> str:
        found = {"a_later_key": {"kept": [1.50, None]}} | json.loads(text)
        return json.dumps(found, indent=3, separators=(" , ", " : "))

    texts = record_handoffs(nixl.prefill, change)
    assert (await nixl.ask(CHAT, body_of(CHAT))).status == 200
    assert [nixl.decode.seen[0].handoff_json] == texts
    assert '"a_later_key" : ' in texts[0]
    assert nixl.decode.computed_prompt_tokens == 1

"""Our pure code against what real SGLang workers wrote."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from app.dispatch.whole_events import WholeEvents
from app.errors import InvalidRequest
from app.protocol import sse
from app.protocol.bootstrap import members
from app.protocol.facts import peek
from app.protocol.fan_out_merge import FanOutStream, merge_replies
from app.protocol.logprob_merge import LogprobMerger, merge_prompt_logprobs
from app.protocol.peer_blame import is_peer_death
from app.protocol.problem import message_of
from app.protocol.reply_faults import fault_in_body, find_fault
from app.protocol.routes import Route
from app.protocol.usage import cached_from_prefill, patch_event, patch_whole

RENDEZVOUS = ("bootstrap_host", "bootstrap_port", "bootstrap_room")


def events_of(answer: Any) -> list[bytes]:
    """The data of a recorded stream's events."""
    return [sse.data_of(event) for event in sse.EventSplitter().feed(answer.body)]


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_streams_are_cut_alike(samples: Any, size: int) -> None:
    """Each stream gives the same events however it is chunked, [DONE] last, nothing pending."""
    n_streams = 0
    for name in samples.names:
        answer = samples.answer(name)
        if not answer.is_stream:
            continue
        n_streams += 1
        splitter, events = sse.EventSplitter(), WholeEvents()
        data: list[bytes] = []
        for at in range(0, len(answer.body), size):
            chunk = answer.body[at : at + size]
            events.feed(chunk)
            data += [sse.data_of(event) for event in splitter.feed(chunk)]
        assert data[-1] == sse.DONE_DATA
        assert [json.loads(text) for text in data[:-1]] == answer.documents
        assert splitter.pending == b""
        assert events.ended_with_done
        assert not events.has_rest
    assert n_streams >= 6


def test_error_texts(samples: Any) -> None:
    """The sentence of every error is found, in each of the engine's three shapes."""
    starts = {
        "chat_too_long": "Requested token count exceeds the model's maximum context length",
        "chat_prompt_too_long": "The input (9031 tokens) is longer than the model's context",
        "chat_wrong_type": "1 validation error:",
        "chat_bad_sampling": "top_p must be in (0, 1], got 7.0.",
        "generate_too_long": "The input (9001 tokens) is longer than the model's context",
        "generate_wrong_type": 'invalid type: string "hot", expected f64',
    }
    failed = {name for name in samples.names if samples.answer(name).status >= 400}
    assert failed == {f"{n}.{r}" for n in [*starts, "aborted_waiting"] for r in ROLES}
    for name, start in starts.items():
        for role in ROLES:
            assert message_of(samples.answer(f"{name}.{role}").body).startswith(start)


ROLES = ("prefill", "decode")


@pytest.mark.parametrize("role", ROLES)
def test_end_while_waiting_blames_the_peer(samples: Any, role: str) -> None:
    """A leg that waited for its peer says so with 500; a refused request does not."""
    answer = samples.answer(f"aborted_waiting.{role}")
    assert answer.status == 500
    assert is_peer_death(message_of(answer.body))
    assert not is_peer_death(message_of(samples.answer(f"chat_too_long.{role}").body))


def test_aborts_inside_good_answers(samples: Any) -> None:
    """Only the two aborted answers are faults, whole or streamed byte by byte."""
    faulty = []
    for name in samples.names:
        answer = samples.answer(name)
        if answer.status != 200 or not answer.body.startswith((b"{", b"[", b"data: ")):
            continue
        if answer.is_stream:
            events = WholeEvents()
            if any(find_fault(events.feed(bytes([byte]))) for byte in answer.body):
                faulty.append(name)
        elif fault_in_body(answer.documents[0]):
            faulty.append(name)
    assert faulty == ["aborted_running.decode", "aborted_running_stream.decode"]


def test_requests_are_read(samples: Any) -> None:
    """Without the members of the rendezvous every sample is taken, with them every one refused."""
    for name in samples.requests:
        path, body = samples.request(name)
        own = {key: value for key, value in body.items() if key not in RENDEZVOUS}
        rooms = body["bootstrap_room"]
        facts = peek(Route(path), orjson.dumps(own))
        assert facts.batch == (len(rooms) if isinstance(rooms, list) else None)
        assert facts.stream is own.get("stream", False)
        assert facts.wants_prompt_logprobs is own.get("return_logprob", False)
        with pytest.raises(InvalidRequest) as caught:
            peek(Route(path), orjson.dumps(body))
        assert caught.value.param in RENDEZVOUS


def test_rendezvous_members(samples: Any) -> None:
    """Ours equal the ones that worked, beside the rid."""
    for name in ("chat", "generate_batch"):
        body = samples.request(name)[1]
        rooms = body["bootstrap_room"]
        batch = len(rooms) if isinstance(rooms, list) else None
        rids: Any = "a" if batch is None else ["a", "b"]
        ours = json.loads(b"{%b}" % members("127.0.0.1", 32310, rooms, rids, batch))
        assert ours == {key: body[key] for key in RENDEZVOUS} | {"rid": rids}


@pytest.mark.parametrize("name", ["generate_logprob", "generate_logprob_batch"])
def test_prompt_logprobs(samples: Any, name: str) -> None:
    """Prompt side from prefill, everything else from decode."""
    prefill, decode = (samples.answer(f"{name}.{role}") for role in ROLES)
    merged = as_list(orjson.loads(merge_prompt_logprobs(decode.body, prefill.body)))
    sources = zip(as_list(prefill.documents[0]), as_list(decode.documents[0]), strict=True)
    for ours, (from_prefill, from_decode) in zip(merged, sources, strict=True):
        prompt = from_prefill["meta_info"]["input_token_logprobs"]
        assert ours["meta_info"]["input_token_logprobs"] == prompt
        assert len(prompt) == from_decode["meta_info"]["prompt_tokens"] == 5
        assert without_prompt_side(ours) == without_prompt_side(from_decode)


@pytest.mark.parametrize("name", ["generate_logprob_stream", "generate_logprob_batch_stream"])
def test_prompt_logprobs_streamed(samples: Any, name: str) -> None:
    """Each prompt's first event gains them; all other events keep their bytes."""
    prefill = samples.answer(f"{name}.prefill")
    prompts = [item["meta_info"]["input_token_logprobs"] for item in as_list(prefill.documents[0])]
    merger = LogprobMerger(prefill.body)
    seen: set[int] = set()
    for data in events_of(samples.answer(f"{name}.decode")):
        merged = merger.feed(data)
        index = 0 if data == sse.DONE_DATA else orjson.loads(data).get("index", 0)
        if data == sse.DONE_DATA or index in seen:
            assert merged is data
            continue
        seen.add(index)
        assert orjson.loads(merged)["meta_info"]["input_token_logprobs"] == prompts[index]
    assert seen == set(range(len(prompts)))


def test_counts_of_prefill(samples: Any) -> None:
    """Real decode reports prefill's counts, so nothing is written anew, streamed or not."""
    for name in samples.requests:
        prefill, decode = (samples.answer(f"{name}.{role}") for role in ROLES)
        if prefill.status != 200:
            continue
        counts = cached_from_prefill(prefill.body)
        assert counts is not None
        if decode.is_stream:
            assert all(patch_event(data, counts) is data for data in events_of(decode))
        else:
            assert patch_whole(decode.body, counts) is decode.body


@pytest.mark.parametrize(
    ("name", "route", "batch"),
    [
        ("chat", Route.CHAT, None),
        ("completions_batch", Route.COMPLETIONS, 2),
        ("generate", Route.GENERATE, None),
    ],
)
def test_merged_choices(samples: Any, name: str, route: Route, batch: int | None) -> None:
    """Two children give twice the choices, numbered from 0, and twice the completion tokens."""
    body = samples.answer(f"{name}.decode").body
    one, two = orjson.loads(body), orjson.loads(merge_replies(route, 2, batch, [body, body]))
    if route is Route.GENERATE:
        assert two == [one, one]
        return
    assert [choice["index"] for choice in two["choices"]] == list(range(2 * len(one["choices"])))
    assert two["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert two["usage"]["completion_tokens"] == 2 * one["usage"]["completion_tokens"]
    assert set(two) == set(one)


@pytest.mark.parametrize(
    ("name", "batch"), [("chat_stream", None), ("completions_batch_stream", 2)]
)
def test_merged_streams(samples: Any, name: str, batch: int | None) -> None:
    """Two children's events give each index one end, one id, and one usage event before [DONE]."""
    route = Route(samples.request(name)[0])
    stream = FanOutStream(route, 2, batch, include_usage=True)
    data = events_of(samples.answer(f"{name}.decode"))
    sent = [out for one in data for child in (0, 1) if (out := stream.feed(child, one))]
    events = [orjson.loads(out) for out in sent]
    ends = [c["index"] for e in events for c in e["choices"] if c["finish_reason"]]
    assert sorted(ends) == list(range(2 * (batch or 1)))
    assert len({event["id"] for event in events}) == 1
    usage, done = sse.EventSplitter().feed(stream.final())
    assert sse.data_of(done) == sse.DONE_DATA
    alone = samples.answer(f"{name}.decode").documents[-1]["usage"]
    merged = orjson.loads(sse.data_of(usage))["usage"]
    assert merged["completion_tokens"] == 2 * alone["completion_tokens"]
    assert merged["prompt_tokens"] == alone["prompt_tokens"]


def as_list(document: Any) -> list[Any]:
    """Results of a batch, or the one result."""
    return document if isinstance(document, list) else [document]


def without_prompt_side(result: dict[str, Any]) -> dict[str, Any]:
    """A result without the prompt's logprobs."""
    meta_info = {k: v for k, v in result["meta_info"].items() if not k.startswith("input_")}
    return {**result, "meta_info": meta_info}

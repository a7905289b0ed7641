"""What the client gets of one call: decode's bytes, completed with what only prefill knows."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.dispatch.answers import CompletedEventStream, EventStream, whole_body
from app.dispatch.reply import Prepared
from app.errors import LegBroken, LegRejected
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.protocol.sse import DONE, encode
from app.upstream.http1 import encode_lines
from app.workers.worker import Role, Worker, WorkerSpec

DECODE = Worker(WorkerSpec("http://d:1", Role.DECODE))


def item(prompt: list[Any], **meta_info: Any) -> dict[str, Any]:
    """A /generate answer, or an event of one."""
    return {"text": "a", "meta_info": {"input_token_logprobs": prompt, **meta_info}}


def prepared(**members: Any) -> Prepared:
    """A /generate request."""
    body = orjson.dumps({"text": "a", **members})
    return Prepared(peek(Route.GENERATE, body), body, encode_lines([]))


WITH_LOGPROBS = prepared(return_logprob=True, logprob_start_len=0)


class Call:
    """A started call: decode's further events, and prefill's answer if it has one."""

    def __init__(self, prefill: Any = None, *events: bytes) -> None:
        self.prefill_body = None if prefill is None else orjson.dumps(prefill)
        self.n_waits = 0
        self._events = list(events)

    async def wait_for_prefill(self) -> bytes:
        """The answer."""
        self.n_waits += 1
        if self.prefill_body is None:
            raise LegRejected("No.", leg="prefill", status=422)
        return self.prefill_body

    async def next_events(self) -> bytes:
        """The next events, then nothing."""
        return self._events.pop(0) if self._events else b""


def faked(call: Call) -> Any:
    """A call where the real one is expected."""
    return call


async def test_plain_answer_passes_as_it_is() -> None:
    """The same bytes, and prefill is not waited for."""
    body = b'{ "text" : "a" }'
    call = Call()
    assert (await whole_body(faked(call), body, prepared(), DECODE)) is body
    assert call.n_waits == 0


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"<html>", LegBroken, 502),
        (b"", LegBroken, 502),
        (orjson.dumps(item([], finish_reason={"type": "abort"})), LegBroken, 502),
        (
            orjson.dumps(
                item([], finish_reason={"type": "abort", "message": "x", "status_code": 503})
            ),
            LegRejected,
            503,
        ),
    ],
)
async def test_wrong_answer_is_decodes_failure(body: bytes, kind: type, status: int) -> None:
    """A page, nothing, an abort, an abort with a status."""
    with pytest.raises(kind) as caught:
        await whole_body(faked(Call()), body, prepared(), DECODE)
    error: Any = caught.value
    assert ("decode", status, DECODE.id) == (error.leg, error.status, error.worker_id)


async def test_prompt_logprobs_are_put_in() -> None:
    """Prefill's prompt side in decode's answer."""
    merged = await whole_body(
        faked(Call(item([[None, 1, None]]))), orjson.dumps(item([])), WITH_LOGPROBS, DECODE
    )
    assert [[None, 1, None]] == orjson.loads(merged)["meta_info"]["input_token_logprobs"]


async def test_cached_tokens_are_prefills() -> None:
    """Counted where the prompt was computed, if prefill has answered by then."""
    prefill = item([], prompt_tokens=5, cached_tokens=4)
    body = orjson.dumps(item([], prompt_tokens=5, cached_tokens=0))
    merged = await whole_body(faked(Call(prefill)), body, prepared(), DECODE)
    assert orjson.loads(merged)["meta_info"]["cached_tokens"] == 4
    assert (await whole_body(faked(Call()), body, prepared(), DECODE)) is body


async def test_events_pass_as_they_are() -> None:
    """Decode's bytes, first to last."""
    stream = EventStream(faked(Call(None, b"b", DONE)), b"a")
    assert [chunk async for chunk in stream] == [b"a", b"b", DONE]


async def test_prompt_logprobs_come_once() -> None:
    """In the first event only; prefill is waited for once, [DONE] stays."""
    events = [encode(orjson.dumps(item([]))) for _ in range(3)]
    call = Call(item([[None, 1, None]]), events[1] + events[2], DONE)
    stream = CompletedEventStream(faked(call), events[0], WITH_LOGPROBS)
    first, *rest = [chunk async for chunk in stream]
    assert b'"input_token_logprobs":[[null,1,null]]' in first
    assert rest == [events[1] + events[2], DONE]
    assert call.n_waits == 1


async def test_refusal_of_prefill_ends_the_stream_before_its_start() -> None:
    """Nothing is given out when prefill's logprobs are not to be had."""
    stream = CompletedEventStream(faked(Call()), b"data: {}\n\n", WITH_LOGPROBS)
    with pytest.raises(LegRejected, match="No"):
        await anext(stream)

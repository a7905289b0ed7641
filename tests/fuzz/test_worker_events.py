"""SGLang workers that answer 200 and then anything: the client gets an end that is one.

A whole stream with ``[DONE]``, or an error that is not a defect of the gateway; and afterwards
nothing of the request is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sim.wire import Exchange
from tests.flow.fleet import Got, serving
from tests.flow.scripted import ScriptedWorker, whole
from tests.fuzz.bodies import JUNK
from tests.fuzz.running import MANY, MODES, ROUTES, SETTINGS, Running, as_json, check

_CHOICE = st.dictionaries(
    st.sampled_from(["index", "delta", "text", "message", "finish_reason", "logprobs"]),
    st.one_of(JUNK, st.dictionaries(st.sampled_from(["content", "role", "tool_calls"]), JUNK)),
    max_size=4,
)
_META = st.dictionaries(
    st.sampled_from(["finish_reason", "id", "prompt_tokens", "input_token_logprobs"]), JUNK
)
_SHAPED: dict[str, st.SearchStrategy[Any]] = {
    "choices": st.one_of(JUNK, st.lists(_CHOICE, max_size=2)),
    "usage": st.one_of(JUNK, st.dictionaries(st.just("prompt_tokens"), JUNK)),
    "error": st.one_of(JUNK, st.dictionaries(st.sampled_from(["message", "code", "type"]), JUNK)),
    "meta_info": st.one_of(JUNK, _META),
    "text": JUNK,
    "index": JUNK,
    "id": JUNK,
}
_DOCUMENT = st.one_of(st.fixed_dictionaries({}, optional=_SHAPED), JUNK)
_EVENT = st.one_of(
    _DOCUMENT.map(lambda value: b"data: " + as_json(value) + b"\n\n"),
    st.sampled_from(
        [
            b"data: [DONE]\n\n",
            b": ping\n\n",
            b"data:\n\n",
            b"data: {\n\n",
            b"event: x\ndata: {}\n\n",
            b"data: {}\r\n\r\n",
            b"\n\n\n\n",
            b"data: {}\ndata: {}\n\n",
            b"id: 1\n\n",
        ]
    ),
    st.binary(max_size=30),
)
_END = st.sampled_from([b"", b"data: [DONE]\n\n"])


@pytest.fixture
def running() -> Iterator[Running]:
    """A decode worker that sends what a test says."""
    with asyncio.Runner() as runner:
        made = Running(runner)

        async def answer(exchange: Exchange, body: dict[str, Any]) -> None:
            kind = "text/event-stream" if body.get("stream") else "application/json"
            await exchange.start(200, {"content-type": kind})
            for piece in made.said:
                await exchange.write(piece)
            await exchange.write(b"", is_last=True)

        async def start() -> None:
            pair = ScriptedWorker("prefill", whole(200, {})), ScriptedWorker("decode", answer)
            for worker in pair:
                await made.stack.enter_async_context(worker)
            opening = serving([pair[0]], [pair[1]], **SETTINGS)
            made.fleet = await made.stack.enter_async_context(opening)

        runner.run(start())
        yield made
        made.close()


def cut(data: bytes, size: int) -> list[bytes]:
    """The same bytes in pieces."""
    return [data[i : i + size] for i in range(0, len(data), size)]


@pytest.mark.timeout(240)
def test_any_events(running: Running) -> None:
    """Events of every shape, comments, blank lines, garbage, in any pieces."""

    @MANY
    @given(
        events=st.lists(_EVENT, max_size=6),
        end=_END,
        size=st.integers(1, 200),
        route=ROUTES,
        more=MODES,
    )
    def ask(events: list[bytes], end: bytes, size: int, route: str, more: dict[str, Any]) -> None:
        running.said = cut(b"".join(events) + end, size)
        check(running.ask(route, more))

    ask()


@pytest.mark.timeout(240)
def test_any_document(running: Running) -> None:
    """Whole answers that are no answers, alone and to be merged with another one."""
    modes = st.sampled_from([{}, {"n": 2}, {"n": 2, "logprobs": 1}])

    @MANY
    @given(value=_DOCUMENT, size=st.integers(1, 200), route=ROUTES, more=modes)
    def ask(value: Any, size: int, route: str, more: dict[str, Any]) -> None:
        running.said = cut(as_json(value), size)
        got: Got = running.ask(route, more)
        check(got)

    ask()

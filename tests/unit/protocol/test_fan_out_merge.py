"""One answer from the answers of single-choice children."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.protocol.fan_out_merge import FanOutStream, merge_replies
from app.protocol.routes import Route
from app.protocol.sse import DONE, encode
from app.protocol.usage_merge import merge_usages


def usage(n_prompt: int, n_completion: int, n_reasoning: int = 0) -> dict[str, Any]:
    """Usage as SGLang writes it."""
    return {
        "prompt_tokens": n_prompt,
        "total_tokens": n_prompt + n_completion,
        "completion_tokens": n_completion,
        "prompt_tokens_details": None,
        "reasoning_tokens": n_reasoning,
        "completion_tokens_details": {"reasoning_tokens": n_reasoning} if n_reasoning else None,
    }


def reply(name: str, texts: list[str], n_completion: int) -> bytes:
    """A whole completions reply."""
    choices = [{"index": index, "text": text} for index, text in enumerate(texts)]
    return orjson.dumps(
        {"id": name, "created": 1, "choices": choices, "usage": usage(10, n_completion, 2)}
    )


def chunk(name: str, **members: Any) -> bytes:
    """The data of a chat event."""
    return orjson.dumps({"id": name, "created": len(name), **members})


def test_single_choices() -> None:
    """Child i's choice has index i; the prompt is counted once, the rest is added up."""
    merged = orjson.loads(
        merge_replies(Route.CHAT, 2, None, [reply("a", ["x"], 3), reply("b", ["y"], 4)])
    )
    assert {
        "id": "a",
        "created": 1,
        "choices": [{"index": 0, "text": "x"}, {"index": 1, "text": "y"}],
        "usage": usage(10, 7, 4),
    } == merged


def test_batch_choices() -> None:
    """Sample i of prompt j has index j*n+i, and choices stand in that order."""
    bodies = [reply("a", ["0a", "1a"], 3), reply("b", ["0b", "1b"], 4)]
    merged = orjson.loads(merge_replies(Route.COMPLETIONS, 2, 2, bodies))
    assert [(0, "0a"), (1, "0b"), (2, "1a"), (3, "1b")] == [
        (choice["index"], choice["text"]) for choice in merged["choices"]
    ]


def test_generate_results() -> None:
    """Generate gives a list, by prompt and then by sample."""
    single = merge_replies(Route.GENERATE, 2, None, [b'{"text":"a"}', b'{"text":"b"}'])
    assert b'[{"text":"a"},{"text":"b"}]' == single
    batch = merge_replies(
        Route.GENERATE, 2, 2, [b'[{"t":"0a"},{"t":"1a"}]', b'[{"t":"0b"},{"t":"1b"}]']
    )
    assert ["0a", "0b", "1a", "1b"] == [item["t"] for item in orjson.loads(batch)]


@pytest.mark.parametrize(
    ("route", "batch", "body"),
    [
        (Route.CHAT, None, b"text"),
        (Route.CHAT, None, b"[]"),
        (Route.CHAT, None, b'{"choices":[]}'),
        (Route.CHAT, None, b'{"choices":[1]}'),
        (Route.COMPLETIONS, 2, b'{"choices":[{}]}'),
        (Route.GENERATE, None, b"[]"),
        (Route.GENERATE, 2, b"{}"),
        (Route.GENERATE, 2, b"[{}]"),
    ],
)
def test_bodies_of_another_shape(route: Route, batch: int | None, body: bytes) -> None:
    """A body that is no answer of the route is an error."""
    with pytest.raises(ValueError, match=r"\w"):
        merge_replies(route, 2, batch, [body, body])


def test_number_of_children() -> None:
    """A missing child is an error."""
    with pytest.raises(ValueError, match="1 replies"):
        merge_replies(Route.GENERATE, 2, None, [b"{}"])


def test_chat_stream() -> None:
    """Events get the child's index and the first event's id and time; usage comes last."""
    stream = FanOutStream(Route.CHAT, 2, None, include_usage=True)
    first = stream.feed(1, chunk("bb", choices=[{"index": 0, "delta": {"content": "y"}}]))
    second = stream.feed(0, chunk("a", choices=[{"index": 0, "delta": {"content": "x"}}]))
    assert chunk("bb", choices=[{"index": 1, "delta": {"content": "y"}}]) == first
    assert chunk("bb", choices=[{"index": 0, "delta": {"content": "x"}}]) == second
    assert stream.feed(1, chunk("bb", choices=[], usage=usage(10, 4))) is None
    assert stream.feed(0, chunk("a", choices=[], usage=usage(10, 3))) is None
    assert stream.feed(0, b"[DONE]") is None
    assert encode(chunk("bb", choices=[], usage=usage(10, 7))) + DONE == stream.final()


def test_stream_without_usage() -> None:
    """Without the client's wish the stream just ends."""
    stream = FanOutStream(Route.CHAT, 2, None, include_usage=False)
    assert stream.feed(0, chunk("a", choices=[], usage=usage(10, 3))) is None
    assert DONE == stream.final()


def test_completions_batch_stream() -> None:
    """A child's index is its prompt's."""
    stream = FanOutStream(Route.COMPLETIONS, 3, 2, include_usage=False)
    sent = stream.feed(2, chunk("a", choices=[{"index": 1, "text": "x"}]))
    assert sent is not None
    assert 1 * 3 + 2 == orjson.loads(sent)["choices"][0]["index"]


def test_generate_stream() -> None:
    """Generate's events get an index and keep their own id."""
    stream = FanOutStream(Route.GENERATE, 2, None, include_usage=False)
    data = b'{"text":"a","meta_info":{"id":"x"}}'
    assert b'{"text":"a","meta_info":{"id":"x"},"index":1}' == stream.feed(1, data)
    batch = FanOutStream(Route.GENERATE, 2, 2, include_usage=False)
    assert b'{"text":"a","index":3}' == batch.feed(1, b'{"text":"a","index":1}')


def test_stream_passes_what_is_no_event() -> None:
    """Errors and unknown data pass as they are."""
    stream = FanOutStream(Route.CHAT, 2, None, include_usage=True)
    for data in (b'{"error":{"message":"m"}}', b"[1]", b"text"):
        assert stream.feed(0, data) is data


def test_usage_of_nobody() -> None:
    """No usage of any child gives none."""
    assert merge_usages([None, None]) is None
    assert usage(10, 3) == merge_usages([None, usage(10, 3)])

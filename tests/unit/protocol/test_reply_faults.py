"""Failures inside answers that began with 200."""

from __future__ import annotations

import orjson
import pytest

from app.protocol.reply_faults import FaultWatch, abort_in_body, find_abort, is_error_event
from app.protocol.sse import DONE, encode

CHAT_ABORT = orjson.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "abort"}]})
GENERATE_ABORT = orjson.dumps(
    {"text": "a", "meta_info": {"finish_reason": {"type": "abort", "message": "Aborted"}}}
)
ERROR = b'{"error":{"object":"error","message":"boom","type":"X","param":null,"code":500}}'
WORD = orjson.dumps({"choices": [{"index": 0, "delta": {"content": "abort"}}]})
QUOTED = orjson.dumps({"text": '"finish_reason":"abort"', "meta_info": {"finish_reason": None}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (CHAT_ABORT, "The worker ended the generation with finish reason 'abort'."),
        (GENERATE_ABORT, "Aborted"),
        (ERROR, "boom"),
        (WORD, None),
        (QUOTED, None),
        (b"[DONE]", None),
        (b'{"error":null}', None),
    ],
)
def test_find_abort(data: bytes, message: str | None) -> None:
    """Aborts and errors are found, words that look like them are not."""
    assert message == find_abort(encode(WORD) + encode(data))


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("border", [b"\n\n", b"\r\n\r\n"])
def test_fault_watch(size: int, border: bytes) -> None:
    """A fault is found once its event is complete, whatever the chunks were."""
    stream = (encode(WORD) + encode(GENERATE_ABORT) + DONE).replace(b"\n\n", border)
    watch = FaultWatch()
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert ["Aborted"] == [found for chunk in chunks if (found := watch.feed(chunk))]


def test_abort_in_body() -> None:
    """Whole bodies are looked through, lists too."""
    item = {"text": "a", "meta_info": {"finish_reason": {"type": "stop"}}}
    assert "Aborted" == abort_in_body([item, orjson.loads(GENERATE_ABORT)])
    assert abort_in_body([item]) is None
    assert abort_in_body("text") is None
    assert "m" == abort_in_body({"object": "error", "message": "m"})


def test_is_error_event() -> None:
    """Only an error object is an error event."""
    assert "boom" == is_error_event(ERROR)
    assert is_error_event(CHAT_ABORT) is None
    assert is_error_event(b'{"error"') is None

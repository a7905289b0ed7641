"""Failures inside answers that began with 200."""

from __future__ import annotations

import orjson
import pytest

from app.protocol.reply_faults import Fault, fault_in_body, find_fault
from app.protocol.sse import encode

CHAT_ABORT = orjson.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "abort"}]})
WORD = orjson.dumps({"choices": [{"index": 0, "delta": {"content": "abort"}}]})
QUOTED = orjson.dumps({"text": '"finish_reason":"abort"', "meta_info": {"finish_reason": None}})


def generate_abort(status: object) -> bytes:
    """An event of /generate whose generation was aborted."""
    reason = {"type": "abort", "message": "Aborted", "status_code": status, "err_type": None}
    return orjson.dumps({"text": "a", "meta_info": {"finish_reason": reason}})


def error(code: object) -> bytes:
    """An event of the OpenAI routes that reports a failure."""
    return orjson.dumps({"error": {"object": "error", "message": "boom", "code": code}})


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (CHAT_ABORT, Fault("The worker ended the generation with finish reason 'abort'.", None)),
        (generate_abort(None), Fault("Aborted", None)),
        (generate_abort(500), Fault("Aborted", 500)),
        (error(503), Fault("boom", 503)),
        (error(400), Fault("boom", 400)),
        (error(200), Fault("boom", None)),
        (error("context_length_exceeded"), Fault("boom", None)),
        (error(True), Fault("boom", None)),
        (b'{"object":"error","message":"boom","code":422}', Fault("boom", 422)),
        (b'{"error":"boom"}', Fault("boom", None)),
        (b'{"error":{"code":500}}', Fault("The worker reported an error without a message.", 500)),
        (WORD, None),
        (QUOTED, None),
        (b"[DONE]", None),
        (b'{"error":null}', None),
    ],
)
def test_find_fault(data: bytes, fault: Fault | None) -> None:
    """Aborts and errors are found with the status they name, words that look alike are not."""
    assert fault == find_fault(encode(WORD) + encode(data))


def test_fault_in_body() -> None:
    """Whole bodies are looked through, lists too."""
    item = {"text": "a", "meta_info": {"finish_reason": {"type": "stop"}}}
    assert Fault("Aborted", 500) == fault_in_body([item, orjson.loads(generate_abort(500))])
    assert fault_in_body([item]) is None
    assert fault_in_body("text") is None


def test_message_is_bounded() -> None:
    """A worker cannot make an error of any size."""
    fault = fault_in_body({"error": {"message": "x" * 10_000}})
    assert fault is not None
    assert 4096 == len(fault.message)

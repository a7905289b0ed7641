"""The error shape, and the text that workers' errors hold."""

from __future__ import annotations

import orjson
import pytest

from app.errors import InvalidRequest, LegBroken
from app.protocol.peer_blame import is_peer_death
from app.protocol.problem import error_body, error_event, message_of

NO_ROOM = b'{"error":{"message":"Invalid request: no room"}}'
OBJECT_ERROR = b'{"object":"error","message":"gone","type":"500","param":null,"code":500}'
VALIDATION = b'{"detail":[{"loc":["body","n"],"msg":"too big"},{"loc":[],"msg":"bad"}]}'


def test_error_body() -> None:
    """The OpenAI members, without a leg when none failed."""
    assert {
        "error": {
            "message": "No.",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_request",
        }
    } == orjson.loads(error_body(InvalidRequest("No.", param="n")))


def test_error_body_names_the_leg() -> None:
    """A failed leg is named."""
    error = orjson.loads(error_body(LegBroken("Cut.", leg="decode")))["error"]
    assert ("decode", "worker_broken", "server_error") == (
        error["leg"],
        error["code"],
        error["type"],
    )


def test_error_event() -> None:
    """A blank line comes first where an event was cut."""
    error = LegBroken("Cut.", leg="decode")
    event = error_event(error, at_border=True)
    assert b"data: " + error_body(error) + b"\n\n" == event
    assert b"\n\n" + event == error_event(error, at_border=False)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (NO_ROOM, "Invalid request: no room"),
        (OBJECT_ERROR, "gone"),
        (b'{"error":"Request body must be a JSON object."}', "Request body must be a JSON object."),
        (b'{"detail":"Not Found"}', "Not Found"),
        (VALIDATION, "body.n: too big; bad"),
        (b'"text"', "text"),
        (b"Internal Server Error", "Internal Server Error"),
        (b'{"a":1}', '{"a":1}'),
        (b"[1]", "[1]"),
        (b"", ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"error":{"message":null},"message":"m"}', "m"),
    ],
)
def test_message_of(body: bytes, message: str) -> None:
    """The readable text of every shape that workers use."""
    assert message == message_of(body)


def test_message_of_is_bounded() -> None:
    """Long texts are cut, deep ones are shown as they are."""
    assert 4096 == len(message_of(b"x" * 100_000))
    assert message_of(b'{"error":' * 900 + b"1" + b"}" * 900).startswith('{"error":')


@pytest.mark.parametrize(
    "message",
    [
        "Decode transfer failed for request rank=0 with exception",
        "Lost connection with prefill instance (bootstrap_addr: 10.0.0.1:1)",
        "Prefill bootstrap failed for request rank=0",
        "Decode handshake failed for request rank=0",
        "Prefill transfer failed for request",
        "KVTransferError(bootstrap_room=7): Aborted by AbortReq.",
    ],
)
def test_peer_death(message: str) -> None:
    """Reports of a failed handover are known."""
    assert is_peer_death(message)


def test_own_failure_is_not_peer_death() -> None:
    """Another error is the worker's own."""
    assert not is_peer_death("CUDA out of memory")

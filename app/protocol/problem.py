"""The one error shape, written for clients and read from workers."""

from __future__ import annotations

import orjson

from app.errors import GatewayError
from app.protocol import sse

_MAX_MESSAGE_CHARS = 4096


def error_body(error: GatewayError) -> bytes:
    """Writes the OpenAI error object; ``leg`` is there only when a leg failed."""
    members: dict[str, object] = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    if error.leg is not None:
        members["leg"] = error.leg
    return orjson.dumps({"error": members})


def error_event(error: GatewayError, at_border: bool) -> bytes:
    """Writes the error as the last event of a stream.

    Args:
        error: What ended the stream.
        at_border: The bytes sent so far end with a complete event. If not, a blank line comes
            first, so that the error does not become part of the event that was cut.
    """
    event = sse.encode(error_body(error))
    return event if at_border else b"\n\n" + event


def message_of(worker_body: bytes) -> str:
    """Lifts the readable text out of a worker's error reply.

    Knows the shapes of SGLang (``error.message``, ``message``), of FastAPI (``detail``) and
    plain text.

    Returns:
        At most 4,096 characters; empty if the worker said nothing. Never raises.
    """
    try:
        found = text_in(orjson.loads(worker_body))
    except ValueError:
        found = None
    if found is None:
        # Four bytes a character at most: no need to decode the rest of a large page.
        found = worker_body[: 4 * _MAX_MESSAGE_CHARS].decode("utf-8", "replace")
    return found.strip()[:_MAX_MESSAGE_CHARS]


def text_in(document: object, depth: int = 4) -> str | None:
    """Finds the message in a parsed error reply, or in the value of its ``error`` key.

    Args:
        document: Parsed JSON of any shape.
        depth: How many objects deep to look; a worker's answer is not trusted to be shallow.
    """
    if isinstance(document, str):
        return document
    if not isinstance(document, dict) or depth == 0:
        return None
    for key in ("error", "message", "detail"):
        value = document.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, dict) and (inner := text_in(value, depth - 1)):
            return inner
        if isinstance(value, list) and (listed := _text_in_list(value)):
            return listed
    return None


def _text_in_list(items: list[object]) -> str | None:
    """Joins FastAPI's validation findings, each ``{"loc": [...], "msg": ...}``."""
    texts: list[str] = []
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("msg"), str):
            place = item.get("loc")
            prefix = ".".join(map(str, place)) + ": " if isinstance(place, list) and place else ""
            texts.append(prefix + str(item["msg"]))
        elif isinstance(item, str):
            texts.append(item)
    return "; ".join(texts) or None

"""Finding the failure in an answer that began with status 200.

SGLang ends an aborted generation with ``finish_reason`` ``"abort"`` (chat and completions) or
``{"type": "abort", "message": ...}`` (generate). A streamed answer has its status before the
engine has looked at the request, so engine failures come as events: ``{"error": {...,
"code": 500}}``, or for generate an abort with ``status_code``. vLLM knows ``"error"`` as a
finish reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.protocol.problem import text_in
from app.protocol.sse import EventSplitter, data_of
from app.protocol.wire_json import Json, JsonObject, loads_or_none

_BAD_ENDINGS = ("abort", "error")
_MAX_MESSAGE_CHARS = 4096
_UNNAMED_ERROR = "The worker reported an error without a message."


@dataclass(frozen=True, slots=True)
class Fault:
    """What a worker said went wrong.

    Attributes:
        message: Its words, at most 4,096 characters.
        status: The HTTP status it would have answered with, 400 .. 599; ``None`` if it names none,
            as for a generation that somebody aborted.
    """

    message: str
    status: int | None


def fault_in_body(document: Json) -> Fault | None:
    """The first abort or error of a parsed answer, or ``None``.

    Args:
        document: A whole body, or the data of one event; a list is a batch.
    """
    for item in document if isinstance(document, list) else (document,):
        if isinstance(item, dict) and (found := _fault_in(item)):
            return found
    return None


def may_hold_fault(text: bytes) -> bool:
    """Whether a body or some events must be parsed to know that nothing went wrong."""
    return b'"abort"' in text or b'"error"' in text


def find_fault(events: bytes) -> Fault | None:
    """The first abort or error of some whole events, or ``None``.

    A substring search decides for nearly every event; only a hit is parsed.
    """
    if not may_hold_fault(events):
        return None
    for event in EventSplitter().feed(events + b"\n\n"):
        if found := fault_in_body(loads_or_none(data_of(event))):
            return found
    return None


def _fault_in(document: JsonObject) -> Fault | None:
    error = document.get("error")
    if error or document.get("object") == "error":
        source = error if isinstance(error, dict) else document
        return _fault(text_in(document), source.get("code"))
    meta_info = document.get("meta_info")
    if isinstance(meta_info, dict):
        return _bad_ending(meta_info.get("finish_reason"))
    choices = document.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and (found := _bad_ending(choice.get("finish_reason"))):
            return found
    return None


def _bad_ending(finish_reason: Json) -> Fault | None:
    status = message = None
    if isinstance(finish_reason, dict):
        message, status = finish_reason.get("message"), finish_reason.get("status_code")
        finish_reason = finish_reason.get("type")
    if finish_reason not in _BAD_ENDINGS:
        return None
    if not isinstance(message, str) or not message:
        message = f"The worker ended the generation with finish reason {finish_reason!r}."
    return _fault(message, status)


def _fault(message: str | None, status: Json) -> Fault:
    is_status = type(status) is int and 400 <= status <= 599
    return Fault(
        (message or _UNNAMED_ERROR).strip()[:_MAX_MESSAGE_CHARS], status if is_status else None
    )

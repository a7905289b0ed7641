"""Finding the failure in an answer that began with status 200.

SGLang ends an aborted generation with ``finish_reason`` ``"abort"`` (chat and completions) or
``{"type": "abort", "message": ...}`` (generate), and reports an error in the middle of a stream
as an event ``{"error": {...}}``. vLLM knows ``"error"`` as a finish reason.
"""

from __future__ import annotations

from app.protocol.problem import text_in
from app.protocol.sse import EventSplitter, data_of
from app.protocol.wire_json import Json, JsonObject, loads_or_none

_BAD_ENDINGS = ("abort", "error")
_UNNAMED_ERROR = "The worker reported an error without a message."


def abort_in_body(document: Json) -> str | None:
    """The worker's message if a parsed answer holds an abort or an error, else ``None``.

    Args:
        document: A whole body, or the data of one event; a list is a batch.
    """
    for item in document if isinstance(document, list) else (document,):
        if isinstance(item, dict) and (found := _fault_in(item)):
            return found
    return None


def _fault_in(document: JsonObject) -> str | None:
    if document.get("error") or document.get("object") == "error":
        return text_in(document) or _UNNAMED_ERROR
    meta_info = document.get("meta_info")
    if isinstance(meta_info, dict):
        return _bad_ending(meta_info.get("finish_reason"))
    choices = document.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and (found := _bad_ending(choice.get("finish_reason"))):
            return found
    return None


def find_abort(chunk: bytes) -> str | None:
    """The worker's message if one of the chunk's complete events is an abort or an error.

    A substring search decides for nearly every chunk; only a hit is parsed. An event that the
    chunk holds only a part of is not seen: ``FaultWatch`` does that.
    """
    if b'"abort"' not in chunk and b'"error"' not in chunk:
        return None
    for event in EventSplitter().feed(chunk + b"\n\n"):
        if found := abort_in_body(loads_or_none(data_of(event))):
            return found
    return None


def is_error_event(data: bytes) -> str | None:
    """The message if an event's data is an error object, else ``None``."""
    if b'"error"' not in data:
        return None
    document = loads_or_none(data)
    if isinstance(document, dict) and (document.get("error") or document.get("object") == "error"):
        return text_in(document) or _UNNAMED_ERROR
    return None


class FaultWatch:
    """Watches a relayed stream for aborts and errors, across the borders of chunks.

    While chunks end where events end, as workers write them, it keeps nothing.
    """

    __slots__ = ("_cut", "_n_searched")

    def __init__(self) -> None:
        self._cut = bytearray()
        self._n_searched = 0

    def feed(self, chunk: bytes) -> str | None:
        """Takes the next bytes; returns the message of the first fault they complete."""
        cut = self._cut
        if not cut and chunk.endswith((b"\n\n", b"\n\r\n")):
            return find_abort(chunk)
        cut += chunk
        lf = cut.rfind(b"\n\n", self._n_searched)
        crlf = cut.rfind(b"\n\r\n", self._n_searched)
        end = max(lf + 2 if lf >= 0 else 0, crlf + 3 if crlf >= 0 else 0)
        complete = bytes(cut[:end])
        del cut[:end]
        # A border may have begun in the last two bytes.
        self._n_searched = max(0, len(cut) - 2)
        return find_abort(complete) if complete else None


def _bad_ending(finish_reason: Json) -> str | None:
    if isinstance(finish_reason, dict):
        if finish_reason.get("type") not in _BAD_ENDINGS:
            return None
        message = finish_reason.get("message")
        if isinstance(message, str) and message:
            return message
        finish_reason = finish_reason["type"]
    if finish_reason not in _BAD_ENDINGS:
        return None
    return f"The worker ended the generation with finish reason {finish_reason!r}."

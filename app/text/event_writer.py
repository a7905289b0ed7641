"""Events of an OpenAI stream, written from parts that are made once a request."""

from __future__ import annotations

import orjson

from app.protocol import sse
from app.protocol.wire_json import JsonObject

_NULL = b"null"


class EventWriter:
    """Writes events of one stream.

    Args:
        head: The members every event repeats: id, object, created, model.
        n_slots: How many choices there are.
        has_usage: Every event has a usage member, null until the last, as OpenAI sends it.

    Attributes:
        quick_tail: Ends an event that has neither logprobs nor an end nor usage.
    """

    __slots__ = ("_heads", "_shared", "_tail", "quick_tail")

    def __init__(self, head: JsonObject, n_slots: int, *, has_usage: bool) -> None:
        self._shared = b"data: " + orjson.dumps(head)[:-1]
        self._heads = [self._shared + b',"choices":[{"index":%d,' % slot for slot in range(n_slots)]
        self._tail = b',"usage":null}\n\n' if has_usage else b"}\n\n"
        self.quick_tail = b',"logprobs":null,"finish_reason":null}]' + self._tail

    def quick_head(self, slot: int) -> bytes:
        """Begins an event of a choice, up to the choice's own members."""
        return self._heads[slot]

    def choice(
        self,
        slot: int,
        members: bytes,
        *,
        logprobs: bytes = _NULL,
        end: JsonObject | None = None,
        extra: JsonObject | None = None,
        usage: JsonObject | None = None,
        top: JsonObject | None = None,
    ) -> bytes:
        """Writes an event of one choice.

        Args:
            slot: The choice.
            members: What it gained, as JSON members.
            logprobs: As JSON.
            end: ``finish_reason`` and what belongs to it, in the choice's last event.
            extra: More members of the choice.
            usage: The usage so far, for every event if the client wants that.
            top: More members beside ``choices``.
        """
        parts = [self._heads[slot], members, b',"logprobs":', logprobs]
        parts.append(b',"finish_reason":null' if end is None else b"," + _members(end))
        if extra:
            parts += (b",", _members(extra))
        parts.append(b"}]")
        if top:
            parts += (b",", _members(top))
        if usage is None:
            parts.append(self._tail)
        else:
            parts += (b',"usage":', orjson.dumps(usage), b"}\n\n")
        return b"".join(parts)

    def end(self, usage: JsonObject | None) -> bytes:
        """Writes the end of the stream: usage, if it is wanted, and ``[DONE]``."""
        if usage is None:
            return sse.DONE
        return b"".join(
            (self._shared, b',"choices":[],"usage":', orjson.dumps(usage), b"}\n\n", sse.DONE)
        )


def _members(members: JsonObject) -> bytes:
    return orjson.dumps(members)[1:-1]

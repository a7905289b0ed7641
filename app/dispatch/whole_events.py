"""Cuts a byte stream at event borders without reading the events.

A worker may be cut inside an event. Passing only whole events on means that an error event can
follow at any time, and costs one ``endswith`` for each chunk of a well-behaved engine.
"""

from __future__ import annotations

from app.protocol.sse import ends_with_done

MAX_EVENT_BYTES = 16 * 1024 * 1024
_BORDERS = (b"\n\n", b"\n\r\n")


class EventTooLong(Exception):
    """A worker sent one event of more than 16 MiB."""


class WholeEvents:
    """Holds the unfinished end of a stream back.

    Attributes:
        ended_with_done: The last event so far was ``data: [DONE]``.
    """

    __slots__ = ("_rest", "ended_with_done")

    def __init__(self) -> None:
        self._rest = b""
        self.ended_with_done = False

    def feed(self, chunk: bytes) -> bytes:
        """Returns the bytes up to the last event border, which may be none.

        Raises:
            EventTooLong: One event is larger than 16 MiB.
        """
        if self._rest:
            chunk = self._rest + chunk
            self._rest = b""
        if not chunk.endswith(_BORDERS):
            border = chunk.rfind(b"\n\n")
            length = border + 2 if border >= 0 else 0
            crlf_border = chunk.rfind(b"\n\r\n")
            if crlf_border >= 0:
                length = max(length, crlf_border + 3)
            self._rest = chunk[length:]
            if len(self._rest) > MAX_EVENT_BYTES:
                raise EventTooLong
            chunk = chunk[:length]
        if chunk:
            self.ended_with_done = ends_with_done(chunk)
        return chunk

    def passes_whole(self, chunk: bytes) -> bool:
        """Whether :meth:`feed` would return a chunk as it is, and learn nothing from it."""
        return (
            chunk.endswith(_BORDERS)
            and not self._rest
            and b"[DONE]" not in chunk
            and not self.ended_with_done
        )

    @property
    def has_rest(self) -> bool:
        """Whether the stream stands inside an event."""
        return bool(self._rest.strip())

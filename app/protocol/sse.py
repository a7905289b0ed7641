"""Server-sent events: cutting a byte stream into events, and knowing where it stands.

An *event* is the bytes between two blank lines; its *data* is what stands behind ``data:``.
Workers end lines with LF or CR LF; both are taken, mixed too.
"""

from __future__ import annotations

import re

DONE = b"data: [DONE]\n\n"
"""The event that ends a complete stream of every generation route."""

DONE_DATA = b"[DONE]"

_DONE_LINE = b"data: [DONE]"
_BORDER = re.compile(rb"\r?\n\r?\n")
_BORDER_MAX_BYTES = 4


def encode(data: bytes) -> bytes:
    """Makes an event of data that holds no line break, as JSON never does."""
    return b"data: " + data + b"\n\n"


def data_of(event: bytes) -> bytes:
    """The event's data, several lines joined by LF; empty for a comment or another field."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    return b"\n".join(
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in event.splitlines()
        if line.startswith(b"data:")
    )


def ends_with_done(events: bytes) -> bool:
    """Whether the last of some whole events is ``data: [DONE]``, and does not merely end so."""
    tail = events[-64:].rstrip()
    return tail.endswith(_DONE_LINE) and tail[-13:-12] in (b"", b"\n")


class EventSplitter:
    """Cuts a stream into events, however the bytes were split on their way."""

    __slots__ = ("_buffer", "_scanned")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Takes bytes as they came.

        Returns:
            The events that are now complete, without their blank line; empty ones are left out.
        """
        buffer = self._buffer
        buffer += chunk
        events: list[bytes] = []
        start = 0
        # A border may have begun in the last bytes of what was scanned before.
        scan_from = max(0, self._scanned - (_BORDER_MAX_BYTES - 1))
        while (border := _BORDER.search(buffer, scan_from)) is not None:
            event = bytes(buffer[start : border.start()]).lstrip(b"\r\n")
            if event:
                events.append(event)
            start = scan_from = border.end()
        if start:
            del buffer[:start]
        self._scanned = len(buffer)
        return events

    @property
    def pending(self) -> bytes:
        """Bytes of an event that is not complete yet."""
        return bytes(self._buffer)

"""Messages between the processes of one gateway: batches of tuples over a Unix socket.

What is said within one turn of the loop goes out as one frame: its length in four bytes, then a
pickled list. What nobody waits for goes with the next frame that somebody waits for, or some
milliseconds later: a frame of its own costs a system call and, mostly, a wake-up on either side,
many times what is in it. Pickle, because both ends are one program, forked by one parent, and the
socket lies in a directory that only their user can enter: whoever could write to it could as well
attach a debugger.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from struct import Struct
from typing import Any, cast

Message = tuple[Any, ...]

_LENGTH = Struct("<I")
MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""Of a peer that takes nothing any more; then the connection is given up."""
NOTE_S = 0.002
"""Longest stay of what nobody waits for."""


class Wire(asyncio.Protocol):
    """One connection.

    Args:
        on_message: Called with each message, in the order in which they were said. What it
            raises ends the connection.
        on_end: Called once, when the connection has ended.

    Attributes:
        sums: Of what only the number matters, a number by name; said with whatever is said next,
            as ``sums``. Whoever adds to it says something soon.
        heard_s: When something came last, on the loop's clock.
    """

    def __init__(self, on_message: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._unsaid: list[Message] = []
        self.sums: dict[str, int] = {}
        self._is_flushing = self._has_alarm = False
        self._unread = bytearray()
        self.heard_s = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells that it is over."""
        del exc
        self._transport = None
        self._on_end()

    def tell(self, *message: Any) -> None:
        """Says something, at the end of this turn of the loop; nothing if it is over."""
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)
        self._unsaid.append(message)

    def note(self, *message: Any) -> None:
        """Says something that nobody waits for: before what is told next, or soon."""
        self._unsaid.append(message)
        if not self._is_flushing and not self._has_alarm:
            # It is left to ring once it is set: under load that costs less than to stop it.
            self._has_alarm = True
            self._loop.call_later(NOTE_S, self._ring)

    def _ring(self) -> None:
        self._has_alarm = False
        if not self._is_flushing:
            self._flush()

    def abort(self) -> None:
        """Ends the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        self._is_flushing = False
        said, self._unsaid = self._unsaid, []
        transport = self._transport
        if not said or transport is None:
            return
        if self.sums:
            said.append(("sums", self.sums.copy()))
            self.sums.clear()
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            transport.abort()
            return
        body = pickle.dumps(said, pickle.HIGHEST_PROTOCOL)
        transport.write(_LENGTH.pack(len(body)) + body)

    def data_received(self, data: bytes) -> None:
        """Reads whole frames."""
        self.heard_s = self._loop.time()
        unread = self._unread
        unread += data
        start, end = 0, len(unread)
        while end - start >= _LENGTH.size:
            stop = start + _LENGTH.size + _LENGTH.unpack_from(unread, start)[0]
            if stop > end:
                break
            with memoryview(unread) as view:
                said = pickle.loads(view[start + _LENGTH.size : stop])  # noqa: S301 - see above
            start = stop
            for message in said:
                self._on_message(message)
        del unread[:start]

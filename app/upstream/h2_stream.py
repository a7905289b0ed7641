"""One stream of an HTTP/2 connection: the messages of one gRPC call, as they come in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.upstream.failures import BrokenResponse, CallCancelled, UpstreamError
from app.upstream.h2_frames import DEFAULT_WINDOW_BYTES
from app.upstream.vllm_status import too_long

if TYPE_CHECKING:
    from app.upstream.h2_connection import H2Connection

PREFIX_BYTES = 5
"""Before each message: whether it is compressed (one byte), and its length (four)."""
_CREDIT_BYTES = DEFAULT_WINDOW_BYTES // 2
"""Bytes that were taken before the worker is told that it may send as many again."""


Sink = Callable[[list[bytes]], bool]
"""Takes all of these messages and says so, or takes none."""


class H2Stream:
    """Made for one call; has its number once the call's first byte is written.

    The worker may be ahead of the reader by one window (64 KiB) and one message: what was
    received counts as open until the reader took the messages, or waits for the rest of one.

    Args:
        connection: Where it is sent.
        max_message_bytes: Longest message that is taken.

    Attributes:
        id: Odd, growing; 0 before it is open.
        n_window_bytes: By how much the worker takes more than it lets every stream begin with;
            mostly negative (RFC 9113, section 6.9.2).
        is_over: Nothing more comes.
        failure: Why it is over; None: as it should be.
        is_head_read: The answer's first headers came.
        is_refused: The worker says that it did nothing with it, so that it may be sent again.
        has_sent_all: Nothing more is to be written.
        room: Done when there may be room for more bytes; set by who writes.
        n_held_bytes: Received, and not yet given back to the worker's window.
    """

    __slots__ = (
        "_connection",
        "_max_message_bytes",
        "_messages",
        "_n_wanted_bytes",
        "_part",
        "_sink",
        "_waiter",
        "failure",
        "has_sent_all",
        "id",
        "is_head_read",
        "is_over",
        "is_refused",
        "n_held_bytes",
        "n_window_bytes",
        "room",
    )

    def __init__(self, connection: H2Connection, max_message_bytes: int) -> None:
        self._connection = connection
        self._max_message_bytes = max_message_bytes
        self._messages: list[bytes] = []
        self._part = bytearray()
        self._n_wanted_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self.id = 0
        self.n_window_bytes = 0
        self.is_over = self.is_refused = False
        self.is_head_read = self.has_sent_all = False
        self.failure: BaseException | None = None
        self.room: asyncio.Future[None] | None = None
        self.n_held_bytes = 0

    # ---- who reads

    async def read(self, sink: Sink | None = None) -> list[bytes]:
        """Returns all messages that are there, once there is one; none at the proper end.

        Args:
            sink: Is offered the messages that come meanwhile; those that it takes are not
                returned, and nobody is woken for them.

        Raises:
            UpstreamError: The call failed.
            CallCancelled: It was ended by this side.
        """
        while not self._messages:
            if self.is_over:
                failure, self.failure = self.failure, None
                if failure is None:
                    return []
                try:
                    raise failure
                finally:
                    # The frame must not keep the error that keeps the frame.
                    del failure
            self._waiter = asyncio.get_running_loop().create_future()
            self._sink = sink
            try:
                await self._waiter
            finally:
                self._waiter = self._sink = None
        messages, self._messages = self._messages, []
        if self.n_held_bytes >= _CREDIT_BYTES:
            self._connection.give_credit(self)
        return messages

    def cancel(self) -> None:
        """Ends the call; the worker is told unless it has ended. Again is harmless."""
        self._connection.leave(self)
        self.end(CallCancelled())
        # Whoever cancels reads nothing more.
        self._messages = []

    # ---- the connection

    def feed(self, data: bytes, n_counted: int) -> UpstreamError | None:
        """Takes a piece of the answer's body; returns why the call cannot go on."""
        self.n_held_bytes += n_counted
        part = self._part
        if part:
            part += data
            if len(part) < self._n_wanted_bytes:
                self._accept_part()
                return None
            data, self._part = bytes(part), bytearray()
        at, end = 0, len(data)
        while end - at >= PREFIX_BYTES:
            if data[at]:
                return BrokenResponse(
                    "The worker sent a compressed message, which the gateway does not take."
                )
            n_bytes = int.from_bytes(data[at + 1 : at + PREFIX_BYTES], "big")
            if n_bytes > self._max_message_bytes:
                return too_long()
            stop = at + PREFIX_BYTES + n_bytes
            if stop > end:
                self._n_wanted_bytes = stop - at
                break
            self._messages.append(data[at + PREFIX_BYTES : stop])
            at = stop
        else:
            self._n_wanted_bytes = PREFIX_BYTES
        if at < end:
            self._part = bytearray(data[at:])
        if not self._messages:
            self._accept_part()
        else:
            self._hand_on()
        return None

    def _hand_on(self) -> None:
        """Gives messages to the sink of who waits for them, or wakes him."""
        sink, waiter = self._sink, self._waiter
        if sink is None or waiter is None or waiter.done() or not sink(self._messages):
            self._wake()
            return
        self._messages.clear()
        if self.n_held_bytes >= _CREDIT_BYTES:
            self._connection.give_credit(self)

    def _accept_part(self) -> None:
        """Lets the rest of a long message come while its reader has nothing else to read."""
        if self.n_held_bytes >= _CREDIT_BYTES and not self._messages:
            self._connection.give_credit(self)

    def end(self, failure: BaseException | None) -> None:
        """Nothing more comes; the first end counts. Messages that are there can still be read."""
        if self.is_over:
            return
        self.is_over = True
        if failure is None and self._part:
            failure = BrokenResponse("The worker ended the answer in the middle of a message.")
        self.failure = failure
        self._part = bytearray()
        self._wake()
        self.give_room()

    def give_room(self) -> None:
        """Lets who writes look again."""
        if self.room is not None and not self.room.done():
            self.room.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

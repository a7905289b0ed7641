"""How long a client may take, how it is timed, and how it is seen to read."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

from uvicorn.protocols.http.flow_control import FlowControl

MIN_BODY_BYTES_PER_S = 1024
"""A body may take its longest pause, and a second more for each of these bytes."""
MAX_LINGER_BYTES = 64 * 1024 * 1024
"""How much of such a body is read and thrown away before the connection is cut."""
MAX_KEPT_REST_BYTES = 64 * 1024
"""Up to so much of a refused body is read for the sake of keeping the connection."""

_TCP_INFO_BYTES = 128
_BYTES_ACKED = struct.Struct("=Q")
_BYTES_ACKED_AT = 120
"""Where ``tcpi_bytes_acked`` stands in Linux's ``struct tcp_info`` since 4.1."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How long a client may take for what, in seconds.

    Attributes:
        head_s: From the first byte of a head, or from connecting, to the head's end.
        idle_s: From the end of an answer to the first byte of the next head.
        body_stall_s: Between two pieces of a body.
        write_stall_s: Between two bytes that it takes of its answer, while some wait for it.
        linger_s: For going on to send a body that was refused.
    """

    head_s: float = 10.0
    idle_s: float = 90.0
    body_stall_s: float = 30.0
    write_stall_s: float = 60.0
    linger_s: float = 10.0


class Alarm:
    """One timer of a connection, which is only moved to go off earlier.

    A request moves it not at all: it goes off where an earlier request left it, and whoever is
    woken looks at the clock. Setting and cancelling a timer costs each request 4 us.

    Args:
        loop: Whose clock counts.
        on_due: Called at the time that was set, or earlier.
    """

    __slots__ = ("_at_s", "_handle", "_loop", "_on_due")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._at_s = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def by(self, at_s: float) -> None:
        """Goes off at this time of the loop's clock, or has been set to an earlier one."""
        if at_s < self._at_s:
            self.cancel()
            self._at_s = at_s
            self._handle = self._loop.call_at(at_s, self._go_off)

    def cancel(self) -> None:
        """Does not go off."""
        self._at_s = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _go_off(self) -> None:
        self._at_s = math.inf
        self._handle = None
        self._on_due()


class ClientFlow(FlowControl):
    """uvicorn's, which also tells when reading goes on: until then the client was held up by us.

    Args:
        transport: The connection.
        on_read_on: Called when reading goes on.
    """

    def __init__(self, transport: asyncio.Transport, on_read_on: Callable[[], None]) -> None:
        super().__init__(transport)
        self._on_read_on = on_read_on

    def resume_reading(self) -> None:
        """Reads on."""
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()
            self._on_read_on()


class Taking:
    """Watches whether a client takes what waits for it.

    What waits in this process is a bad measure: Linux asks for more only when a third of the
    socket's buffer is free, and that buffer grows to 4 MB. So the bytes that the client's side
    has acknowledged are counted, where the system tells.

    Args:
        wire: The connection.
    """

    __slots__ = ("_n_taken", "_since_s", "_wire")

    def __init__(self, wire: asyncio.Transport) -> None:
        self._wire = wire
        self._n_taken = 0
        self._since_s = math.inf

    def stalled_s(self, now_s: float) -> float:
        """Returns for how long nothing was taken, as far as was looked; at first that is 0."""
        n_taken = self._count()
        if n_taken != self._n_taken or self._since_s == math.inf:
            self._n_taken = n_taken
            self._since_s = now_s
        return now_s - self._since_s

    def forget(self) -> None:
        """Nothing waits any more."""
        self._since_s = math.inf

    def _count(self) -> int:
        connection = self._wire.get_extra_info("socket")
        if sys.platform == "linux" and connection is not None:
            try:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            except OSError:
                # Not TCP, or closed under us.
                info = b""
            if len(info) == _TCP_INFO_BYTES:
                n_acked: int = _BYTES_ACKED.unpack_from(info, _BYTES_ACKED_AT)[0]
                return n_acked
        return -self._wire.get_write_buffer_size()

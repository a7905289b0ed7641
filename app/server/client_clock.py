"""How long a client may take for what.

The clock of a connection is one alarm. When it goes off, :meth:`TimedConnection._due` says what
the client is being waited for; requests only note a few times for it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from app.api.parts import Life
from app.errors import ClientStalled, RequestTimedOut
from app.observability.log import get_logger
from app.server.client_connection import ClientConnection
from app.server.client_limits import MIN_BODY_BYTES_PER_S, ClientFlow, Taking


class TimedConnection(ClientConnection):
    """A connection whose client cannot keep it for ever.

    Attributes:
        life: Whether the process is ending; another class has another one.
    """

    life = Life()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taking: Taking
        self._is_in_head = False
        self._n_body_bytes = 0
        # When a head began, a body began, anything came.
        self._head_s = self._body_s = self._data_s = self._free_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts a connection and its clock."""
        super().connection_made(transport)
        self.flow = ClientFlow(transport, self._on_read_on)
        self._taking = Taking(transport)
        self._alarm.by(self._free_s + self.limits.head_s)

    def on_response_complete(self) -> None:
        """An answer ended; in place of uvicorn's, which sets and cancels a timer each time."""
        self.server_state.total_requests += 1
        if self._is_lingering or self._wire.is_closing():
            return
        now_s = self._free_s = self._data_s = self._now_s()
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            self._alarm.by(now_s + self.limits.body_stall_s)
        else:
            self._alarm.by(self._due(now_s)[0])

    def pause_writing(self) -> None:
        """More waits for the client than may: is it still reading?"""
        super().pause_writing()
        now_s = self._now_s()
        self._taking.stalled_s(now_s)
        self._alarm.by(now_s + self.limits.write_stall_s / 4)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        self._client.writer = cycle
        self._body_s = self._data_s
        if self.life.is_ending:
            cycle.keep_alive = False
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _on_alarm(self) -> None:
        now_s = self._now_s()
        if self.flow.write_paused or self._wire.get_write_buffer_size():
            stalled_s = self._taking.stalled_s(now_s)
            if stalled_s < self.limits.write_stall_s:
                self._alarm.by(now_s + self.limits.write_stall_s / 4)
            else:
                self._cut_off(stalled_s)
            return
        self._taking.forget()
        due_s, give_up = self._due(now_s)
        if due_s > now_s:
            self._alarm.by(due_s)
        else:
            give_up()

    def _due(self, now_s: float) -> tuple[float, Callable[[], None]]:
        """When to stop waiting for the client (infinity: it is not its turn), and what then."""
        limits, running, cycle = self.limits, self._running, self.cycle
        if self._is_lingering:
            return self._free_s + limits.linger_s, self._close_wire
        if running is not None and not running.response_complete:
            if running is not cycle or not running.more_body or self.flow.read_paused:
                return math.inf, self._close_wire
            if running.waiting_for_100_continue:
                # It waits for our word before it sends.
                self._body_s = self._data_s = now_s
                return now_s + limits.body_stall_s / 4, self._time_out_body
            slowest_s = self._body_s + self._n_body_bytes / MIN_BODY_BYTES_PER_S
            return min(self._data_s, slowest_s) + limits.body_stall_s, self._time_out_body
        if cycle is not None and cycle.more_body:
            # The rest of a body that was refused.
            return self._free_s + limits.linger_s, self._close_wire
        if self._is_in_head:
            return max(self._free_s, self._head_s) + limits.head_s, self._time_out_head
        # A connection that was never used may be a spare one of a load balancer: no word.
        return self._free_s + (limits.head_s if cycle is None else limits.idle_s), self._close_wire

    def _on_read_on(self) -> None:
        """Until now the body waited for us."""
        now_s = self._data_s = self._now_s()
        self._body_s = max(self._body_s, now_s - self._n_body_bytes / MIN_BODY_BYTES_PER_S)
        self._alarm.by(now_s + self.limits.body_stall_s)

    def _cut_off(self, stalled_s: float) -> None:
        scope = (self._running and self._running.scope) or {}
        get_logger("client").warning(
            "client stopped reading and was cut off",
            client=self.client and f"{self.client[0]}:{self.client[1]}",
            path=scope.get("path"),
            request_id=scope.get("state", {}).get("request_id"),
            stalled_s=round(stalled_s, 3),
        )
        self._why_gone = ClientStalled()
        self.cut()

    def _time_out_head(self) -> None:
        limit_s = self.limits.head_s
        message = f"The request's head was not complete after {limit_s:g} s."
        self._refuse(RequestTimedOut(message), lingers=False)

    def _time_out_body(self) -> None:
        limit_s = self.limits.body_stall_s
        message = (
            f"The request's body came too slowly: nothing for {limit_s:g} s, or less than "
            f"{MIN_BODY_BYTES_PER_S} bytes a second."
        )
        self._refuse(RequestTimedOut(message), lingers=False)

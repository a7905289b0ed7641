"""An open-loop load: requests begin when they are due, whatever became of those before.

A closed loop cannot overload anything: it waits for its answers. Connections are kept and used
again; one more is opened when all are busy.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

MAX_CONNECTIONS = 4000


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        begun_s: When the request was written, on the clock of ``time.monotonic``.
        took_s: Until the last byte of the answer.
        status: 0 when the connection broke.
        retry_after: Whether the header was there.
    """

    begun_s: float
    took_s: float
    status: int
    retry_after: bool = False


@dataclass(slots=True)
class Seen:
    """What a load came to.

    Attributes:
        answers: In the order in which they ended.
        n_begun: Requests that were due.
        n_not_sent: Of those, the ones for which the load had no connection left.
        lags_s: How late each was sent: above a few ms the load itself was short of CPU.
    """

    answers: list[Answer] = field(default_factory=list)
    n_begun: int = 0
    n_not_sent: int = 0
    lags_s: list[float] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    """One keep-alive connection; answers have a content-length."""

    def __init__(self, idle: list[_Connection]) -> None:
        self._idle = idle
        self._received = bytearray()
        self._waiting: asyncio.Future[Answer] | None = None
        self._begun_s = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is no subclass of it.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        self._settle(0, retry_after=False)

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Sends a request; the future always gets an answer."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._begun_s = time.monotonic()
        self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        """Drops the connection."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, border, body = bytes(self._received).partition(b"\r\n\r\n")
        if not border:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(x[15:]) for x in lines if x.startswith(b"content-length:")), 0)
        if len(body) < length:
            return
        self._received.clear()
        has_time = any(line.startswith(b"retry-after:") for line in lines)
        self._settle(int(lines[0][9:12]), retry_after=has_time)
        self._idle.append(self)

    def _settle(self, status: int, *, retry_after: bool) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            took_s = time.monotonic() - self._begun_s
            waiting.set_result(Answer(self._begun_s, took_s, status, retry_after))


class OpenLoop:
    """Requests to one port of this machine.

    Args:
        port: Of the gateway.
        request: Its bytes.
        seed: Of the times between arrivals.
    """

    def __init__(self, port: int, request: bytes, seed: int = 1) -> None:
        self._port = port
        self._request = request
        self._random = random.Random(seed)
        self._idle: list[_Connection] = []
        self._n_open = 0

    async def one(self) -> Answer | None:
        """One request; none when no connection is left for it."""
        if self._idle:
            connection = self._idle.pop()
        elif self._n_open >= MAX_CONNECTIONS:
            return None
        else:
            self._n_open += 1
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self._idle), "127.0.0.1", self._port
                )
            except OSError:
                self._n_open -= 1
                return Answer(time.monotonic(), 0.0, 0)
        return await connection.ask(self._request)

    async def run(self, rate_per_s: float, seconds: float) -> Seen:
        """Requests at random times, so many a second in the mean; waits for all answers."""
        seen = Seen()
        async with asyncio.TaskGroup() as tasks:
            begin_s = due_s = time.monotonic()
            while (due_s := due_s + self._random.expovariate(rate_per_s)) < begin_s + seconds:
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                seen.n_begun += 1
                seen.lags_s.append(time.monotonic() - due_s)
                tasks.create_task(self._note(seen))
        return seen

    async def closed(self, n_at_once: int, seconds: float) -> Seen:
        """So many requests at a time, each followed by the next: what can be had at most."""
        seen = Seen()
        end_s = time.monotonic() + seconds

        async def keep_asking() -> None:
            while time.monotonic() < end_s:
                seen.n_begun += 1
                await self._note(seen)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(n_at_once):
                tasks.create_task(keep_asking())
        return seen

    async def _note(self, seen: Seen) -> None:
        answer = await self.one()
        if answer is None:
            seen.n_not_sent += 1
        else:
            seen.answers.append(answer)

    @contextmanager
    def closing(self) -> Iterator[OpenLoop]:
        """Drops the connections in the end."""
        try:
            yield self
        finally:
            for connection in list(self._idle):
                connection.close()

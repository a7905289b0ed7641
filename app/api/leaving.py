"""Ends a request when its client leaves, or when the gateway cannot wait for its end.

uvicorn's ``send`` after a disconnect is a silent no-op (ASGI 2.3), so somebody has to notice, or
the workers would generate for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

from starlette.types import Receive

from app.errors import ClientGone


class Writer(Protocol):
    """Writes an answer at once, or says that it cannot now: then it has written nothing."""

    def answer(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, is_whole: bool
    ) -> bool:
        """Writes the head and the first piece of an answer, or all of it."""

    def push(self, body: bytes) -> bool:
        """Writes a further piece of a streamed one."""


class Client:
    """The client of a connection, told of by the gateway's own server.

    The server also ends requests by it, when the process stops.

    A task that waits for ``http.disconnect`` would cost every request 15 us to learn that its
    client stayed.

    Attributes:
        reason: Why its requests are to end; ``None``: they may go on.
        writer: Writes the answer of the request that runs, past the layers; ``None``: nothing does.
    """

    __slots__ = ("_callbacks", "reason", "writer")

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self.writer: Writer | None = None
        self._callbacks: set[Callable[[Exception], None]] = set()

    @property
    def is_watched(self) -> bool:
        """A request would notice, and answer in its own way."""
        return bool(self._callbacks)

    def watch(self, callback: Callable[[Exception], None]) -> None:
        """Has a callback called when the request is to end; at once if it is already."""
        self._callbacks.add(callback)
        if self.reason is not None:
            callback(self.reason)

    def unwatch(self, callback: Callable[[Exception], None]) -> None:
        """Forgets a callback."""
        self._callbacks.discard(callback)

    def stop(self, reason: Exception) -> None:
        """Ends the requests: with ``ClientGone``, or with an error that the client is told."""
        self.reason = reason
        for callback in list(self._callbacks):
            callback(reason)


class leaving:  # noqa: N801 - used as a statement, like contextlib.suppress
    """While it lasts, a client that leaves fails the request's task group with ``ClientGone``.

    So does the server that stops, with its own error. The gateway's own server calls back when a
    connection is lost; under another server a task waits for ``http.disconnect``.

    Args:
        state: The ``state`` of the request's scope.
        receive: The request's messages, its body read.
        request: The request's task group.
    """

    __slots__ = ("_client", "_receive", "_request", "_task")

    def __init__(self, state: dict[str, Any], receive: Receive, request: asyncio.TaskGroup) -> None:
        self._receive = receive
        self._request = request
        self._client: Client | None = state.get("client")
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        if self._client is None:
            self._task = self._request.create_task(self._wait())
        else:
            self._client.watch(self._on_stop)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.unwatch(self._on_stop)
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _on_stop(self, reason: Exception) -> None:
        news = _fail(reason)
        try:
            self._request.create_task(news)
        except RuntimeError:
            # The request is ending for another reason already.
            news.close()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        raise ClientGone


async def _fail(reason: Exception) -> None:
    raise reason

"""Ends a request when its client leaves.

uvicorn's ``send`` after a disconnect is a silent no-op (ASGI 2.3), so somebody has to notice, or
the workers would generate for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

from starlette.types import Receive

from app.errors import ClientGone


class Client:
    """The client of a connection, told of by the gateway's own server.

    A task that waits for ``http.disconnect`` would cost every request 15 us to learn that its
    client stayed.

    Attributes:
        is_gone: The connection is lost.
    """

    __slots__ = ("_callbacks", "is_gone")

    def __init__(self) -> None:
        self.is_gone = False
        self._callbacks: set[Callable[[], None]] = set()

    def watch(self, callback: Callable[[], None]) -> None:
        """Has a callback called when the client leaves; at once if it has left."""
        self._callbacks.add(callback)
        if self.is_gone:
            callback()

    def unwatch(self, callback: Callable[[], None]) -> None:
        """Forgets a callback."""
        self._callbacks.discard(callback)

    def leave(self) -> None:
        """The connection is lost."""
        self.is_gone = True
        for callback in list(self._callbacks):
            callback()


class leaving:  # noqa: N801 - used as a statement, like contextlib.suppress
    """While it lasts, a client that leaves fails the request's task group with ``ClientGone``.

    The gateway's own server calls back when a connection is lost; under another server a task
    waits for ``http.disconnect``.

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
            self._client.watch(self._on_gone)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.unwatch(self._on_gone)
        if self._task is not None:
            self._task.cancel()

    def _on_gone(self) -> None:
        news = _leave()
        try:
            self._request.create_task(news)
        except RuntimeError:
            # The request is ending for another reason already.
            news.close()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        raise ClientGone


async def _leave() -> None:
    raise ClientGone

"""Gives up legs that nobody waits for any more.

SGLang notices a closed socket only after up to 4 s (0.5.23), so a leg is ended by POST
``/abort_request`` with its request ids, then by closing its connection. The request that gave it
up does not wait for that: the reaper's own task group does, bounded in time and number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from app.errors import ShuttingDown
from app.protocol.engine import EngineRequest
from app.upstream.clients import WorkerClients
from app.upstream.failures import UpstreamError
from app.upstream.http1 import Exchange
from app.workers.worker import Worker

MAX_PENDING = 4096
ABORT_TIMEOUT_S = 2.0
MAX_RELEASERS = 3
"""Decode workers that are tried in turn to have blocks freed."""
DRAIN_TIMEOUT_S = 60.0
MAX_DRAIN_BYTES = 64 * 1024 * 1024

T = TypeVar("T")


class LegReaper:
    """Ends legs after their request has left.

    Args:
        clients: Where the abort calls go.
    """

    def __init__(self, clients: WorkerClients) -> None:
        self._clients = clients
        self._group: asyncio.TaskGroup | None = None
        self._closing = asyncio.Event()
        self._draining: set[Exchange] = set()
        self.n_pending = 0

    async def run(self) -> None:
        """Owns the pending legs until :meth:`close`; one task of the application's group."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await self._closing.wait()
            finally:
                self._group = None

    def close(self) -> None:
        """Ends :meth:`run` once the pending aborts are through; later legs are closed at once.

        Legs that are read to their end for their connection's sake are not waited for.
        """
        self._closing.set()
        for exchange in tuple(self._draining):
            exchange.close()

    def give_up(self, worker: Worker, rids: Sequence[str], exchange: Exchange) -> None:
        """Aborts a leg at its engine, then closes its connection."""
        if exchange.done or not exchange.sent:
            exchange.close()
            return
        self._start(self._abort(worker, rids, exchange), exchange.close)

    def drain(self, exchange: Exchange) -> None:
        """Reads a leg to its end so that its connection can be used again."""
        if exchange.done:
            exchange.close()
            return
        self._start(self._read_to_end(exchange), exchange.close)

    def release_blocks(self, workers: Sequence[Worker], request: EngineRequest) -> None:
        """Has KV blocks freed that a finished prefill holds and that nobody will read.

        There is no call for that; but a decode leg that ends before its first token makes the
        engine tell the prefill worker (vLLM 0.32). If it cannot be sent, the blocks' lease ends.

        Args:
            workers: Decode workers; the first that can be reached gets it.
            request: The decode leg, with the handoff and for any rank.
        """
        self._start(self._release(workers, request), _nothing)

    def adopt(self, opening: Coroutine[Any, Any, T]) -> asyncio.Task[T | Exception]:
        """Runs the begin of a leg in a task that does not end with its request.

        Whoever leaves it before it is done owes it a :meth:`leave`.

        Args:
            opening: What it raises becomes its result, for whoever still waits.

        Raises:
            ShuttingDown: The gateway ends.
        """
        if self._group is None:
            opening.close()
            raise ShuttingDown("The gateway is ending; ask again.", retry_after_s=1)
        return self._group.create_task(_outcome(opening))

    def leave(
        self,
        opening: asyncio.Task[Any],
        cancel: Callable[[], None],
        end: Callable[[], Awaitable[object]],
    ) -> None:
        """Ends a leg on a vLLM worker whose request has left.

        Args:
            opening: Reads the leg, adopted here.
            cancel: Cancels its call.
            end: Has the engine end it, see :meth:`app.upstream.vllm_worker.VllmWorker.end`.
        """
        self._start(self._leave(opening, cancel, end), cancel)

    def _start(self, ending: Coroutine[Any, Any, None], close: Callable[[], None]) -> None:
        if self._group is None or self.n_pending >= MAX_PENDING:
            ending.close()
            close()
            return
        self.n_pending += 1
        self._group.create_task(ending)

    async def _release(self, workers: Sequence[Worker], request: EngineRequest) -> None:
        try:
            for worker in workers[:MAX_RELEASERS]:
                if await self._clients.vllm(worker).release(request):
                    return
        finally:
            self.n_pending -= 1

    async def _leave(
        self,
        opening: asyncio.Task[Any],
        cancel: Callable[[], None],
        end: Callable[[], Awaitable[object]],
    ) -> None:
        try:
            await end()
        finally:
            cancel()
            opening.cancel()
            self.n_pending -= 1

    async def _abort(self, worker: Worker, rids: Sequence[str], exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(ABORT_TIMEOUT_S):
                await self._clients.get(worker).abort(rids)
        except (TimeoutError, UpstreamError):
            # Closing the connection is the second, slower way to the same end.
            pass
        finally:
            exchange.close()
            self.n_pending -= 1

    async def _read_to_end(self, exchange: Exchange) -> None:
        self._draining.add(exchange)
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await exchange.head()
                await exchange.read(MAX_DRAIN_BYTES)
        except (TimeoutError, UpstreamError):
            # The request was answered long ago; the connection is just not kept.
            pass
        finally:
            self._draining.discard(exchange)
            exchange.close()
            self.n_pending -= 1


async def _outcome(opening: Coroutine[Any, Any, T]) -> T | Exception:
    try:
        return await opening
    except Exception as error:  # noqa: BLE001 - whoever waits for it raises it
        return error


def _nothing() -> None:
    """There is nothing to close."""

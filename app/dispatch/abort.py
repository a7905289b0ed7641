"""Gives up legs that nobody waits for any more.

SGLang notices a closed socket only after up to 4 s (0.5.23), so a leg is ended by POST
``/abort_request`` with its request ids, then by closing its connection. The request that gave it
up does not wait for that: the reaper's own task group does, bounded in time and number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from app.upstream.clients import WorkerClients
from app.upstream.failures import UpstreamError
from app.upstream.http1 import Exchange
from app.workers.worker import Worker

MAX_PENDING = 4096
ABORT_TIMEOUT_S = 2.0
DRAIN_TIMEOUT_S = 60.0
MAX_DRAIN_BYTES = 64 * 1024 * 1024


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
        self._start(self._abort(worker, rids, exchange), exchange)

    def drain(self, exchange: Exchange) -> None:
        """Reads a leg to its end so that its connection can be used again."""
        if exchange.done:
            exchange.close()
            return
        self._start(self._read_to_end(exchange), exchange)

    def _start(self, ending: Coroutine[Any, Any, None], exchange: Exchange) -> None:
        if self._group is None or self.n_pending >= MAX_PENDING:
            ending.close()
            exchange.close()
            return
        self.n_pending += 1
        self._group.create_task(ending)

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

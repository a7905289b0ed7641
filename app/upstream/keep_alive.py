"""How long a worker keeps an idle HTTP connection, measured."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from app.upstream.failures import UpstreamError
from app.upstream.http1 import Http1Pool

_LOOK_S = 0.02
_MAX_ANSWER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """What was seen of an idle connection.

    Attributes:
        watched_s: For how long it was idle, the connection's whole life if it was closed.
        is_closed: The worker closed it.
    """

    watched_s: float
    is_closed: bool


async def measure_keep_alive(
    worker: Http1Pool,
    path: str,
    *,
    answer_s: float,
    watch_s: float,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> KeepAlive | None:
    """Make one request on a connection of its own, then wait for the worker to close it.

    Args:
        worker: The worker's pool; its address and TLS settings are used, its connections not.
        path: What is asked first.
        answer_s: Longest silence before its answer.
        watch_s: Longest wait for the end.
        headers: Sent with the request.

    Returns:
        ``None`` if the request was not answered, so that nothing can be said.
    """
    pool = Http1Pool(
        worker.base_url,
        connect_timeout_s=worker.connect_timeout_s,
        idle_expiry_s=2 * watch_s + 60,
        ssl_context=worker.ssl_context,
    )
    loop = asyncio.get_running_loop()
    try:
        exchange = pool.exchange(b"GET", path.encode(), headers, silence_timeout_s=answer_s)
        try:
            await exchange.head()
            await exchange.read(_MAX_ANSWER_BYTES)
        except UpstreamError:
            return None
        finally:
            exchange.close()
        since_s = loop.time()
        # A pool tells nobody when a connection is gone.
        while pool.n_open and loop.time() - since_s < watch_s:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        return KeepAlive(loop.time() - since_s, is_closed=not pool.n_open)
    finally:
        await pool.aclose()

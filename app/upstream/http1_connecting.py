"""How a connection of a pool is made."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app.upstream.failures import ConnectFailed, ConnectTimeout, connect_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.upstream.connect_limit import ConnectLimit
    from app.upstream.http1 import Http1Pool
    from app.upstream.http1_connection import Http1Connection


async def made_connection(
    pool: Http1Pool,
    limit: ConnectLimit,
    limit_s: float,
    why_ended: Callable[[], BaseException | None],
) -> Http1Connection:
    """Make a connection; not a byte is sent on it.

    Args:
        pool: Whose it is.
        limit: Ends the attempt.
        limit_s: How long that is, for errors.
        why_ended: Returns what ended the attempt from this side, if anything did.

    Raises:
        ConnectFailed, ConnectTimeout: There is none.
        BaseException: What ``why_ended`` returned.
    """
    connection = pool.new_connection()
    where = f"{pool.host}:{pool.port}"
    try:
        async with limit:
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                pool.host,
                pool.port,
                ssl=pool.ssl_context,
                server_hostname=pool.host if pool.ssl_context is not None else None,
            )
        if (failure := why_ended()) is not None:
            raise failure
        # Over TLS unread bytes mean nothing yet: a worker sends tickets after the handshake.
        if connection.is_closing() or (pool.ssl_context is None and not connection.is_usable()):
            raise ConnectFailed(f"{where} closed the connection before the request was sent.")
    except BaseException as exc:
        pool.give_up(connection)
        if (failure := why_ended()) is not None and isinstance(exc, Exception):
            raise failure from None
        if isinstance(exc, TimeoutError):
            raise ConnectTimeout(f"No connection to {where} within {limit_s:g} s.") from exc
        if isinstance(exc, (OSError, UnicodeError)):
            raise connect_failure(where, exc) from exc
        raise
    return connection

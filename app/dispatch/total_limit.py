"""The limit on a request as a whole; nobody's fault, so nobody pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from app.dispatch.reply import Reply
from app.dispatch.retry import Attempts
from app.errors import LegTimedOut


@asynccontextmanager
async def within(
    opening: AbstractAsyncContextManager[Reply], limit_s: float, attempts: Attempts
) -> AsyncIterator[Reply]:
    """Ends a request that takes too long; its legs see a client that left.

    Args:
        opening: The request.
        limit_s: For all of it: choosing, retries, both legs, and the client's own reading.
        attempts: Its attempts.

    Raises:
        LegTimedOut: It took longer; names the leg that was awaited, and charges nobody.
    """
    limit = asyncio.timeout(limit_s)
    try:
        async with limit, opening as reply:
            yield reply
    except TimeoutError as error:
        if not limit.expired():
            raise
        late = LegTimedOut(
            f"the request took longer than {limit_s:g} s",
            leg=attempts.awaited_leg,
            code="request_timeout",
        )
        late.n_attempts = attempts.n_started
        raise late from error

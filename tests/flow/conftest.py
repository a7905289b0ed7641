"""Gateways and pairs for the flow tests; what they are is told in ``fleet``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.sim import sim_pair
from tests.flow.fleet import Fleet, serving


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Ends what a test started, in reverse."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def fleet(stack: AsyncExitStack) -> Fleet:
    """A gateway before one simulated pair."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    return await stack.enter_async_context(serving([prefill], [decode]))

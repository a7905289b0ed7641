"""A connection of a client for the tests of its clock and its ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.client_side import Side, turn


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    """A fresh connection; nothing of it is left."""
    side = Side()
    side.app.may_read.set()
    side.app.may_answer.set()
    yield side
    await side.ends()
    side.app.may_answer.set()
    await turn()
    assert [t for t in side.loop.timers if not t.is_cancelled] == []
    assert asyncio.all_tasks() == {asyncio.current_task()}

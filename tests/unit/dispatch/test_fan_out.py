"""The children of a fan-out, started together."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from app.dispatch import fan_out
from app.dispatch.reply import Prepared
from app.errors import LegBroken, LegUnreachable, WorkerError
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.upstream.http1 import encode_lines
from app.workers.worker import Role, Worker, WorkerSpec

BODY = orjson.dumps({"prompt": "a", "n": 2, "stream": True})
PREPARED = Prepared(peek(Route.COMPLETIONS, BODY), BODY, encode_lines([]))
DECODE = Worker(WorkerSpec("http://d:1", Role.DECODE))


class Child:
    """A call whose steps fail, hang or work."""

    def __init__(
        self, *, connect: WorkerError | None = None, start: WorkerError | bytes | None = None
    ) -> None:
        self._connect = connect
        self._start = start
        self.is_sent = False
        self.was_cancelled = False

    async def connect(self) -> None:
        """Sends nothing."""
        if self._connect is not None:
            raise self._connect

    async def start(self, legs: asyncio.TaskGroup) -> bytes:
        """Sends, unless it fails; without an answer it waits for ever."""
        if isinstance(self._start, WorkerError):
            await asyncio.sleep(0)
            raise self._start
        self.is_sent = True
        if self._start is not None:
            return self._start
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        raise AssertionError


@pytest.fixture(autouse=True)
def fake_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children take the place of calls."""
    monkeypatch.setattr(fan_out, "SglangCall", Child)


async def start(*children: Child) -> list[bytes]:
    """Starts the children, within bounds."""
    calls: Any = children
    async with asyncio.timeout(5), asyncio.TaskGroup() as legs:
        try:
            return await fan_out.start_all(calls, PREPARED, DECODE, legs)
        except WorkerError as error:
            # Out of the group it would be one of several.
            failure = error
    raise failure


def unreachable() -> LegUnreachable:
    """A connection that could not be had."""
    return LegUnreachable("gone", leg="decode", worker_id="d", is_unsent=True)


async def test_first_words_come_in_order() -> None:
    """One for each child, by child."""
    assert [b"a", b"b"] == await start(Child(start=b"a"), Child(start=b"b"))


async def test_nothing_is_sent_before_all_are_connected() -> None:
    """So the request may be tried elsewhere."""
    first = Child(start=b"a")
    with pytest.raises(LegUnreachable) as caught:
        await start(first, Child(connect=unreachable()))
    assert (True, False) == (caught.value.is_unsent, first.is_sent)


async def test_lost_connection_when_a_sibling_was_sent() -> None:
    """It ended between connect and send: the sibling may be in its engine already."""
    first = Child()
    with pytest.raises(LegUnreachable) as caught:
        await start(first, Child(start=unreachable()))
    assert (False, True, True) == (caught.value.is_unsent, first.is_sent, first.was_cancelled)


async def test_one_failure_ends_the_waiting_of_all() -> None:
    """The first failure is shown; its siblings are not waited for."""
    waiting = [Child(), Child()]
    error = LegBroken("cut", leg="prefill", worker_id="p")
    with pytest.raises(LegBroken) as caught:
        await start(waiting[0], Child(start=error), waiting[1])
    assert caught.value is error
    assert all(child.was_cancelled for child in waiting)

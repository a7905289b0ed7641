"""One call to a pair, on exchanges that allow one reader and stand still when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from app.dispatch.abort import LegReaper
from app.dispatch.leg_tools import LegTools
from app.dispatch.limits import LegLimits
from app.dispatch.reply import Prepared
from app.dispatch.sglang import SglangCall
from app.errors import LegBroken, LegRejected, LegTimedOut, LegUnreachable, WorkerError
from app.protocol.facts import peek
from app.protocol.routes import Route
from app.scheduling.reason import Choice, Reason
from app.scheduling.scheduler import Ask, Grant, Pair
from app.upstream.failures import BrokenResponse, ConnectFailed, SilenceTimeout
from app.upstream.http1 import Head, encode_lines
from app.workers.lease import Lease
from app.workers.worker import Role, Worker, WorkerSpec

WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


class OneReader:
    """An exchange whose events a test puts in; a second reader at a time is a failure."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[Any] = asyncio.Queue()
        self.connect_failure: Exception | None = None
        self.is_read = self.sent = self.done = self.is_closed = False
        self.limits: list[tuple[float, bool]] = []
        self.status = 0

    def take(self) -> bool:
        """As one of whose pool no connection is left."""
        return False

    async def connect(self) -> None:
        """Works, unless a failure was put in."""
        if self.connect_failure is not None:
            raise self.connect_failure

    async def _next(self) -> Any:
        assert not self.is_read, "two tasks read one exchange"
        assert not self.is_closed, "a closed exchange is read"
        self.is_read = True
        try:
            item = await self.coming.get()
        finally:
            self.is_read = False
        if isinstance(item, Exception):
            raise item
        return item

    async def head(self) -> Head:
        """The status that was put in."""
        self.sent = True
        self.status = self.status or await self._next()
        return Head(self.status, [])

    async def chunk(self, sink: object = None) -> bytes:
        """The next bytes; empty at the end."""
        data: bytes = await self._next()
        self.done = not data
        return data

    async def read(self, limit: int) -> bytes:
        """All bytes to the end."""
        parts = []
        while data := await self.chunk():
            parts.append(data)
        return b"".join(parts)

    def follow(self, *_: Any) -> bool:
        """As one whose connection was lost: it wants a task."""
        return False

    def unfollow(self) -> None:
        """Nobody follows."""

    def limit(self, limit_s: float, *, is_total: bool) -> None:
        """Notes it."""
        self.limits.append((limit_s, is_total))

    def fail(self, failure: Exception) -> None:
        """Ends it from another task."""
        self.coming.put_nowait(failure)

    def close(self) -> None:
        """Notes it."""
        assert not self.is_read, "an exchange is closed under its reader"
        self.is_closed = True


class Rig:
    """A call on two exchanges, with real leases, scheduler and reaper."""

    def __init__(self, *, stream: bool = True, **more: Any) -> None:
        self.prefill, self.decode = OneReader(), OneReader()
        self.aborted: list[str] = []
        pair = Pair(
            Worker(WorkerSpec("http://prefill:1", Role.PREFILL)),
            Worker(WorkerSpec("http://decode:1", Role.DECODE)),
        )
        body = orjson.dumps({"prompt": "a", "stream": stream, **more})
        prepared = Prepared(peek(Route.COMPLETIONS, body), body, encode_lines([]))
        leases = Lease(pair.prefill, 0), Lease(pair.decode, 0)
        chosen = Choice("", "random", "", 1, 0)
        self.grant = Grant(Ask(prepared.facts), pair, *leases, Reason(chosen, chosen))
        fakes: Any = self
        self.reaper = LegReaper(fakes)
        limits = LegLimits(60.0, 60.0, 60.0, 60.0)
        tools = LegTools(fakes, fakes, self.reaper, hold_decode_s=0.01, limits=limits)
        self.call = SglangCall(self.grant, prepared, b"", tools, keep_rid=True)

    def get(self, worker: Worker) -> Any:
        """As the clients: that of a worker."""
        return _Client(self, worker)

    def prefill_ended(self, grant: Grant) -> None:
        """As the scheduler."""
        grant.prefill_lease.release()

    async def start(self) -> bytes:
        """Starts the call in the request's group."""
        return await self.call.start(self.legs)

    legs: asyncio.TaskGroup


class _Client:
    def __init__(self, rig: Rig, worker: Worker) -> None:
        self._rig = rig
        self._role = worker.spec.role

    def leg(self, *_: Any, **__: Any) -> OneReader:
        return self._rig.prefill if self._role is Role.PREFILL else self._rig.decode

    async def abort(self, rids: list[str]) -> int:
        self._rig.aborted.append(str(self._role))
        return len(rids)


@asynccontextmanager
async def running(**more: Any) -> AsyncIterator[Rig]:
    """A rig whose reaper runs; in the end the call is given up and no task is left."""
    rig = Rig(**more)
    async with (
        asyncio.timeout(5),
        asyncio.TaskGroup() as application,
        asyncio.TaskGroup() as request,
    ):
        application.create_task(rig.reaper.run())
        await asyncio.sleep(0)
        rig.legs = request
        yield rig
        rig.call.finish(is_ok=False)
        rig.reaper.close()
    assert rig.reaper.n_pending == 0


def put(exchange: OneReader, *items: Any) -> None:
    """Has an exchange receive these, in order."""
    for item in items:
        exchange.coming.put_nowait(item)


async def read_all(call: SglangCall) -> bytes:
    """The rest of a stream."""
    parts = []
    while events := await call.next_events():
        parts.append(events)
    return b"".join(parts)


@pytest.mark.parametrize("is_head_there", [False, True])
async def test_prefill_is_read_by_one_after_the_other(is_head_there: bool) -> None:
    """Decode has ended and prefill has not: its follower lets go before the reaper reads on."""
    async with running() as rig:
        put(rig.decode, 200, WORD, DONE, b"")
        if is_head_there:
            put(rig.prefill, 200, b'{"half')
        assert await rig.start() == WORD
        assert rig.grant.prefill_lease.is_released
        assert await read_all(rig.call) == DONE
        rig.call.finish(is_ok=True)
        assert (rig.decode.is_closed, rig.prefill.is_closed) == (True, False)
        await turns()
        assert (rig.prefill.is_read, rig.reaper.n_pending) == (True, 1)
        put(rig.prefill, *(() if is_head_there else (200,)), b"{}", b"")
        await turns()
        assert (rig.prefill.done, rig.prefill.is_closed) == (True, True)
    assert rig.aborted == []


async def test_failed_call_is_given_up_once() -> None:
    """Both legs are aborted, however often it is finished."""
    async with running() as rig:
        put(rig.decode, 200, WORD, BrokenResponse("cut"))
        assert await rig.start() == WORD
        with pytest.raises(LegBroken):
            await rig.call.next_events()
        rig.call.finish(is_ok=False)
        rig.call.finish(is_ok=True)
    assert sorted(rig.aborted) == ["decode", "prefill"]
    assert (rig.prefill.is_closed, rig.decode.is_closed) == (True, True)


@pytest.mark.parametrize("leg", ["prefill", "decode"])
async def test_unsent_means_neither_leg_was_sent(leg: str) -> None:
    """A connection refused before anything was sent may be tried elsewhere."""
    async with running() as rig:
        getattr(rig, leg).connect_failure = ConnectFailed("refused")
        with pytest.raises(LegUnreachable) as caught:
            await rig.start()
        assert (caught.value.leg, caught.value.is_unsent, rig.call.is_sent) == (leg, True, False)


@pytest.mark.parametrize("leg", ["prefill", "decode"])
async def test_lost_connection_of_one_leg_when_the_other_was_sent(leg: str) -> None:
    """It ended between connect and send and cannot be had anew: the other may be in its engine."""
    async with running() as rig:
        put(getattr(rig, leg), ConnectFailed("refused"))
        with pytest.raises(LegUnreachable) as caught:
            await rig.start()
        assert (caught.value.leg, caught.value.is_unsent, rig.call.is_sent) == (leg, False, True)


@pytest.mark.parametrize("is_prefill_through", [True, False])
async def test_silence_is_decodes_own_once_prefill_is_through(is_prefill_through: bool) -> None:
    """Before that it may have been waiting for prefill, and both have to be asked."""
    async with running() as rig:
        if is_prefill_through:
            put(rig.prefill, 200, b"{}", b"")
        starting = rig.legs.create_task(failure_of(rig))
        await turns()
        put(rig.decode, SilenceTimeout("silent", "head"))
        error = await starting
        assert (type(error), error.is_settled) == (LegTimedOut, is_prefill_through)


async def test_silence_is_prefills_own_once_decode_has_spoken() -> None:
    """Whoever still waits for prefill's answer knows whose fault it is."""
    async with running() as rig:
        put(rig.decode, 200, WORD)
        assert await rig.start() == WORD
        put(rig.prefill, SilenceTimeout("silent", "head"))
        with pytest.raises(LegTimedOut) as caught:
            await rig.call.wait_for_prefill()
        assert (caught.value.leg, caught.value.is_settled) == ("prefill", True)


async def test_late_failure_is_kept_and_ends_nothing() -> None:
    """After decode's first event prefill's failure is a note, not an end."""
    async with running() as rig:
        put(rig.decode, 200, WORD)
        assert await rig.start() == WORD
        put(rig.prefill, 500, b'{"message": "Late."}', b"")
        await turns()
        assert isinstance(rig.call.prefill_error, LegRejected)
        put(rig.decode, DONE, b"")
        assert await read_all(rig.call) == DONE


async def test_first_event_of_a_batch_proves_one_item_only() -> None:
    """Prefill's failure may concern another item, so it ends the batch."""
    async with running(prompt=["a", "b"]) as rig:
        put(rig.decode, 200, WORD)
        assert await rig.start() == WORD
        put(rig.prefill, 500, b'{"message": "Late."}', b"")
        with pytest.raises(LegRejected) as caught:
            await rig.call.next_events()
        assert caught.value.leg == "prefill"


async def test_prefills_own_word_comes_before_decodes_report() -> None:
    """Decode says that its peer is gone while prefill's refusal is on its way: that is shown."""
    report = b'{"message": "Decode transfer failed: KVTransferError"}'
    async with running() as rig:
        starting = rig.legs.create_task(failure_of(rig))
        await turns()
        put(rig.decode, 500, report, b"")
        await turns()
        put(rig.prefill, 422, b'{"message": "No."}', b"")
        error = await starting
        assert (error.leg, error.status, error.message) == ("prefill", 422, "No.")


async def failure_of(rig: Rig) -> WorkerError:
    """The failure of a call that is started now."""
    with pytest.raises(WorkerError) as caught:
        await rig.start()
    return caught.value


async def turns(n: int = 10) -> None:
    """Lets everything run that can."""
    for _ in range(n):
        await asyncio.sleep(0)

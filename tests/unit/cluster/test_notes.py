"""What nobody waits for: how and when it is said."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.cluster import wire
from app.cluster.wire import Wire
from app.scheduling.grant import Outcome
from tests.unit.cluster.rig import Rig, until


class Hearer(Wire):
    """One end of a connection, which keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.n_reads = 0
        super().__init__(self.heard.append, lambda: None)

    def data_received(self, data: bytes) -> None:
        self.n_reads += 1
        super().data_received(data)


async def connect(stack: AsyncExitStack) -> tuple[Wire, Hearer]:
    """The two ends of a connection."""
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair(socket.AF_UNIX)
    _, speaker = await loop.create_unix_connection(
        lambda: Wire(lambda _: None, lambda: None), sock=one
    )
    _, hearer = await loop.create_unix_connection(Hearer, sock=other)
    stack.callback(speaker.abort)
    stack.callback(hearer.abort)
    return speaker, hearer


async def test_notes_go_with_what_is_told(stack: AsyncExitStack) -> None:
    """In the order in which they were said, sums last and once, all in one frame."""
    speaker, hearer = await connect(stack)
    speaker.note("first", 1)
    speaker.sums["w"] = 2
    speaker.tell("second", 2)
    speaker.note("third")
    await until(lambda: len(hearer.heard) == 4)
    assert hearer.heard == [("first", 1), ("second", 2), ("third",), ("sums", {"w": 2})]
    assert hearer.n_reads == 1
    speaker.tell("fourth")
    await until(lambda: len(hearer.heard) == 5)
    assert hearer.heard[4] == ("fourth",)


async def test_a_note_is_said_though_nothing_follows(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once, and not only the first one."""
    speaker, hearer = await connect(stack)
    monkeypatch.setattr(wire, "NOTE_S", 0.05)
    for n in (1, 2):
        speaker.note("word")
        await asyncio.sleep(0.005)
        assert len(hearer.heard) == n - 1
        await until(lambda n=n: len(hearer.heard) == n)


async def test_good_answers_are_counted_by_the_brain(rig: Rig, stack: AsyncExitStack) -> None:
    """So a few failures among them do not open a breaker; and a good one excuses a bad probe."""
    brain = await stack.enter_async_context(rig.brain().running())
    pipe = await stack.enter_async_context(rig.pipe())
    worker, breaker = brain.worker("http://p"), brain.worker("http://p").breaker
    worker.n_failures = 2
    grants = [await pipe.ask() for _ in range(3)]
    for grant in grants:
        pipe.worker("http://p").breaker.record_success(grant.pair.prefill_trial)
        pipe.scheduler.prefill_ended(grant)
        pipe.scheduler.done(grant, Outcome.OK)
    await until(lambda: brain.n_leases == 0)
    await until(lambda: breaker._n_good == 3)
    assert worker.n_failures == 0

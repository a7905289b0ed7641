"""From what one wake-up brought to what is sent."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from app.dispatch.token_answer import TokenAnswer
from app.dispatch.token_leg import Frames, Sink
from app.dispatch.token_streams import TokenStream
from app.protocol.engine import Chunk, Complete
from app.text.answer import TokenCount


class Call(TokenAnswer):
    """Hands on prepared reads."""

    def __init__(self, *reads: Sequence[Chunk | Complete]) -> None:
        super().__init__()
        self.reads = list(reads)

    async def read(self, sink: Sink | None = None) -> Frames:
        return self.reads.pop(0) if self.reads else ()

    async def settle(self) -> None:
        """Nothing is left."""

    def finish(self) -> None:
        """The same."""


class Events:
    """Writes an event for each thing it is fed."""

    def __init__(self) -> None:
        self.is_over = False
        self.count = TokenCount(0, 0, 0, 0)

    def feed(self, slot: int, frames: Sequence[Chunk | Complete]) -> bytes:
        said = [list(frame.token_ids) for frame in frames]
        self.is_over = self.is_over or any(isinstance(frame, Complete) for frame in frames)
        return f"{said};".encode()

    def close(self) -> bytes:
        return b"DONE"

    def note_cached(self, slot: int, n_tokens: int) -> None:
        """Of no matter here."""

    def has_ended(self, slot: int) -> bool:
        return self.is_over

    def expect_end(self, slot: int) -> None:
        """Of no matter here."""


def chunk(token: int) -> Chunk:
    return Chunk([token], 1, 0)


async def test_messages_that_came_together_are_sent_together() -> None:
    """Each as an event of its own, so that a client can tell the tokens apart."""
    end = Complete([], "stop", 1, 4, 0)
    call = Call([chunk(3)], [chunk(4), chunk(5), end])
    stream = TokenStream(call, [chunk(1), chunk(2)], Events())
    sent = [events async for events in stream]
    assert sent == [b"[[1]];[[2]];", b"[[3]];", b"[[4]];[[5]];[[]];DONE"]


class Offering(Call):
    """Offers each read to the sink first, as a connection does while somebody waits."""

    n_wakes = 0

    async def read(self, sink: Sink | None = None) -> Frames:
        while self.reads:
            frames = self.reads.pop(0)
            chunks = [frame for frame in frames if isinstance(frame, Chunk)]
            if sink is None or len(chunks) < len(frames) or not sink(chunks):
                self.n_wakes += 1
                return frames
        return ()


async def test_events_are_passed_on_without_the_task() -> None:
    """While the client takes them; what he does not take goes the whole way, in order."""
    end = Complete((), "stop", 1, 3, 0)
    call = Offering([chunk(2), chunk(3)], [chunk(4)], [chunk(5)], [end])
    stream = TokenStream(call, [chunk(1)], Events())
    sent: list[bytes] = []

    def push(events: bytes) -> bool:
        if len(sent) == 1:
            return False
        if events:
            sent.append(events)
        return True

    said = [await anext(stream)]
    stream.push_to(push)
    said += [events async for events in stream]
    assert sent == [b"[[2]];[[3]];"]
    assert said == [b"[[1]];", b"[[4]];", b"[[5]];", b"[[]];DONE"]
    assert call.n_wakes == 3


async def test_fault_of_a_passed_event_is_the_requests() -> None:
    """It must not end the connection, which carries other requests, too."""
    call = Offering([chunk(2)], [chunk(3)])
    events = Events()
    stream = TokenStream(call, [chunk(1)], events)
    assert await anext(stream) == b"[[1]];"
    stream.push_to(lambda _: True)
    events.feed = lambda _slot, _frames: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(ZeroDivisionError):
        await anext(stream)


async def test_stop_string_in_passed_events_ends_the_stream() -> None:
    """At once: whoever waits is woken, although the worker goes on and the client takes all."""

    class Stopping(Events):
        def feed(self, slot: int, frames: Sequence[Chunk | Complete]) -> bytes:
            if self.is_over:
                return b""
            self.is_over = any(3 in frame.token_ids for frame in frames)
            return super().feed(slot, frames)

    call = Offering([chunk(2)], [chunk(3)], [chunk(4)], [chunk(5)])
    stream = TokenStream(call, [chunk(1)], Stopping())
    passed: list[bytes] = []

    def push(events: bytes) -> bool:
        passed.append(events)
        return True

    said = [await anext(stream)]
    stream.push_to(push)
    said += [events async for events in stream]
    assert b"".join(passed) == b"[[2]];[[3]];"
    assert said == [b"[[1]];", b"DONE"]
    assert len(call.reads) == 2

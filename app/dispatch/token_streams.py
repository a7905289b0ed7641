"""From the tokens of calls to the bytes of an answer: one choice, or several merged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from app.dispatch.token_answer import TokenAnswer
from app.dispatch.token_leg import Frames
from app.errors import WorkerError
from app.protocol.engine import Chunk
from app.text.text_route import Counted, Stream, Whole


async def feed_to_end(whole: Whole, slot: int, call: TokenAnswer, first: Frames) -> None:
    """Reads one choice of an answer that is sent in one piece.

    Raises:
        WorkerError: A leg failed.
    """
    frames: Frames = first
    while True:
        whole.feed(slot, frames)
        if whole.has_ended(slot):
            break
        frames = await call.read()
        if not frames:
            raise call.cut()
    note_cached(whole, slot, call)
    await call.settle()


def note_cached(answer: Counted, slot: int, call: TokenAnswer) -> None:
    """Tells the answer what prefill found in its cache."""
    if call.n_cached_by_prefill is not None:
        answer.note_cached(slot, call.n_cached_by_prefill)


def _events(stream: Stream, slot: int, frames: Frames) -> bytes:
    """Writes what one wake-up brought: an event for each message, to be sent together."""
    if len(frames) == 1:
        return stream.feed(slot, frames)
    return b"".join([stream.feed(slot, (frame,)) for frame in frames])


class TokenStream:
    """The events of an answer with one choice.

    Args:
        call: A started call.
        first: What its ``start`` returned.
        stream: Writes the events.
    """

    def __init__(self, call: TokenAnswer, first: Frames, stream: Stream) -> None:
        self._call = call
        self._first = first
        self._stream = stream
        self._is_over = False
        self._push: Callable[[bytes], bool] | None = None
        self._fault: Exception | None = None
        note_cached(stream, 0, call)

    def push_to(self, push: Callable[[bytes], bool]) -> None:
        """Has events written as their tokens arrive, while the next are awaited: no task runs.

        Args:
            push: Takes whole events, or says that it cannot now; asked with none it only tells.
        """
        self._push = push

    def _pass_on(self, frames: list[Chunk]) -> bool:
        push = self._push
        if push is None or self._fault is not None or not push(b""):
            return False
        try:
            events = _events(self._stream, 0, frames)
        except Exception as fault:  # noqa: BLE001 - it is this request's, and raised there
            self._fault = fault
            return False
        is_taken = not events or push(events)
        # After a stop string that the engine does not know nothing more would wake who waits. It
        # gets these frames once more, which say nothing now.
        return is_taken and not self._stream.has_ended(0)

    def __aiter__(self) -> TokenStream:
        """Returns itself."""
        return self

    async def __anext__(self) -> bytes:
        """Returns the next whole events.

        Raises:
            WorkerError: A leg failed.
        """
        while not self._is_over:
            events = _events(self._stream, 0, self._first or await self._next())
            self._first = ()
            if self._stream.has_ended(0):
                self._is_over = True
                # Where both legs run at once, prefill's word may be the later one.
                note_cached(self._stream, 0, self._call)
                await self._call.settle()
                return events + self._stream.close()
            if events:
                return events
        raise StopAsyncIteration

    async def _next(self) -> Frames:
        frames = await self._call.read(None if self._push is None else self._pass_on)
        if self._fault is not None:
            raise self._fault
        if not frames:
            raise self._call.cut()
        return frames


class MergedTokenStream:
    """The events of an answer with several choices; ends with the last of them.

    Each call has at most one message waiting, so a slow client slows every one.

    Args:
        calls: The started calls, by slot.
        firsts: What their ``start`` returned.
        stream: Writes the events.
        legs: The request's task group; owns one reader a call.
    """

    def __init__(
        self,
        calls: Sequence[TokenAnswer],
        firsts: Sequence[Frames],
        stream: Stream,
        legs: asyncio.TaskGroup,
    ) -> None:
        self._calls = calls
        self._stream = stream
        self._n_open = len(calls)
        self._waiting: asyncio.Queue[tuple[int, Frames | WorkerError]] = asyncio.Queue(maxsize=1)
        for slot, call in enumerate(calls):
            note_cached(stream, slot, call)
        self._readers = [
            legs.create_task(self._read(slot, first)) for slot, first in enumerate(firsts)
        ]

    async def _read(self, slot: int, first: Frames) -> None:
        call = self._calls[slot]
        frames: Frames = first
        try:
            while frames:
                await self._waiting.put((slot, frames))
                frames = await call.read()
        except WorkerError as error:
            await self._waiting.put((slot, error))
        else:
            await self._waiting.put((slot, ()))

    def __aiter__(self) -> MergedTokenStream:
        """Returns itself."""
        return self

    async def __anext__(self) -> bytes:
        """Returns the next whole events of some choice.

        Raises:
            WorkerError: One call failed, so all have.
        """
        while self._n_open:
            slot, frames = await self._waiting.get()
            if self._stream.has_ended(slot):
                # It ended at a stop string, and its call was told so; what comes is its echo.
                continue
            if isinstance(frames, WorkerError):
                raise frames
            if not frames:
                raise self._calls[slot].cut()
            events = _events(self._stream, slot, frames)
            if self._stream.has_ended(slot):
                self._n_open -= 1
                note_cached(self._stream, slot, self._calls[slot])
                self._calls[slot].finish()
                if not self._n_open:
                    return events + self._stream.close()
            if events:
                return events
        raise StopAsyncIteration

    def close(self) -> None:
        """Ends the readers, and lets go of what they would have said."""
        for reader in self._readers:
            reader.cancel()
        self._readers.clear()
        while not self._waiting.empty():
            self._waiting.get_nowait()

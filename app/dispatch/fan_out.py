"""More than one choice for one prompt: single-choice calls to one pair, merged.

Real SGLang 0.5.23 never answers the decode leg of a request with n > 1: its parallel sampling
sends a warm-up and all samples through one room. So each choice is a call of its own, with its
own room and id, and the children share one fate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from app.dispatch.answers import CompletedEventStream, whole_body
from app.dispatch.reply import Prepared
from app.dispatch.sglang import SglangCall
from app.dispatch.together import together
from app.errors import LegBroken, WorkerError
from app.protocol.fan_out_merge import FanOutStream, merge_replies
from app.protocol.sse import EventSplitter, data_of, encode
from app.workers.worker import Worker


async def start_all(
    calls: Sequence[SglangCall], prepared: Prepared, decode: Worker, legs: asyncio.TaskGroup
) -> list[bytes]:
    """Starts every child and waits for the first word, or the whole body, of each.

    All connections are opened before a byte is sent, so that a dead worker is found while
    nothing has reached an engine.

    Raises:
        WorkerError: A child failed; the caller ends the others.
    """

    async def start(index: int) -> bytes:
        call = calls[index]
        first = await call.start(legs)
        if prepared.facts.stream:
            return first
        return await whole_body(call, first, prepared, decode)

    await together(len(calls), lambda index: calls[index].connect())
    try:
        return await together(len(calls), start)
    except WorkerError as error:
        if any(call.is_sent for call in calls):
            error.is_unsent = False
        raise


def merged_body(prepared: Prepared, bodies: Sequence[bytes], decode: Worker) -> bytes:
    """Returns the children's plain answers as one.

    Raises:
        LegBroken: A body is JSON, but no answer of the route.
    """
    facts = prepared.facts
    try:
        return merge_replies(facts.route, facts.n, facts.batch, bodies)
    except ValueError as error:
        raise LegBroken(
            "the decode worker's answers cannot be put together",
            leg="decode",
            worker_id=decode.spec.id,
            detail=str(error),
        ) from error


class MergedEventStream:
    """The children's streams as one; ends with the last of them.

    Each child has at most one batch of events waiting, so a slow client slows every child.

    Args:
        calls: The started children.
        firsts: What their :meth:`SglangCall.start` returned.
        prepared: The request.
        legs: The request's task group; owns one reader a child.
    """

    def __init__(
        self,
        calls: Sequence[SglangCall],
        firsts: Sequence[bytes],
        prepared: Prepared,
        legs: asyncio.TaskGroup,
    ) -> None:
        facts = prepared.facts
        self._merge = FanOutStream(facts.route, facts.n, facts.batch, facts.include_usage)
        self._waiting: asyncio.Queue[tuple[int, bytes | WorkerError]] = asyncio.Queue(maxsize=1)
        self._n_open = len(calls)
        self._splitters = [EventSplitter() for _ in calls]
        self._readers = [
            legs.create_task(self._read(i, CompletedEventStream(call, first, prepared)))
            for i, (call, first) in enumerate(zip(calls, firsts, strict=True))
        ]

    async def _read(self, child: int, events: CompletedEventStream) -> None:
        try:
            async for chunk in events:
                await self._waiting.put((child, chunk))
            await self._waiting.put((child, b""))
        except WorkerError as error:
            await self._waiting.put((child, error))

    def __aiter__(self) -> MergedEventStream:
        """Returns itself."""
        return self

    async def __anext__(self) -> bytes:
        """Returns the next merged events.

        Raises:
            WorkerError: One child failed, so all have.
        """
        while self._n_open:
            child, chunk = await self._waiting.get()
            if isinstance(chunk, WorkerError):
                raise chunk
            if not chunk:
                self._n_open -= 1
                if not self._n_open:
                    return self._merge.final()
                continue
            events = self._splitters[child].feed(chunk)
            merged = [self._merge.feed(child, data_of(event)) for event in events]
            if out := b"".join(encode(data) for data in merged if data is not None):
                return out
        raise StopAsyncIteration

    def close(self) -> None:
        """Ends the readers, and lets go of what they would have said."""
        for reader in self._readers:
            reader.cancel()
        self._readers.clear()
        while not self._waiting.empty():
            self._waiting.get_nowait()

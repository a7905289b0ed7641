"""The answer of an SGLang worker as it is read: of the decode leg, or of a worker alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from app.dispatch import leg_failures
from app.dispatch.whole_events import EventTooLong, WholeEvents
from app.errors import Leg, LegBroken, WorkerError
from app.protocol.reply_faults import find_fault, may_hold_fault
from app.upstream.failures import UpstreamError

if TYPE_CHECKING:
    from app.dispatch.leg_tools import LegTools
    from app.dispatch.reply import Prepared
    from app.upstream.http1 import Exchange
    from app.workers.worker import Worker

MAX_REPLY_BYTES = 256 * 1024 * 1024


def exchange(
    worker: Worker, prepared: Prepared, body: bytes, silence_timeout_s: float, tools: LegTools
) -> Exchange:
    """Returns what will send a body to a worker; nothing is connected yet."""
    return tools.clients.get(worker).leg(
        prepared.facts.route.encode(),
        prepared.header_lines,
        body,
        silence_timeout_s=silence_timeout_s,
    )


class SglangAnswer:
    """Reads one worker's answer to one body.

    Args:
        prepared: The request.
        worker: Who answers.
        leg: Its leg; ``None`` for a regular worker.
        answer: The exchange with it, not connected yet.
        tools: The surroundings.

    Attributes:
        head_headers: Its response headers, once its first word is there.
    """

    def __init__(
        self, prepared: Prepared, worker: Worker, leg: Leg | None, answer: Exchange, tools: LegTools
    ) -> None:
        self._facts = prepared.facts
        self._tools = tools
        self._answerer = worker
        self._leg = leg
        self._answer = answer
        self._events = WholeEvents()
        self._is_finished = False
        self._push: Callable[[bytes], bool] | None = None
        self.head_headers: Sequence[tuple[bytes, bytes]] = ()

    async def _first_of_answer(self) -> bytes:
        head = await self._answer.head()
        self.head_headers = head.headers
        if head.status != 200:
            raise await leg_failures.refusal(self._answer, head, self._leg, self._answerer)
        if not self._facts.stream:
            return await self._answer.read(MAX_REPLY_BYTES)
        first = b""
        # Comments prove nothing, and neither does a page that is no event stream at all.
        while not first.startswith(b"data:") and b"\ndata:" not in first:
            events = await self.next_events()
            if not events:
                raise self._broken("ended the stream before its first event")
            first += events
        if self._events.ended_with_done and first.count(b"data:") == 1:
            raise self._broken("ended the stream before its first event")
        return first

    def push_to(self, push: Callable[[bytes], bool]) -> None:
        """Has events that need no thought passed on as they arrive, while the next are awaited.

        No task runs for them: an event that comes by itself costs less than half (55 µs instead of
        the whole way through the request's coroutines).

        Args:
            push: Takes whole events, or says that it cannot now.
        """
        self._push = push

    def _pass_on(self, chunk: bytes) -> bool:
        push = self._push
        return (
            push is not None
            and self._events.passes_whole(chunk)
            and not may_hold_fault(chunk)
            and push(chunk)
        )

    async def next_events(self) -> bytes:
        """Returns the next whole events of the stream; nothing at its proper end.

        Raises:
            WorkerError: A leg failed, or the stream ended without ``[DONE]``.
        """
        try:
            sink = None if self._push is None else self._pass_on
            while chunk := await self._answer.chunk(sink):
                events = self._events.feed(chunk)
                if not events:
                    continue
                fault = find_fault(events)
                if fault is not None:
                    raise leg_failures.from_fault(fault, self._leg, self._answerer)
                return events
        except UpstreamError as failure:
            raise self._answer_failed(failure) from failure
        except EventTooLong as failure:
            raise self._broken("sent one event of more than 16 MiB") from failure
        if self._events.has_rest or not self._events.ended_with_done:
            raise self._broken("ended the stream without [DONE]")
        return b""

    def _answer_failed(self, failure: UpstreamError) -> WorkerError:
        return leg_failures.from_wire(failure, self._leg, self._answerer)

    def _broken(self, what: str) -> LegBroken:
        who = leg_failures.named(self._leg)
        return LegBroken(f"{who} {what}", leg=self._leg, worker_id=self._answerer.spec.id)

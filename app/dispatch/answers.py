"""What the client gets of one call: a checked body, or the iterator over decode's events.

Most answers pass through as the bytes they came in. Prompt logprobs and cached-token counts are
prefill's to tell, so those two, when asked for, are put into decode's answer here.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from app.dispatch import leg_failures
from app.dispatch.reply import Prepared
from app.dispatch.sglang import SglangCall
from app.dispatch.sglang_answer import SglangAnswer
from app.errors import Leg, LegBroken
from app.observability.notes import Notes
from app.observability.token_counts import note_answer
from app.protocol.logprob_merge import LogprobMerger, merge_prompt_logprobs
from app.protocol.reply_faults import fault_in_body, may_hold_fault
from app.protocol.sse import DONE_DATA, EventSplitter, data_of, encode
from app.protocol.usage import cached_from_prefill, patch_event, patch_whole
from app.workers.worker import Worker


def check_whole(body: bytes, leg: Leg | None, worker: Worker, notes: Notes) -> None:
    """Checks a plain answer and notes its tokens.

    Raises:
        WorkerError: It is not JSON, or the generation was aborted.
    """
    parsed = leg_failures.parse_json(body, leg, worker)
    if may_hold_fault(body) and (fault := fault_in_body(parsed)) is not None:
        raise leg_failures.from_fault(fault, leg, worker)
    note_answer(notes, parsed)


async def whole_body(call: SglangCall, first: bytes, prepared: Prepared, decode: Worker) -> bytes:
    """Checks a plain answer of decode and completes it with what only prefill knows.

    Raises:
        WorkerError: The body is not JSON, the generation was aborted, or prefill failed.
    """
    check_whole(first, "decode", decode, prepared.notes)
    if prepared.facts.wants_prompt_logprobs:
        return _merged(first, await call.wait_for_prefill())
    if call.prefill_body is not None and b'"cached_tokens":' in call.prefill_body:
        return patch_whole(first, cached_from_prefill(call.prefill_body))
    return first


def _merged(decode_body: bytes, prefill_body: bytes) -> bytes:
    try:
        return merge_prompt_logprobs(decode_body, prefill_body)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise _no_logprobs() from error


def _no_logprobs() -> LegBroken:
    return LegBroken("the prefill worker's answer holds no prompt logprobs", leg="prefill")


class EventStream:
    """The events of an answer, as they come.

    Args:
        answer: Of a started call.
        first: What its ``start`` returned.
    """

    def __init__(self, answer: SglangAnswer, first: bytes) -> None:
        self._answer = answer
        self._first = first

    def __aiter__(self) -> EventStream:
        """Returns itself."""
        return self

    def push_to(self, push: Callable[[bytes], bool]) -> None:
        """Has events passed on as they arrive, see :meth:`SglangAnswer.push_to`."""
        self._answer.push_to(push)

    async def __anext__(self) -> bytes:
        """Returns the next whole events.

        Raises:
            WorkerError: A leg failed.
        """
        if self._first:
            events, self._first = self._first, b""
            return events
        events = await self._answer.next_events()
        if not events:
            raise StopAsyncIteration
        return events


class CompletedEventStream(EventStream):
    """Decode's events with prefill's prompt logprobs and cached-token counts put in."""

    def __init__(self, call: SglangCall, first: bytes, prepared: Prepared) -> None:
        super().__init__(call, first)
        self._call = call
        self._splitter = EventSplitter()
        self._facts = prepared.facts
        self._merger: LogprobMerger | None = None

    def push_to(self, push: Callable[[bytes], bool]) -> None:
        """Has events passed on as they arrive that have nothing to complete."""
        if not self._facts.wants_prompt_logprobs:
            super().push_to(lambda events: b'"prompt_tokens"' not in events and push(events))

    async def __anext__(self) -> bytes:
        """Returns the next whole events, completed.

        Raises:
            WorkerError: A leg failed.
        """
        if self._facts.wants_prompt_logprobs and self._merger is None:
            self._merger = _merger(await self._call.wait_for_prefill())
        events = await super().__anext__()
        return b"".join(
            encode(self._complete(data))
            for event in self._splitter.feed(events)
            if (data := data_of(event))
        )

    def _complete(self, data: bytes) -> bytes:
        if data == DONE_DATA:
            return data
        if self._merger is not None:
            return self._merger.feed(data)
        if self._call.prefill_body is not None and b"cached_tokens" in self._call.prefill_body:
            return patch_event(data, cached_from_prefill(self._call.prefill_body))
        return data


def _merger(prefill_body: bytes) -> LogprobMerger:
    try:
        return LogprobMerger(prefill_body)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise _no_logprobs() from error

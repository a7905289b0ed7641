"""One attempt at a request on an SGLang pair: one call, or one for each choice."""

from __future__ import annotations

import asyncio

from app.dispatch import fan_out
from app.dispatch.answers import CompletedEventStream, EventStream, whole_body
from app.dispatch.headers import for_client
from app.dispatch.leg_tools import LegTools
from app.dispatch.reply import Prepared, Reply, once
from app.dispatch.sglang import SglangCall
from app.errors import Leg, WorkerError
from app.scheduling.scheduler import Grant


class SglangAttempt:
    """Runs a request on one pair; the children of a fan-out share one fate.

    Args:
        grant: The pair and its leases.
        prepared: The request.
        tools: The surroundings of a call.
        is_first: Only the first attempt uses the client's own ``rid``.
    """

    def __init__(
        self, grant: Grant, prepared: Prepared, tools: LegTools, *, is_first: bool
    ) -> None:
        self._prepared = prepared
        self._decode = grant.pair.decode
        patches = prepared.facts.fan_out_patches
        grant.n_prefills_left = max(1, len(patches))
        if patches:
            self._calls = [
                SglangCall(grant, prepared, patch, tools, keep_rid=False) for patch in patches
            ]
        else:
            self._calls = [SglangCall(grant, prepared, b"", tools, keep_rid=is_first)]

    @property
    def late_failure(self) -> WorkerError | None:
        """A failure of prefill after the KV cache had arrived."""
        for call in self._calls:
            if call.prefill_error is not None:
                return call.prefill_error
        return None

    @property
    def has_prefilled(self) -> bool:
        """A prefill was completed, or may have been."""
        return any(call.has_prefilled for call in self._calls)

    @property
    def awaited_leg(self) -> Leg:
        """Whose word is awaited; prefill if any call waits for it."""
        for call in self._calls:
            if call.awaited_leg == "prefill":
                return "prefill"
        return "decode"

    @property
    def has_asked_prefill(self) -> bool:
        """Both legs are always sent."""
        return True

    async def start(self, legs: asyncio.TaskGroup) -> Reply:
        """Starts the legs and waits for the first events, or for the whole answer.

        Raises:
            WorkerError: A leg failed.
        """
        if len(self._calls) > 1:
            return await self._start_children(legs)
        prepared, call = self._prepared, self._calls[0]
        facts = prepared.facts
        first = await call.start(legs)
        headers = for_client(call.head_headers)
        if not facts.stream:
            body = await whole_body(call, first, prepared, self._decode)
            return Reply(200, headers, once(body), is_stream=False)
        if facts.wants_prompt_logprobs or facts.include_usage:
            events: EventStream = CompletedEventStream(call, first, prepared)
        else:
            events = EventStream(call, first)
        return Reply(200, headers, events, is_stream=True, push_to=events.push_to)

    async def _start_children(self, legs: asyncio.TaskGroup) -> Reply:
        prepared, calls = self._prepared, self._calls
        firsts = await fan_out.start_all(calls, prepared, self._decode, legs)
        headers = for_client(calls[0].head_headers)
        if prepared.facts.stream:
            merged = fan_out.MergedEventStream(calls, firsts, prepared, legs)
            return Reply(200, headers, merged, is_stream=True, close=merged.close)
        body = fan_out.merged_body(prepared, firsts, self._decode)
        return Reply(200, headers, once(body), is_stream=False)

    def finish(self, *, is_ok: bool) -> None:
        """Ends both legs of every call; only the first time counts."""
        for call in self._calls:
            call.finish(is_ok=is_ok)

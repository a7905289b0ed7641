"""One attempt at a request on a vLLM pair: a call for each choice, and the answer they make."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from app.dispatch.reply import Prepared, Reply, once
from app.dispatch.retry import Attempts
from app.dispatch.solo_token import SoloTokenCall
from app.dispatch.together import together
from app.dispatch.token_call import TokenCall
from app.dispatch.token_leg import Frames, TokenTools
from app.dispatch.token_streams import MergedTokenStream, TokenStream, feed_to_end
from app.errors import Leg, NoPairAvailable, WorkerError
from app.scheduling.scheduler import Grant
from app.scheduling.solo import SoloGrant
from app.text.answer import Envelope
from app.text.text_route import Counted, open_stream, open_whole

_JSON = (b"content-type", b"application/json")


class TokenAttempt:
    """Runs every choice of every prompt on one pair, or one worker; they share one fate.

    Args:
        grant: Who serves, with the leases.
        prepared: The request.
        envelope: Id and time of the answer. The engines know a choice by the same id, with the
            number of the choice if there are several.
        tools: The surroundings of a call.
        attempts: Those of the request.
    """

    def __init__(
        self,
        grant: Grant | SoloGrant,
        prepared: Prepared,
        envelope: Envelope,
        tools: TokenTools,
        attempts: Attempts,
    ) -> None:
        if prepared.text is None:
            raise NoPairAvailable(
                "The workers of this model have just come; ask again.", retry_after_s=1
            )
        self._request = request = prepared.text
        self._envelope = envelope
        self._grant = grant
        self._scheduler = tools.scheduler
        self._notes = prepared.notes
        self._answer: Counted | None = None
        n_slots = request.n_slots
        ids = [envelope.id] if n_slots == 1 else [f"{envelope.id}-{i}" for i in range(n_slots)]
        requests = [request.engine_request(slot, ids[slot]) for slot in range(n_slots)]
        if prepared.trace:
            requests = [replace(each, trace=prepared.trace) for each in requests]
        self._calls: list[TokenCall | SoloTokenCall] = [
            TokenCall(grant, each, tools, attempts, prepared.notes, is_alone=n_slots == 1)
            if isinstance(grant, Grant)
            else SoloTokenCall(grant, each, tools, prepared.notes)
            for each in requests
        ]

    @property
    def late_failure(self) -> WorkerError | None:
        """None: prefill has ended before decode begins."""
        return None

    @property
    def has_asked_prefill(self) -> bool:
        """Decode did not compute the prompt alone from the start."""
        return any(call.has_asked_prefill for call in self._calls)

    @property
    def has_prefilled(self) -> bool:
        """A prefill leg was completed."""
        return any(call.has_prefilled for call in self._calls)

    @property
    def awaited_leg(self) -> Leg | None:
        """Whose word is awaited; prefill if any call waits for it."""
        if isinstance(self._grant, SoloGrant):
            return self._grant.solo.leg
        is_decode = all(call.prefill_ended.is_set() for call in self._calls)
        return "decode" if is_decode else "prefill"

    async def start(self, legs: asyncio.TaskGroup) -> Reply:
        """Starts the legs and waits for the first tokens, or for the whole answer.

        Raises:
            WorkerError: A leg failed.
        """
        request, calls = self._request, self._calls
        try:
            firsts = await together(len(calls), self._start)
        except WorkerError as error:
            if any(call.is_sent for call in calls):
                error.is_unsent = False
            raise
        # Every choice has its first token, so prefill is done with all of them.
        if isinstance(self._grant, Grant):
            self._scheduler.prefill_ended(self._grant)
        if not request.stream:
            whole = self._answer = open_whole(request, self._envelope)
            await together(
                len(calls), lambda slot: feed_to_end(whole, slot, calls[slot], firsts[slot])
            )
            return Reply(200, [_JSON], once(whole.body()), is_stream=False)
        stream = self._answer = open_stream(request, self._envelope)
        if len(calls) == 1:
            events = TokenStream(calls[0], firsts[0], stream)
            # A stop string that only this side sees may end the answer at any token.
            push_to = None if request.prompts[0].sampling.stop else events.push_to
            return Reply(200, [], events, is_stream=True, push_to=push_to)
        merged = MergedTokenStream(calls, firsts, stream, legs)
        return Reply(200, [], merged, is_stream=True, close=merged.close)

    async def _start(self, slot: int) -> Frames:
        first = slot - slot % self._request.n
        if slot != first:
            # What the first choice's prefill leaves in the cache, the others find there.
            await self._calls[first].prefill_ended.wait()
        return await self._calls[slot].start()

    def finish(self, *, is_ok: bool) -> None:
        """Ends whatever still runs; again is harmless."""
        del is_ok
        for call in self._calls:
            call.finish()
        if self._answer is not None:
            count = self._answer.count
            notes = self._notes
            notes.n_prompt, notes.n_cached = count.n_prompt, count.n_cached
            notes.n_completion = count.n_completion

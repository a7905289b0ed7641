"""PDRouter: from a read request to an answer under way.

``prepare -> choose -> open``. Built once; every generation route shares it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.clock import Clock
from app.dispatch import fan_out
from app.dispatch.answers import CompletedEventStream, EventStream, whole_body
from app.dispatch.blame import Blame
from app.dispatch.client_rids import ClientRids
from app.dispatch.headers import for_client, for_workers
from app.dispatch.reply import Prepared, RawHeaders, Reply
from app.dispatch.retry import Attempts
from app.dispatch.sglang import LegTools, SglangCall
from app.errors import NoPairAvailable, WorkerError
from app.protocol.facts import RequestFacts
from app.scheduling.scheduler import Ask, Grant, Outcome
from app.upstream.http1 import encode_lines


class PDRouter:
    """Chooses pairs and opens both legs on them.

    Args:
        tools: Clients, scheduler, reaper and the limits of a leg.
        blame: Settles failures.
        max_attempts: Pairs tried for one request, 1 or more.
        retry_deadline_s: No further attempt starts after this many seconds.
        now_s: The clock of the deadline.
    """

    def __init__(
        self,
        *,
        tools: LegTools,
        blame: Blame,
        max_attempts: int,
        retry_deadline_s: float,
        now_s: Clock,
    ) -> None:
        self._tools = tools
        self._blame = blame
        self._max_attempts = max_attempts
        self._retry_deadline_s = retry_deadline_s
        self._now_s = now_s
        self._client_rids = ClientRids()

    def prepare(
        self, facts: RequestFacts, body: bytes, client_headers: RawHeaders, request_id: str
    ) -> Prepared:
        """Makes a request ready for any pair. SGLang takes the client's own bytes."""
        return Prepared(facts, body, encode_lines(for_workers(client_headers, request_id)))

    async def choose(self, prepared: Prepared, excluded: frozenset[str]) -> Grant:
        """Asks the scheduler for a pair; its leases are held from here on.

        Raises:
            UnknownModel: Nobody serves the model.
            NoPairAvailable: Nobody can take the request now.
        """
        return await self._tools.scheduler.ask(Ask(prepared.facts, excluded))

    @asynccontextmanager
    async def open(self, prepared: Prepared, legs: asyncio.TaskGroup) -> AsyncIterator[Reply]:
        """Opens both legs on a pair, on another one if nothing reached an engine.

        Args:
            prepared: The request.
            legs: The request's task group; owns whatever runs beside the relay.

        Yields:
            The reply, once its first bytes are worth relaying.

        Raises:
            GatewayError: Nothing was relayed, or a leg failed while relaying.
        """
        attempts = Attempts(self._max_attempts, self._retry_deadline_s, self._now_s)
        with self._client_rids.hold(prepared.facts.client_rid):
            while True:
                grant = await self._choose_next(prepared, attempts)
                calls: list[SglangCall] = []
                outcome = Outcome.CANCELLED
                reply: Reply | None = None
                try:
                    calls = self._calls(grant, prepared, is_first=attempts.n_started == 1)
                    try:
                        reply = await self._start(calls, grant, prepared, legs)
                    except WorkerError as error:
                        outcome = Outcome.FAILED
                        settled = await self._settle(error, calls, grant, prepared)
                        if attempts.may_follow(settled):
                            continue
                        raise settled from error
                    try:
                        yield reply
                    except WorkerError as error:
                        outcome = Outcome.FAILED
                        raise await self._settle(error, calls, grant, prepared) from error
                    outcome = Outcome.OK
                    late = next((c.prefill_error for c in calls if c.prefill_error), None)
                    self._blame.succeeded(grant.pair, late)
                    return
                finally:
                    if reply is not None and reply.close is not None:
                        reply.close()
                    for call in calls:
                        call.finish(is_ok=outcome is Outcome.OK)
                    self._tools.scheduler.done(grant, outcome)

    async def _settle(
        self, error: WorkerError, calls: list[SglangCall], grant: Grant, prepared: Prepared
    ) -> WorkerError:
        """Ends the legs at once, then finds out whose failure it was."""
        for call in calls:
            call.finish(is_ok=False)
        settled = await self._blame.settle(error, grant.pair)
        if settled.detail:
            prepared.notes["detail"] = settled.detail
        return settled

    async def _choose_next(self, prepared: Prepared, attempts: Attempts) -> Grant:
        try:
            grant = await self.choose(prepared, attempts.tried)
        except NoPairAvailable:
            if attempts.last_error is None:
                raise
            raise attempts.last_error from None
        attempts.n_started += 1
        pair = grant.pair
        prepared.notes.update(
            prefill=pair.prefill.spec.url, decode=pair.decode.spec.url, attempts=attempts.n_started
        )
        return grant

    def _calls(self, grant: Grant, prepared: Prepared, *, is_first: bool) -> list[SglangCall]:
        patches = prepared.facts.fan_out_patches
        grant.n_prefills_left = max(1, len(patches))
        if not patches:
            return [SglangCall(grant, prepared, b"", self._tools, keep_rid=is_first)]
        return [
            SglangCall(grant, prepared, patch, self._tools, keep_rid=False) for patch in patches
        ]

    async def _start(
        self, calls: list[SglangCall], grant: Grant, prepared: Prepared, legs: asyncio.TaskGroup
    ) -> Reply:
        facts = prepared.facts
        decode = grant.pair.decode
        if len(calls) > 1:
            firsts = await fan_out.start_all(calls, prepared, decode, legs)
            headers = for_client(calls[0].head_headers)
            if facts.stream:
                merged = fan_out.MergedEventStream(calls, firsts, prepared, legs)
                return Reply(200, headers, merged, is_stream=True, close=merged.close)
            body = fan_out.merged_body(prepared, firsts, decode)
            return Reply(200, headers, _once(body), is_stream=False)
        call = calls[0]
        first = await call.start(legs)
        headers = for_client(call.head_headers)
        if not facts.stream:
            body = await whole_body(call, first, prepared, decode)
            return Reply(200, headers, _once(body), is_stream=False)
        if facts.wants_prompt_logprobs or facts.include_usage:
            return Reply(200, headers, CompletedEventStream(call, first, prepared), is_stream=True)
        return Reply(200, headers, EventStream(call, first), is_stream=True)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body

"""One attempt at a request on one SGLang worker, which does both phases itself.

The engine gets the client's body with a request id, whatever the number of choices: without a
bootstrap room its own parallel sampling works (SGLang 0.5.23), and computes the prompt once.
"""

from __future__ import annotations

import asyncio
import math

import orjson

from app.dispatch.answers import EventStream, check_whole
from app.dispatch.headers import for_client
from app.dispatch.leg_bodies import rank_member, request_ids
from app.dispatch.leg_tools import LegTools
from app.dispatch.reply import Prepared, Reply, once
from app.dispatch.sglang_answer import SglangAnswer, exchange
from app.errors import Leg, WorkerError
from app.protocol.splice import splice
from app.scheduling.solo import SoloGrant
from app.upstream.failures import UpstreamError


class SoloSglangAttempt(SglangAnswer):
    """Runs a request on one worker.

    Args:
        grant: The worker and its lease; the caller gives it back.
        prepared: The request.
        tools: The surroundings.
        is_first: Only the first attempt uses the client's own ``rid``.
    """

    late_failure: WorkerError | None = None
    has_asked_prefill = False

    def __init__(
        self, grant: SoloGrant, prepared: Prepared, tools: LegTools, *, is_first: bool
    ) -> None:
        solo, limits, facts = grant.solo, tools.limits, prepared.facts
        self._rids = request_ids(prepared, keep_rid=is_first)
        own = self._rids if facts.batch is not None else self._rids[0]
        members = b'"rid":' + orjson.dumps(own)
        members += rank_member(solo.worker, solo.rank, dp_aware=tools.dp_aware)
        body = splice(prepared.body, facts, members)
        wait_s = math.inf if facts.stream else limits.whole_s
        answer = exchange(solo.worker, prepared, body, wait_s, tools)
        super().__init__(prepared, solo.worker, solo.leg, answer, tools)
        self._notes = prepared.notes
        if facts.stream:
            answer.limit(limits.prefill_s + limits.first_token_s, is_total=True)
        self._has_spoken = False

    @property
    def has_prefilled(self) -> bool:
        """Whether the prompt is computed."""
        return self._has_spoken

    @property
    def awaited_leg(self) -> Leg | None:
        """Whose word is awaited."""
        return self._leg

    async def start(self, legs: asyncio.TaskGroup) -> Reply:
        """Sends the request and waits for the first events, or for the whole answer.

        Raises:
            WorkerError: The worker failed.
        """
        del legs
        try:
            await self._answer.connect()
            self._notes.send_both()
            first = await self._first_of_answer()
        except UpstreamError as failure:
            raise self._answer_failed(failure) from failure
        self._has_spoken = True
        self._notes.end_prefill()
        headers = for_client(self.head_headers)
        if not self._facts.stream:
            check_whole(first, self._leg, self._answerer, self._notes)
            return Reply(200, headers, once(first), is_stream=False)
        self._answer.limit(self._tools.limits.gap_s, is_total=False)
        events = EventStream(self, first)
        return Reply(200, headers, events, is_stream=True, push_to=events.push_to)

    def _answer_failed(self, failure: UpstreamError) -> WorkerError:
        error = super()._answer_failed(failure)
        # No other leg can be behind its silence.
        error.is_settled = True
        return error

    def finish(self, *, is_ok: bool) -> None:
        """Ends the call: kept for the next request when it did well, else aborted."""
        if self._is_finished:
            return
        self._is_finished = True
        if is_ok:
            self._answer.close()
        else:
            self._tools.reaper.give_up(self._answerer, self._rids, self._answer)

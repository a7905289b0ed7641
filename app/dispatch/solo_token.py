"""One generation on one vLLM worker, which computes the prompt itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from app.dispatch.token_answer import TokenAnswer
from app.dispatch.token_leg import Frames, TokenLeg, TokenTools
from app.observability.notes import Notes
from app.protocol.engine import EngineRequest
from app.scheduling.solo import SoloGrant


class SoloTokenCall(TokenAnswer):
    """One choice of one prompt.

    Args:
        grant: The worker and its lease; the caller gives it back.
        request: What it is to do.
        tools: The surroundings.
        notes: What is noted of the request.
    """

    has_asked_prefill = False
    has_prefilled = False

    def __init__(
        self, grant: SoloGrant, request: EngineRequest, tools: TokenTools, notes: Notes
    ) -> None:
        super().__init__()
        self._notes = notes
        solo, limits = grant.solo, tools.limits
        rank = solo.rank if solo.worker.info.dp_size > 1 else None
        wait_s = limits.prefill_s + limits.first_token_s if request.stream else limits.whole_s
        request = replace(request, dp_rank=rank)
        self._leg = TokenLeg(solo.leg, solo.worker, request, tools, wait_s)
        self._tools = tools
        self._opening: asyncio.Task[Frames | Exception] | None = None
        self._is_finished = False
        self.prefill_ended.set()

    @property
    def is_sent(self) -> bool:
        """The engine may have seen something of it."""
        return self._leg.is_sent

    async def start(self) -> Frames:
        """Sends the request.

        Returns:
            The messages up to the first that holds a token or the end.

        Raises:
            WorkerError: The worker failed.
        """
        leg = self._answer = self._leg
        await leg.connect()
        self._notes.send_both()
        # An engine is told to end what has not spoken yet, so its call outlives the request.
        opening = self._opening = self._tools.reaper.adopt(leg.open())
        await asyncio.wait({opening})
        result = opening.result()
        if isinstance(result, Exception):
            raise result
        self._notes.end_prefill()
        return result

    def finish(self) -> None:
        """Ends the call; again is harmless."""
        if self._is_finished:
            return
        self._is_finished = True
        leg, opening = self._leg, self._opening
        if opening is not None and not opening.done():
            self._tools.reaper.leave(opening, leg.cancel, partial(leg.end, opening))
        else:
            leg.cancel()

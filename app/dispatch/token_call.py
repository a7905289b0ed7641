"""One generation on a vLLM pair: prefill to its end, then decode with the handoff.

A handoff is read once: it goes to another decode worker only where the first one provably left it
alone (it was never reached, or it failed to load the blocks), and only while half of the lease
lasts. With Mooncake decode could be sent beside prefill, but it would keep room for blocks of a
prefill that fails, for minutes and whatever becomes of the request.

Source: vLLM 0.32 (leases, connectors), servicer 0.14.1 (frames).
"""

from __future__ import annotations

import asyncio
from functools import partial

from app.dispatch.kv_transfer import Transfer
from app.dispatch.retry import Attempts
from app.dispatch.token_answer import TokenAnswer
from app.dispatch.token_handoff import HeldHandoff
from app.dispatch.token_leg import Frames, TokenLeg, TokenTools, refresh
from app.dispatch.token_legs import TokenLegs
from app.errors import NoPairAvailable, WorkerError
from app.observability.notes import Notes
from app.protocol.engine import Complete, EngineRequest
from app.scheduling.scheduler import Grant

LOOK_S = 5.0
"""How often prefill is looked after while Mooncake's decode is silent."""


class TokenCall(TokenAnswer):
    """Both legs of one choice of one prompt.

    Args:
        grant: The pair and its leases; the caller gives them back.
        request: What decode is to do, without a handoff.
        tools: The surroundings.
        attempts: Those of the whole request.
        notes: What is noted of the request.
        is_alone: The only call of its grant, which may then get another decode worker.
    """

    def __init__(
        self,
        grant: Grant,
        request: EngineRequest,
        tools: TokenTools,
        attempts: Attempts,
        notes: Notes,
        *,
        is_alone: bool,
    ) -> None:
        super().__init__()
        self._grant = grant
        self._request = request
        self._tools = tools
        self._attempts = attempts
        self._notes = notes
        self._is_alone = is_alone
        self._legs = TokenLegs(grant, request, tools)
        self._prefill: TokenLeg | None = None
        self._opening: asyncio.Task[Frames | Exception] | None = None
        self._held = HeldHandoff(tools)
        self._prefilling: asyncio.Task[Complete | Exception] | None = None
        self._tried: frozenset[str] = frozenset()
        self._is_rerun = False
        self._is_finished = False

    @property
    def has_asked_prefill(self) -> bool:
        """Prefill had a part in it."""
        return self._prefill is not None

    @property
    def is_sent(self) -> bool:
        """An engine may have seen something of it."""
        return any(leg is not None and leg.is_sent for leg in (self._prefill, self._answer))

    @property
    def has_prefilled(self) -> bool:
        """Prefill was completed."""
        return self._prefill is not None and self._prefill.is_complete

    async def start(self) -> Frames:
        """Runs the legs up to decode's first tokens.

        Returns:
            Decode's messages up to the first that holds a token or the end.

        Raises:
            WorkerError: A leg failed.
        """
        legs = self._legs
        if legs.plan.transfer is Transfer.MOONCAKE:
            # Its handoff names prefill's engine, which is another one after a restart.
            await refresh("prefill", self._grant.pair.prefill, self._tools)
            legs.plan_anew()
        if legs.plan.transfer is Transfer.NONE:
            self._go_without(legs.plan.why_none, "the prefill worker has no KV connector")
        else:
            await self._hand_over()
        return await self._start_some_decode()

    def finish(self) -> None:
        """Ends both legs, and has blocks that nobody has read released. Again is harmless."""
        if self._is_finished:
            return
        self._is_finished = True
        if self._prefill is not None:
            self._leave_prefill(self._prefill)
        decode, opening = self._answer, self._opening
        if decode is None:
            self._legs.release(self._held)
        elif opening is not None and not opening.done():
            self._tools.reaper.leave(opening, decode.cancel, partial(decode.end, opening))
        else:
            decode.cancel()
            if not decode.is_sent:
                self._legs.release(self._held)

    def _leave_prefill(self, leg: TokenLeg) -> None:
        running = self._prefilling
        if running is not None and not running.done():
            end = partial(self._give_prefill_up, leg, running)
            self._tools.reaper.leave(running, leg.cancel, end)
            return
        leg.cancel()
        if running is not None and isinstance(complete := running.result(), Complete):
            # It ended just as the request did.
            self._held.take(self._legs.plan, complete)

    async def _give_prefill_up(
        self, leg: TokenLeg, running: asyncio.Task[Complete | Exception]
    ) -> None:
        """Aborts a prefill; a cancel would not tell if it had ended, and kept its blocks."""
        await leg.end(running)
        if running.done() and isinstance(complete := running.result(), Complete):
            self._held.take(self._legs.plan, complete)
            self._legs.release(self._held)

    async def _hand_over(self) -> None:
        """Runs prefill and keeps what it leaves behind."""
        if self._prefill is not None:
            self._prefill.cancel()
        leg = self._prefill = self._legs.prefill()
        await leg.connect()
        self._notes.send_prefill()
        running = self._prefilling = self._tools.reaper.adopt(leg.run())
        await asyncio.wait({running})
        complete, self._prefilling = running.result(), None
        if isinstance(complete, Exception):
            raise complete
        self._notes.end_prefill()
        self.n_cached_by_prefill = complete.n_cached_tokens
        self._held.take(self._legs.plan, complete)
        self._end_prefill()
        if self._is_alone:
            # Chosen late: what was free when prefill began may be full now.
            self._tools.scheduler.rebind_decode(self._grant, self._tried)
        if self._held.text is None:
            self._go_without("missing", self._held.fault)
        else:
            self._tools.counts.add(self._legs.plan.transfer.value)

    async def _start_some_decode(self) -> Frames:
        while True:
            try:
                return await self._start_decode()
            except WorkerError as error:
                was_sent = self._started().is_sent
                if not self._held.is_unread(error, self._request, was_sent=was_sent):
                    raise
                settled = await self._tools.blame.settle(error, self._grant.pair)
                if not self._has_moved(settled):
                    if was_sent:
                        self._legs.release(self._held)
                    raise settled from error

    async def _start_decode(self) -> Frames:
        leg = await self._connect_decode()
        while self._held.is_stale():
            leg.cancel()
            self._held.drop()
            if self._is_rerun or not self._attempts.may_prefill_again():
                raise leg.broken("took too long to be reached", "handoff_stale")
            self._is_rerun = True
            self._tools.counts.add("stale")
            await self._hand_over()
            leg = await self._connect_decode()
        return await self._first_frames(leg)

    async def _connect_decode(self) -> TokenLeg:
        if self._answer is not None:
            # It failed, but nobody has told its call: the worker would never be free of it.
            self._answer.cancel()
        leg = self._answer = self._legs.decode(self._held.text)
        self._opening = None
        await leg.connect()
        return leg

    async def _first_frames(self, leg: TokenLeg) -> Frames:
        self._notes.send_decode(self._grant.pair.decode)
        opening = self._opening = self._tools.reaper.adopt(leg.open())
        if leg.is_timed:
            await asyncio.wait({opening})
        else:
            await self._watch(leg, opening)
        result = opening.result()
        if isinstance(result, Exception):
            raise result
        return result

    async def _watch(self, leg: TokenLeg, opening: asyncio.Task[Frames | Exception]) -> None:
        """Waits for a decode leg that is not to be cancelled before it speaks (Mooncake).

        Raises:
            LegTimedOut: It is silent for too long.
            LegBroken: Prefill is gone, of which vLLM 0.32 tells decode nothing: it waits 540 s.
        """
        now_s = self._tools.now_s
        until_s = now_s() + leg.first_s
        while not (await asyncio.wait({opening}, timeout=min(LOOK_S, leg.first_s)))[0]:
            if now_s() >= until_s:
                raise leg.silent()
            # An answer in one piece may be long under way: silence tells nothing there.
            prefill = self._prefill if self._request.stream else None
            if prefill is not None and await prefill.is_another_engine():
                raise prefill.broken("was gone before decode had the KV cache")

    def _has_moved(self, error: WorkerError) -> bool:
        """Takes another decode worker for the same handoff, if there may be one."""
        may_move = error.leg == "decode" and self._is_alone and self._held.may_move()
        if not may_move or not self._attempts.has_room():
            return False
        self._tried |= {self._grant.pair.decode.spec.id}
        try:
            self._tools.scheduler.rebind_decode(self._grant, self._tried)
        except NoPairAvailable:
            return False
        self._attempts.n_started += 1
        self._tools.counts.add("moved")
        return True

    def _go_without(self, why: str, fault: str) -> None:
        self._legs.count_missing(why, fault)
        self._end_prefill()

    def _end_prefill(self) -> None:
        self.prefill_ended.set()
        if self._is_alone:
            self._tools.scheduler.prefill_computed(self._grant)

"""One generation on a vLLM pair: prefill to its end, then decode with the handoff.

With Mooncake, whose handoff is known beforehand, both legs start together. A handoff is read
once: it goes to another decode worker only where the first one provably left it alone (it was
never reached, or it failed to load the blocks), and only while half of the lease lasts.

Source: vLLM 0.32 (leases, connectors), servicer 0.14.1 (frames).
"""

from __future__ import annotations

import asyncio

from app.dispatch.kv_transfer import Transfer
from app.dispatch.retry import Attempts
from app.dispatch.token_handoff import HeldHandoff
from app.dispatch.token_leg import Frames, TokenLeg, TokenTools, refresh
from app.dispatch.token_legs import TokenLegs
from app.errors import LegTimedOut, NoPairAvailable, WorkerError
from app.protocol.engine import Chunk, Complete, EngineRequest
from app.scheduling.scheduler import Grant

SETTLE_S = 1.0
RELEASE_S = 0.25
"""By then a decode leg that was sent has reached its engine's queue."""
PREFILL_END_S = 60.0
"""So long a prefill that nobody waits for may go on for the sake of decode's blocks."""


class TokenCall:
    """Both legs of one choice of one prompt.

    Args:
        grant: The pair and its leases; the caller gives them back.
        request: What decode is to do, without a handoff.
        tools: The surroundings.
        attempts: Those of the whole request.
        is_alone: The only call of its grant, which may then get another decode worker.

    Attributes:
        prefill_ended: Set when prefill is done, has failed or was left out.
        n_cached_by_prefill: Prompt tokens that prefill found in its cache; ``None`` until known.
        late_failure: What went wrong with prefill after decode had the KV cache.
    """

    def __init__(
        self,
        grant: Grant,
        request: EngineRequest,
        tools: TokenTools,
        attempts: Attempts,
        *,
        is_alone: bool,
    ) -> None:
        self._grant = grant
        self._request = request
        self._tools = tools
        self._attempts = attempts
        self._is_alone = is_alone
        self._legs = TokenLegs(grant, request, tools)
        self._prefill: TokenLeg | None = None
        self._decode: TokenLeg | None = None
        self._opening: asyncio.Task[Frames | Exception] | None = None
        self._held = HeldHandoff(tools)
        self._prefill_error: WorkerError | None = None
        self._prefilling: asyncio.Task[Complete | Exception] | None = None
        self._follower: asyncio.Task[Exception | None] | None = None
        self._tried: frozenset[str] = frozenset()
        self._is_rerun = False
        self._is_finished = False
        self.prefill_ended = asyncio.Event()
        self.n_cached_by_prefill: int | None = None
        self.late_failure: WorkerError | None = None

    @property
    def is_sent(self) -> bool:
        """An engine may have seen something of it."""
        return any(leg is not None and leg.is_sent for leg in (self._prefill, self._decode))

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
        if legs.plan.transfer is Transfer.MOONCAKE:
            return await self._start_both()
        if legs.plan.transfer is Transfer.NONE:
            self._go_without(legs.plan.why_none, "the prefill worker has no KV connector")
        else:
            await self._hand_over()
        return await self._start_some_decode()

    async def next(self) -> Chunk | Complete | None:
        """Returns decode's next message; nothing after its proper end.

        Raises:
            WorkerError: Decode failed.
        """
        return await self._started().next()

    def cut(self) -> WorkerError:
        """The error of a call that ended before its answer did."""
        return self._started().cut()

    async def settle(self) -> None:
        """Reads the end of the call behind its last message, so that nothing needs cancelling.

        If the answer ended here before it did at the engine, the call is cancelled instead.
        """
        try:
            if self._started().is_complete:
                async with asyncio.timeout(SETTLE_S):
                    await self.next()
        except (TimeoutError, WorkerError):
            # The answer is whole already; the call is cancelled like any other that is left.
            pass
        self.finish()

    def finish(self) -> None:
        """Ends both legs, and has blocks that nobody has read released. Again is harmless."""
        if self._is_finished:
            return
        self._is_finished = True
        if self._prefill is not None:
            self._finish_prefill(self._prefill)
        decode, opening = self._decode, self._opening
        if decode is None:
            self._legs.release(self._held)
        elif opening is not None and not opening.done():
            wait_s = RELEASE_S - (self._tools.now_s() - decode.sent_s)
            self._tools.reaper.leave(opening, decode.cancel, max(0.0, wait_s))
        else:
            decode.cancel()
            if not decode.is_sent:
                self._legs.release(self._held)

    def _finish_prefill(self, leg: TokenLeg) -> None:
        follower, opening = self._follower, self._opening
        if follower and opening and not opening.done() and not self._prefill_error:
            # Decode has asked for blocks. If they never come, Mooncake keeps the room for them
            # 480 s, even for a request that is aborted (vLLM 0.32).
            self._tools.reaper.leave(follower, leg.cancel, PREFILL_END_S)
            return
        if follower:
            follower.cancel()
        if self._prefilling is None:
            leg.cancel()
        else:
            # An aborted prefill keeps nothing for decode; one that has just ended does.
            self._tools.reaper.abandon(leg, self._prefilling, self._release_late)

    def _release_late(self, complete: Complete) -> None:
        self._held.take(self._legs.plan, complete)
        self._legs.release(self._held)

    def _started(self) -> TokenLeg:
        if self._decode is None:
            raise RuntimeError("The call was not started.")
        return self._decode

    async def _hand_over(self) -> None:
        """Runs prefill and keeps what it leaves behind."""
        leg = self._prefill = self._legs.prefill()
        await leg.connect()
        running = self._prefilling = self._tools.reaper.adopt(leg.run())
        complete = await asyncio.shield(running)
        self._prefilling = None
        if isinstance(complete, Exception):
            raise complete
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
        leg = self._decode = self._legs.decode(self._held.text)
        self._opening = None
        await leg.connect()
        return leg

    async def _first_frames(self, leg: TokenLeg) -> Frames:
        opening = self._opening = self._tools.reaper.adopt(leg.open())
        result = await asyncio.shield(opening)
        if self._prefill_error is not None:
            # Decode was ended for it, maybe just as it began to speak.
            raise self._prefill_error
        if isinstance(result, Exception):
            raise self._cause_of(result)
        return result

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

    async def _start_both(self) -> Frames:
        self._held.foresee(self._legs.plan)
        prefill = self._prefill = self._legs.prefill()
        await prefill.connect()
        decode = await self._connect_decode()
        self._follower = self._tools.reaper.adopt(self._follow_prefill(prefill))
        self._tools.counts.add(self._legs.plan.transfer.value)
        return await self._first_frames(decode)

    async def _follow_prefill(self, leg: TokenLeg) -> None:
        try:
            self.n_cached_by_prefill = (await leg.run()).n_cached_tokens
            if self._request.stream:
                self._started().limit_first(self._tools.limits.first_token_s)
        except WorkerError as error:
            if self._has_spoken():
                # So it has the KV cache.
                self.late_failure = error
            else:
                # Decode would wait for a transfer that cannot come, up to 480 s.
                self._prefill_error = error
                self._started().cancel()
        self._end_prefill()

    def _has_spoken(self) -> bool:
        opening = self._opening
        if opening is None or not opening.done():
            return False
        return not isinstance(opening.result(), Exception)

    def _cause_of(self, error: Exception) -> Exception:
        """Names prefill where decode was silent because of it."""
        if isinstance(error, LegTimedOut) and self._prefill and not self.prefill_ended.is_set():
            # Decode cannot speak before prefill has ended.
            return self._prefill.silent()
        return error

    def _end_prefill(self) -> None:
        self.prefill_ended.set()
        if self._is_alone:
            self._tools.scheduler.prefill_computed(self._grant)

"""One dispatch to an SGLang pair: both legs at once, meeting in a bootstrap room.

Both connections are opened before a byte is sent on either, so a dead worker is found while
nothing has reached an engine. Then both legs get the client's body with the meeting place
spliced in; prefill is asked for a plain answer, decode for what the client wanted.
"""

from __future__ import annotations

import asyncio
import math

from app.dispatch import leg_failures
from app.dispatch.leg_bodies import leg_bodies
from app.dispatch.leg_failures import MAX_ERROR_BODY_BYTES
from app.dispatch.leg_tools import LegTools
from app.dispatch.reply import Prepared
from app.dispatch.sglang_answer import MAX_REPLY_BYTES, SglangAnswer, exchange
from app.errors import Leg, LegRejected, WorkerError
from app.observability.token_counts import note_prompt
from app.protocol.peer_blame import is_peer_death
from app.protocol.reply_faults import fault_in_body, may_hold_fault
from app.scheduling.scheduler import Grant
from app.upstream.failures import BodyTooLong, UpstreamError
from app.upstream.http1 import Head


class SglangCall(SglangAnswer):
    """Both legs of one body, from the first byte to the release.

    Args:
        grant: The pair and its leases; the caller gives them back.
        prepared: The request.
        patch: JSON members of this call alone (a fan-out's ``"n":1``), or nothing.
        tools: The surroundings.
        keep_rid: Use the client's own ``rid``; only the first attempt may.

    Attributes:
        prefill_body: Prefill's whole answer once it is there, else ``None``.
        prefill_error: Prefill's failure, which counts only until decode has spoken.
    """

    def __init__(
        self, grant: Grant, prepared: Prepared, patch: bytes, tools: LegTools, *, keep_rid: bool
    ) -> None:
        self._notes = prepared.notes
        pair = grant.pair
        prefill_body, decode_body, self._rids = leg_bodies(
            pair, prepared, patch, keep_rid=keep_rid, dp_aware=tools.dp_aware
        )
        limits = tools.limits
        # The clock of a stream's first event starts when prefill has done its part.
        wait_s = math.inf if prepared.facts.stream else limits.whole_s
        decode = exchange(pair.decode, prepared, decode_body, wait_s, tools)
        super().__init__(prepared, pair.decode, "decode", decode, tools)
        self._grant = grant
        self._prefill = exchange(pair.prefill, prepared, prefill_body, limits.prefill_s, tools)
        self._prefill.limit(limits.prefill_s, is_total=True)
        self._has_prefill_ended = False
        self._prefill_waiter: asyncio.Future[None] | None = None
        self._has_spoken = False
        self._may_have_prefilled = False
        self._is_proven = False
        self._is_prefill_counted = False
        self._follower: asyncio.Task[None] | None = None
        self.prefill_error: WorkerError | None = None
        self.prefill_body: bytes | None = None

    @property
    def is_sent(self) -> bool:
        """A byte was handed to a transport, so an engine may have seen the request."""
        return self._prefill.sent or self._answer.sent

    @property
    def has_prefilled(self) -> bool:
        """Prefill has computed the prompt, or may have: then it is not to do so again."""
        return self._may_have_prefilled or self.prefill_body is not None

    @property
    def awaited_leg(self) -> Leg:
        """Whose word is awaited."""
        needs_answer = not self._has_spoken or self._facts.wants_prompt_logprobs
        return "prefill" if needs_answer and self.prefill_body is None else "decode"

    async def connect(self) -> None:
        """Opens both connections; not a byte is sent.

        Raises:
            LegUnreachable: A worker cannot be connected to.
        """
        leg: Leg = "prefill"
        try:
            if not self._prefill.take():
                await self._prefill.connect()
            leg = "decode"
            if not self._answer.take():
                await self._answer.connect()
        except UpstreamError as failure:
            raise self._failed(failure, leg) from failure

    async def start(self, legs: asyncio.TaskGroup) -> bytes:
        """Sends both legs and waits for decode's first word.

        Args:
            legs: The request's task group; owns the task that follows prefill.

        Returns:
            The first whole events of a stream, or the whole body of a plain answer.

        Raises:
            WorkerError: A leg failed before anything was worth relaying.
        """
        await self.connect()
        self._notes.send_both()
        self._follow(legs)
        try:
            first = await self._first_of_answer()
        except UpstreamError as failure:
            raise self._failed(failure, "decode") from failure
        except LegRejected as error:
            if error.leg == "decode":
                # One that is full has not met prefill; of others nobody knows.
                self._may_have_prefilled = error.status != 503
                if is_peer_death(error.message):
                    # Decode only reports it; prefill's own word, if any, is on its way.
                    await self._hold()
            raise
        self._notes.end_prefill()
        self._has_spoken = self._may_have_prefilled = True
        self._is_proven = self._facts.batch is None
        if self._facts.stream:
            self._answer.limit(self._tools.limits.gap_s, is_total=False)
        self._end_prefill_if_through()
        await self._hold()
        return first

    def _answer_failed(self, failure: UpstreamError) -> WorkerError:
        return self._failed(failure, "decode")

    def _failed(self, failure: UpstreamError, leg: Leg) -> WorkerError:
        pair = self._grant.pair
        error = leg_failures.from_wire(
            failure, leg, pair.prefill if leg == "prefill" else pair.decode
        )
        if self.is_sent:
            # The other leg may be in its engine already.
            error.is_unsent = False
        # Once the KV cache has arrived, or prefill is through, a silence is the leg's own.
        error.is_settled = self._is_proven or (leg == "decode" and self.prefill_body is not None)
        return error

    async def wait_for_prefill(self) -> bytes:
        """Returns prefill's whole answer, however long it takes (prompt logprobs need it).

        Raises:
            WorkerError: The prefill leg failed.
        """
        if not self._has_prefill_ended:
            await self._waiter()
        if self.prefill_error is not None:
            raise self.prefill_error
        return self.prefill_body or b""

    async def _hold(self) -> None:
        """Gives a refusal of prefill a moment to arrive before decode's word is passed on."""
        if not self._has_prefill_ended and self._tools.hold_decode_s > 0:
            # A timer and a future; ``asyncio.timeout`` round an event is thrice that.
            waiter = self._waiter()
            timer = asyncio.get_running_loop().call_later(self._tools.hold_decode_s, _set, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
        if self.prefill_error is not None:
            raise self.prefill_error

    def _waiter(self) -> asyncio.Future[None]:
        """Ends when prefill does; for one reader at a time."""
        waiter = self._prefill_waiter = asyncio.get_running_loop().create_future()
        return waiter

    def _follow(self, legs: asyncio.TaskGroup) -> None:
        """Sends prefill and has its end noticed."""
        if self._prefill.follow(self._prefill_over, MAX_REPLY_BYTES, MAX_ERROR_BODY_BYTES):
            return
        # Its connection was lost just now; making another one takes a task.
        following = self._follow_prefill()
        try:
            self._follower = legs.create_task(following)
        except RuntimeError:
            # The request's group is ending and this child will be cancelled in a moment.
            following.close()
            raise asyncio.CancelledError from None

    async def _follow_prefill(self) -> None:
        head = None
        try:
            head = await self._prefill.head()
            is_good = head.status == 200
            body = await self._prefill.read(MAX_REPLY_BYTES if is_good else MAX_ERROR_BODY_BYTES)
        except UpstreamError as failure:
            self._prefill_over(head, b"", failure)
        else:
            self._prefill_over(head, body, None)

    def _prefill_over(self, head: Head | None, body: bytes, failure: BaseException | None) -> None:
        """Takes the end of prefill, in the middle of the loop's reading: never raises."""
        try:
            error = self._judge_prefill(head, body, failure)
        except Exception as defect:  # noqa: BLE001 - the request's task raises it
            self._answer.fail(defect)
            return
        if error is not None:
            self.prefill_error = error
            if not self._is_proven:
                self._answer.fail(error)
        self._has_prefill_ended = True
        if self._prefill_waiter is not None:
            _set(self._prefill_waiter)
        self._end_prefill_if_through()

    def _judge_prefill(
        self, head: Head | None, body: bytes, failure: BaseException | None
    ) -> WorkerError | None:
        """Returns what is wrong with prefill's answer; notes what it says if nothing is."""
        worker = self._grant.pair.prefill
        is_whole = failure is None or isinstance(failure, BodyTooLong)
        if head is not None and head.status != 200 and is_whole:
            # Of one that is too long the status is what counts.
            return leg_failures.from_status(head, body, "prefill", worker)
        if isinstance(failure, UpstreamError):
            return self._failed(failure, "prefill")
        if failure is not None:
            raise failure
        try:
            parsed = leg_failures.parse_json(body, "prefill", worker)
        except WorkerError as error:
            return error
        if may_hold_fault(body) and (fault := fault_in_body(parsed)) is not None:
            return leg_failures.from_fault(fault, "prefill", worker)
        self.prefill_body = body
        self._notes.end_prefill()
        note_prompt(self._notes, parsed)
        if self._facts.stream and not self._has_spoken:
            self._answer.limit(self._tools.limits.first_token_s, is_total=True)
        return None

    def _end_prefill_if_through(self) -> None:
        """Gives prefill's lease back with the last child, and the last item of a batch."""
        needs_answer = not self._is_proven or self._facts.wants_prompt_logprobs
        if not self._is_prefill_counted and (self._has_prefill_ended or not needs_answer):
            self._is_prefill_counted = True
            self._grant.n_prefills_left -= 1
            if self._grant.n_prefills_left <= 0:
                self._tools.scheduler.prefill_ended(self._grant)

    def finish(self, *, is_ok: bool) -> None:
        """Ends both legs: kept for the next request when they did well, else aborted.

        Only the first call counts.
        """
        if self._is_finished:
            return
        self._is_finished = True
        if not self._has_prefill_ended:
            self._prefill.unfollow()
        if self._follower is not None:
            self._follower.cancel()
            # Its cancellation keeps its frame, and that keeps this call.
            self._follower = None
        pair = self._grant.pair
        if is_ok:
            self._tools.reaper.drain(self._prefill)
            self._answer.close()
        else:
            self._tools.reaper.give_up(pair.prefill, self._rids, self._prefill)
            self._tools.reaper.give_up(pair.decode, self._rids, self._answer)


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

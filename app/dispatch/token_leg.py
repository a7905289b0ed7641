"""One leg on a vLLM worker: its call, and its failures in the gateway's own words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.clock import Clock
from app.dispatch import leg_failures
from app.dispatch.abort import LegReaper
from app.dispatch.blame import Blame
from app.dispatch.handoff_counts import HandoffCounts
from app.dispatch.kv_transfer import MissingHandoff
from app.dispatch.limits import LegLimits
from app.errors import KV_LOAD_FAILED, Leg, LegBroken, LegTimedOut, WorkerError
from app.protocol.engine import Chunk, Complete, EngineRequest
from app.scheduling.scheduler import Scheduler
from app.upstream.clients import WorkerClients
from app.upstream.failures import ConnectFailed, UpstreamError
from app.upstream.sglang_worker import WorkerRefused
from app.workers.worker import Worker

if TYPE_CHECKING:
    from app.upstream.vllm_call import VllmCall

Frames = Sequence[Chunk | Complete]
Sink = Callable[[list[Chunk]], bool]
"""Takes all of these tokens and says so, or takes none."""
_BAD_ENDINGS = ("abort", "error")


@dataclass(frozen=True, slots=True)
class TokenTools:
    """What every call needs of its surroundings.

    Attributes:
        missing_handoff: What to do when prefill leaves nothing behind.
        lease_s: How long a NIXL prefill worker keeps the blocks of a finished request (vLLM's
            ``kv_lease_duration``).
        limits: How long a leg may keep a request waiting.
        unix_s: The time of day, for the answers' ``created``.
    """

    clients: WorkerClients
    scheduler: Scheduler
    reaper: LegReaper
    blame: Blame
    counts: HandoffCounts
    missing_handoff: MissingHandoff
    lease_s: float
    limits: LegLimits
    now_s: Clock
    unix_s: Clock


class TokenLeg:
    """A call to one worker whose failures are :class:`~app.errors.WorkerError`.

    Args:
        leg: Which one; ``None``: the worker is a regular one.
        worker: Where.
        request: What it is to do.
        tools: The surroundings.
        first_s: Longest wait for its first message.
        is_timed: Its call is cancelled when that message does not come in time; else the caller
            sees to it.
    """

    def __init__(
        self,
        leg: Leg | None,
        worker: Worker,
        request: EngineRequest,
        tools: TokenTools,
        first_s: float,
        *,
        is_timed: bool = True,
    ) -> None:
        self._leg = leg
        self._worker = worker
        self._has_handoff = request.handoff_json is not None
        self._engine_id = worker.info.vllm.kv_engine_id if worker.info.vllm is not None else ""
        self._request = request
        self._call: VllmCall | None = None
        self.first_s = first_s
        self._tools = tools
        self.is_timed = is_timed
        self.is_complete = False
        self._bad_end: Complete | None = None

    @property
    def is_sent(self) -> bool:
        """The engine may have seen the request."""
        return self._call is not None and self._call.sent

    async def connect(self) -> None:
        """Makes sure that the worker is there.

        Raises:
            LegUnreachable: It is not; nothing was sent.
        """
        try:
            # A worker that was removed meanwhile is not there either.
            self._call = self._tools.clients.vllm(self._worker).generate(
                self._request,
                first_timeout_s=self.first_s if self.is_timed else None,
                gap_timeout_s=self._tools.limits.gap_s,
            )
            await self._call.connect()
        except UpstreamError as failure:
            raise self._failed(failure) from failure

    async def send(self) -> None:
        """Sends the request.

        Raises:
            WorkerError: The leg failed.
        """
        try:
            await self._connected().send()
        except UpstreamError as failure:
            raise self._failed(failure) from failure

    async def read(self, sink: Sink | None = None) -> Frames:
        """Returns all messages that are there, once there is one; none after the proper end.

        Args:
            sink: May be offered the tokens that come meanwhile.

        Raises:
            WorkerError: The leg failed, or the engine gave the generation up.
        """
        if self._bad_end is not None:
            raise self._given_up(self._bad_end)
        try:
            frames = await self._connected().read(sink)
        except UpstreamError as failure:
            raise self._failed(failure) from failure
        end = frames[-1] if frames else None
        if isinstance(end, Complete):
            self.is_complete = True
            if end.finish_reason in _BAD_ENDINGS:
                # What came before it is the client's.
                self._bad_end = end
                return frames[:-1] or await self.read()
        return frames

    async def open(self) -> Frames:
        """Sends the request and reads up to the first message with a token, or to the end.

        Raises:
            WorkerError: The leg failed.
        """
        await self.send()
        frames: list[Chunk | Complete] = []
        while new := await self.read():
            frames += new
            if any(isinstance(frame, Complete) or frame.token_ids for frame in new):
                return frames
        raise self.cut()

    async def run(self) -> Complete:
        """Sends the request and reads up to the message that ends the generation.

        Raises:
            WorkerError: The leg failed, or that message did not come.
        """
        await self.send()
        while frames := await self.read():
            if isinstance(end := frames[-1], Complete):
                return end
        raise self.cut()

    def cut(self) -> LegBroken:
        """The error of an answer that ended before its last message."""
        return self.broken("ended its answer before the last token")

    def broken(self, what: str, code: str | None = None) -> LegBroken:
        """An error that says what the worker did."""
        text = f"{leg_failures.named(self._leg)} {what}"
        return LegBroken(text, leg=self._leg, worker_id=self._worker.spec.id, code=code)

    def silent(self) -> LegTimedOut:
        """The error of a worker that has said nothing so far."""
        error = LegTimedOut(
            f"{leg_failures.named(self._leg)} sent nothing for too long before its answer",
            leg=self._leg,
            worker_id=self._worker.spec.id,
        )
        error.is_settled = True
        return error

    def cancel(self) -> None:
        """Ends the call; one that is over stays as it is."""
        if self._call is not None:
            self._call.cancel()

    async def end(self, opening: asyncio.Task[Any]) -> None:
        """Has the engine end the generation, which ``opening`` reads, unless it speaks before.

        The call is still to be cancelled.
        """
        await self._tools.clients.vllm(self._worker).end(opening, self._request.request_id)

    async def is_another_engine(self) -> bool:
        """Whether the worker is gone, or was started anew since this leg was made.

        One that cannot be asked for any other reason is taken to be the same.
        """
        try:
            info = await self._tools.clients.vllm(self._worker).fresh_info()
        except ConnectFailed:
            return True
        except UpstreamError:
            return False
        except WorkerRefused:
            return True
        return info.vllm is None or info.vllm.kv_engine_id != self._engine_id

    def _connected(self) -> VllmCall:
        if self._call is None:
            raise RuntimeError("The leg is not connected.")
        return self._call

    def _given_up(self, end: Complete) -> LegBroken:
        reason = end.finish_reason
        is_load_failure = reason == "error" and self._leg == "decode" and self._has_handoff
        is_load_failure = is_load_failure and not end.token_ids
        return self.broken(
            f"ended the generation with finish reason {reason!r}",
            KV_LOAD_FAILED if is_load_failure else "generation_aborted",
        )

    def _failed(self, failure: UpstreamError) -> WorkerError:
        return _failed(failure, self._leg, self._worker)


async def refresh(leg: Leg, worker: Worker, tools: TokenTools) -> None:
    """Asks a worker anew what it is, if its connection was lost since it was asked.

    Raises:
        WorkerError: It cannot be asked, or is no longer fit for the leg; nothing was sent.
    """
    try:
        await tools.clients.vllm(worker).fresh_info()
    except UpstreamError as failure:
        error = _failed(failure, leg, worker)
        error.is_unsent = True
        raise error from failure
    except WorkerRefused as refused:
        raise LegBroken(
            f"the {leg} worker came back as another one",
            leg=leg,
            worker_id=worker.spec.id,
            is_unsent=True,
            detail=str(refused),
        ) from refused


def _failed(failure: UpstreamError, leg: Leg | None, worker: Worker) -> WorkerError:
    error = leg_failures.from_wire(failure, leg, worker)
    # gRPC tells each leg's own fate: nobody needs to be asked who it was.
    error.is_settled = True
    return error

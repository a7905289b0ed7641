"""Generate and Abort of a simulated vLLM worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from app.sim.vllm_admin import VllmAdmin
from app.sim.vllm_checks import handoff_of, make_job
from app.sim.vllm_counters import VllmSeen
from app.sim.vllm_faults import VllmFault, VllmFaultBook, VllmFaultKind
from app.sim.vllm_frames import chunk_frame, complete_frame
from app.sim.vllm_job import EngineCrash, RpcRefused, VllmJob
from app.upstream.generated import vllm_engine_pb2 as pb

_Context = grpc.aio.ServicerContext[Any, Any]
N_KEY_CHARS = 200
"""So much of a prompt's end tells its call from others."""
NO_MESSAGE = b"\xff\xff\xff\xff\xff"
"""Bytes that no message begins with."""
_MIDWAY = (VllmFaultKind.BREAK, VllmFaultKind.CUT, VllmFaultKind.DIE, VllmFaultKind.STALL)
_FINISHES = {VllmFaultKind.ERROR_FINISH: "error", VllmFaultKind.ABORT_FINISH: "abort"}


class VllmServicer(VllmAdmin):
    """All RPCs of the engine's service.

    Args:
        *parts: See :class:`app.sim.vllm_admin.VllmAdmin`.
        cut: Resets every connection.
        die: Ends the worker as a crash does; takes the reason.
        **named: See there.
    """

    def __init__(
        self, *parts: Any, cut: Callable[[], None], die: Callable[[str], None], **named: Any
    ) -> None:
        super().__init__(*parts, **named)
        self._cut = cut
        self._die = die

    async def Abort(self, request: pb.AbortRequest, context: _Context) -> pb.AbortResponse:
        """End requests by the caller's ids."""
        await self._faulty("Abort", context)
        self._counters.abort_calls.append(list(request.request_ids))
        for external_id in request.request_ids:
            self._engine.abort(external_id)
        return pb.AbortResponse()

    async def Generate(
        self, request: pb.GenerateRequest, context: _Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Compute and answer; counts whatever happens."""
        metadata = {str(k): str(v) for k, v in context.invocation_metadata() or ()}
        self._counters.note(VllmSeen(request, metadata), self._config.n_kept_seen)
        self._counters.enter()
        is_complete = False
        fault = self._faults.take("Generate", request.tokenized.original_text[-N_KEY_CHARS:])
        try:
            async for message in self._answer(request, fault):
                is_complete = message.HasField("complete")
                yield message
        except RpcRefused as refused:
            is_complete = True
            await _refuse(context, refused)
        except EngineCrash as crash:
            is_complete = True
            self._die(str(crash))
            await asyncio.Event().wait()
        finally:
            self._counters.leave()
            if not is_complete:
                self._counters.cancelled.append(request.request_id)

    async def _answer(
        self, request: pb.GenerateRequest, fault: VllmFault | None
    ) -> AsyncIterator[pb.GenerateResponse]:
        kv = handoff_of(request)
        job = await self._take(request, kv, fault)
        if fault is not None and fault.kind in _FINISHES:
            # As after a failed load: prefill is told nothing.
            job.finish_reason = _FINISHES[fault.kind]
        else:
            self._engine.submit(
                job, request.data_parallel_rank if request.HasField("data_parallel_rank") else None
            )
        midway = fault if fault is not None and fault.kind in _MIDWAY else None
        n_messages = 0
        try:
            async for message in self._frames(job, fault):
                if midway is not None and n_messages >= midway.after_messages:
                    await self._midway(midway)
                n_messages += 1
                yield message
            if midway is not None and n_messages == midway.after_messages:
                await self._midway(midway)
        finally:
            if not job.is_over:
                self._engine.drop(job)
                if not n_messages:
                    self._engine.unread(request.request_id, kv)

    async def _take(
        self, request: pb.GenerateRequest, kv: dict[str, Any], fault: VllmFault | None
    ) -> VllmJob:
        """Make a request's job; where that fails or is cancelled, prefill is told."""
        number = self._engine.number
        try:
            if fault is not None:
                await self._before(fault)
            return make_job(request, kv, self._config, self._tokenizer)
        except BaseException:
            if self._engine.number == number:
                self._engine.unread(request.request_id, kv)
            raise

    async def _frames(
        self, job: VllmJob, fault: VllmFault | None
    ) -> AsyncIterator[pb.GenerateResponse]:
        n_sent, n_vocab = 0, self._tokenizer.n_vocab
        fresh: list[int] = []
        while True:
            is_over = job.is_over
            if job.is_stream and (job.n_said > n_sent or is_over):
                fresh = _said(job)[n_sent:]
                yield chunk_frame(job, fresh, n_vocab, is_first=n_sent == 0)
                n_sent += len(fresh)
            if is_over:
                break
            await job.bell.wait()
            job.bell.clear()
        if fault is not None and fault.kind is VllmFaultKind.NO_COMPLETE:
            return
        if fault is not None and fault.kind is VllmFaultKind.NO_HANDOFF:
            job.handoff_json = None
        elif fault is not None and fault.kind is VllmFaultKind.BAD_HANDOFF:
            job.handoff_json = fault.message
        yield complete_frame(job, fresh if job.is_stream else _said(job), n_vocab)

    async def _before(self, fault: VllmFault) -> None:
        if fault.kind is VllmFaultKind.REFUSE:
            raise RpcRefused(fault.status, fault.message, fault.trailing)
        if fault.kind is VllmFaultKind.HANG:
            await asyncio.Event().wait()
        if fault.kind is VllmFaultKind.SLOW:
            await asyncio.sleep(fault.delay_s)

    async def _midway(self, fault: VllmFault) -> None:
        if fault.kind is VllmFaultKind.BREAK:
            raise RpcRefused(fault.status, fault.message, fault.trailing)
        if fault.after_messages and fault.kind is not VllmFaultKind.STALL:
            # A reset throws away what the peer has not read yet.
            await asyncio.sleep(0.05)
        if fault.kind is VllmFaultKind.CUT:
            self._cut()
        elif fault.kind is VllmFaultKind.DIE:
            self._die(fault.message or "told to die")
        await asyncio.Event().wait()


def _said(job: VllmJob) -> list[int]:
    return [] if job.plan is None else list(job.plan.ids[: job.n_said])


async def _refuse(context: _Context, refused: RpcRefused) -> None:
    await context.abort(
        grpc.StatusCode[refused.status], refused.message, tuple(refused.trailing.items())
    )


class Garbler(grpc.aio.ServerInterceptor):
    """Sends bytes that are no message where a fault wants it.

    Args:
        faults: The worker's.
    """

    def __init__(self, faults: VllmFaultBook) -> None:
        self._faults = faults

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Lets a call through, or spoils what it answers."""
        found = await continuation(handler_call_details)
        rpc = handler_call_details.method.rpartition("/")[2]
        waiting = next((fault for fault in self._faults.waiting if fault.rpc == rpc), None)
        if waiting is None or waiting.kind is not VllmFaultKind.GARBAGE:
            return found
        self._faults.take(rpc)
        return found._replace(response_serializer=lambda _: NO_MESSAGE)

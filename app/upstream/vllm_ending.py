"""How a generation on a vLLM worker is given up, and a handoff that nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.protocol.engine import EngineRequest
from app.upstream.failures import UpstreamError

if TYPE_CHECKING:
    from app.upstream.vllm_call import VllmCall
    from app.upstream.vllm_worker import VllmWorker

ENDING_S = 2.0
"""Longest that a generation is waited for that was aborted."""
ABORT_AGAIN_S = 0.25
"""An abort is unheard if it comes before its request."""


async def end(worker: VllmWorker, reading: asyncio.Task[Any], request_id: str) -> None:
    """Have the engine end a generation; takes 2 s at most, raises nothing.

    Cancelling a call before its first message does not do. A cancel that follows the request at
    once overtakes the engine's handler, and nobody tells prefill that the blocks will not be read
    (measured on loopback: 84 of 100 stayed pinned). Of a prefill, a cancel does not tell if it
    had ended and keeps its blocks. And after a cancel the servicer (0.14.1) has prefill told once
    more: with Mooncake (vLLM 0.32) that is another reader, for whom prefill waits 480 s in one of
    its twenty sender tasks, and with all of them taken no KV cache leaves it any more.

    Args:
        worker: Where it runs.
        reading: Reads it; when it is done, nothing more is done here.
        request_id: Its id.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ENDING_S):
            while not reading.done():
                await worker.abort([request_id])
                await asyncio.wait({reading}, timeout=ABORT_AGAIN_S)


async def release(worker: VllmWorker, request: EngineRequest) -> bool:
    """Have a decode worker take a handoff and drop it, so that prefill frees its blocks.

    There is no RPC for it: prefill only listens to the decode worker's engine. So one token is
    asked for, and the request is aborted unless it is answered before.

    Args:
        worker: The decode worker.
        request: The decode leg with its handoff.

    Returns:
        Whether the worker may have had the request; if not, another one may be asked.
    """
    sampling = replace(
        request.sampling,
        max_tokens=1,
        min_tokens=0,
        constraint=None,
        logprobs=None,
        prompt_logprobs=None,
    )
    call = worker.generate(replace(request, sampling=sampling, stream=True))
    # One that was lost may have had it as well.
    with contextlib.suppress(UpstreamError):
        async with call, asyncio.TaskGroup() as group:
            await end(worker, group.create_task(_first_of(call)), request.request_id)
            call.cancel()
    return call.sent


async def _first_of(call: VllmCall) -> None:
    """Wait for a call's first message, or for its end."""
    with contextlib.suppress(UpstreamError):
        await anext(call)

"""One call with one answer, and what its failure means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from app.upstream.failures import BrokenResponse, ConnectFailed, SilenceTimeout, UpstreamError
from app.upstream.vllm_channel import VllmChannel

_Answer = TypeVar("_Answer")


async def ask(
    channel: VllmChannel,
    rpc: Callable[..., grpc.aio.UnaryUnaryCall[Any, _Answer]],
    request: object,
    timeout_s: float,
    metadata: tuple[tuple[str, str], ...],
) -> _Answer:
    """Call and wait for the answer.

    Args:
        channel: The channel of ``rpc``.
        rpc: A method of one of its stubs.
        request: The message.
        timeout_s: For connecting and answering together.
        metadata: Sent with it.

    Raises:
        ConnectFailed: Nobody there.
        SilenceTimeout: No answer in time.
        BrokenResponse: The connection was lost, or the answer cannot be read.
        RpcFailed: An error status.
    """
    channel.check()
    channel.look()
    try:
        answer = await rpc(request, timeout=timeout_s, metadata=metadata)
    except grpc.aio.AioRpcError as exc:
        raise control_failure(channel, exc, timeout_s) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # The channel was closed under the call.
        raise ConnectFailed("The connection to the worker was closed.") from None
    finally:
        channel.look()
    return readable(answer)


def readable(message: _Answer | None) -> _Answer:
    """Returns a message; grpcio gives ``None`` for one that it could not read.

    Raises:
        BrokenResponse: It is such a one.
    """
    if message is None:
        raise BrokenResponse("The worker sent a message that cannot be read.")
    return message


def control_failure(
    channel: VllmChannel, exc: grpc.aio.AioRpcError, timeout_s: float
) -> UpstreamError:
    """Say what a failed control call was; these may be sent again, so "sent" does not matter."""
    if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return SilenceTimeout(f"The worker gave no answer in {timeout_s:g} s.", phase="head")
    if exc.code() is grpc.StatusCode.UNAVAILABLE and not channel.is_connected:
        return ConnectFailed(f"No connection to the worker: {exc.details()}")
    return channel.failure(exc)

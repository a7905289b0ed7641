"""What the end of one of grpcio's calls was: its status alone does not tell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from app.upstream.failures import BrokenResponse, ConnectFailed, SilenceTimeout, UpstreamError
from app.upstream.vllm_status import CONSTRAINT_KEY, rpc_failed, too_long

if TYPE_CHECKING:
    from app.upstream.grpcio_channel import GrpcioChannel

_CORE_FAULT = "Internal error from Core"
"""grpcio's own words for a write on a connection that is gone."""
_TOO_LONG = "CLIENT: Received message larger than max"
"""grpcio's own words, under a status by which workers say that they are full."""
_CUT = re.compile(
    r"recvmsg|sendmsg|Socket closed|Stream removed|Connection reset|Broken pipe|GOAWAY|"
    r"keepalive watchdog|ping timeout|Transport closed|Endpoint closing|Cancelling all calls"
)
"""grpcio's words for a connection that broke under a call; the channel may still look ready then.
A worker that uses them itself is only taken for more broken than it is."""


def failure_of(exc: grpc.aio.AioRpcError, *, is_connected: bool) -> UpstreamError:
    """Say what a failed call was.

    Args:
        exc: As raised by grpcio.
        is_connected: The channel is still ready. If it is not, UNAVAILABLE was made up by
            grpcio when the connection broke, and nobody knows what the engine did.
    """
    code, details = exc.code(), exc.details() or ""
    is_cut = code is grpc.StatusCode.UNAVAILABLE and (
        not is_connected or _CUT.search(details) is not None
    )
    if is_cut or (code is grpc.StatusCode.INTERNAL and details == _CORE_FAULT):
        return BrokenResponse(f"The connection to the worker was lost: {details or code.name}.")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LONG in details:
        return too_long()
    is_constraint = any(key == CONSTRAINT_KEY for key, _ in exc.trailing_metadata() or ())
    return rpc_failed(code.name, details, is_constraint=is_constraint)


def control_failure(
    channel: GrpcioChannel, exc: grpc.aio.AioRpcError, timeout_s: float | None
) -> UpstreamError:
    """Say what a failed control call was; these may be sent again, so "sent" does not matter."""
    if timeout_s is not None and exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return SilenceTimeout(f"The worker gave no answer in {timeout_s:g} s.", phase="head")
    if exc.code() is grpc.StatusCode.UNAVAILABLE and not channel.is_connected:
        return ConnectFailed(f"No connection to the worker: {exc.details()}")
    return channel.failure(exc)

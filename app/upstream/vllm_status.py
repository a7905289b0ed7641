"""What the end of a gRPC call means to the gateway.

Whether a request reached an engine is *not* read from a status: a worker (or a proxy before it)
may answer UNAVAILABLE with the very words that grpcio uses for a refused connection. It follows
from how far the call got, see :mod:`app.upstream.vllm_call`.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from app.upstream.failures import BrokenResponse, RpcFailed, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONSTRAINT_KEY = "smg-constraint-failed"
"""Trailing metadata by which newer servicers say that the output constraint was at fault."""

HTTP_STATUS: Mapping[str, int] = MappingProxyType(
    {
        "CANCELLED": 400,
        "UNKNOWN": 500,
        "INVALID_ARGUMENT": 400,
        "DEADLINE_EXCEEDED": 504,
        "NOT_FOUND": 404,
        "ALREADY_EXISTS": 409,
        "PERMISSION_DENIED": 403,
        "RESOURCE_EXHAUSTED": 429,
        "FAILED_PRECONDITION": 400,
        "ABORTED": 409,
        "OUT_OF_RANGE": 400,
        "UNIMPLEMENTED": 501,
        "INTERNAL": 500,
        "UNAVAILABLE": 503,
        "DATA_LOSS": 500,
        "UNAUTHENTICATED": 401,
    }
)
"""HTTP status of every gRPC status but OK, as SMG 1.13 answers."""

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
        return BrokenResponse("The worker sent a message that is longer than the gateway takes.")
    is_constraint = any(key == CONSTRAINT_KEY for key, _ in exc.trailing_metadata() or ())
    return RpcFailed(
        code.name,
        422 if is_constraint else HTTP_STATUS.get(code.name, 500),
        details or f"The worker ended the call with {code.name}.",
        "constraint_failed" if is_constraint else "",
    )

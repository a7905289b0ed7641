"""What the status of a gRPC call means to the gateway.

Whether a request reached an engine is *not* read from a status: a worker (or a proxy before it)
may answer UNAVAILABLE with the very words that a gRPC client uses for a refused connection. It
follows from how far the call got, see :mod:`app.upstream.vllm_call`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from app.upstream.failures import BrokenResponse, RpcFailed

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
"""HTTP status of every gRPC status but OK, as SMG 1.13 answers. The order is that of their
numbers, which begin at 1."""


def rpc_failed(status: str, details: str, *, is_constraint: bool = False) -> RpcFailed:
    """Return the failure of a call that its worker ended.

    Args:
        status: Name of the gRPC status.
        details: The worker's own text; may be empty.
        is_constraint: It sent ``CONSTRAINT_KEY``.
    """
    return RpcFailed(
        status,
        422 if is_constraint else HTTP_STATUS.get(status, 500),
        details or f"The worker ended the call with {status}.",
        "constraint_failed" if is_constraint else "",
    )


def too_long() -> BrokenResponse:
    """Return the failure of a call whose answer has a message over the limit."""
    return BrokenResponse("The worker sent a message that is longer than the gateway takes.")


def unreadable() -> BrokenResponse:
    """Return the failure of a call whose answer has a message that is none."""
    return BrokenResponse("The worker sent a message that cannot be read.")


def cancelled_here() -> RpcFailed:
    """Return the failure of a call that the gateway ended itself."""
    return rpc_failed("CANCELLED", "The call was cancelled by the gateway.")

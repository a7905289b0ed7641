"""What the headers and trailers of a gRPC answer say.

Sources: gRPC's PROTOCOL-HTTP2.md (responses, errors) and http-grpc-status-mapping.md.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import unquote

from app.upstream.failures import BrokenResponse, UpstreamError
from app.upstream.h2_frames import Code
from app.upstream.vllm_status import CONSTRAINT_KEY, HTTP_STATUS, rpc_failed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.upstream.h2_header_block import Headers

_NAMES = ("OK", *HTTP_STATUS)
_MAX_DIGITS = 3
_OF_HTTP: Mapping[int, str] = MappingProxyType(
    {
        400: "INTERNAL",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "UNIMPLEMENTED",
        429: "UNAVAILABLE",
        502: "UNAVAILABLE",
        503: "UNAVAILABLE",
        504: "UNAVAILABLE",
    }
)
_OF_RESET: Mapping[int, str] = MappingProxyType(
    {
        Code.CANCEL: "CANCELLED",
        Code.ENHANCE_YOUR_CALM: "RESOURCE_EXHAUSTED",
        Code.INADEQUATE_SECURITY: "PERMISSION_DENIED",
    }
)


def is_informational(headers: Headers) -> bool:
    """Whether the answer proper is still to come (HTTP status 1xx)."""
    return _value(headers, b":status").startswith(b"1")


def refusal(headers: Headers) -> UpstreamError | None:
    """Return why the head of an answer is not that of a gRPC answer; None if it is.

    A head with a gRPC status says by itself what went wrong.
    """
    status = _value(headers, b":status")
    if status == b"200" and _value(headers, b"content-type").startswith(b"application/grpc"):
        return None
    if _value(headers, b"grpc-status"):
        return None
    number = _number(status) or 0
    if number == 200:
        return rpc_failed("UNKNOWN", "The worker's answer is not gRPC.")
    name = _OF_HTTP.get(number, "UNKNOWN")
    return rpc_failed(name, f"The worker answered with HTTP status {number}.")


def ending(trailers: Headers) -> UpstreamError | None:
    """Return how a call ended; None: well.

    An answer without a status was cut by something between the worker and the gateway.
    """
    said = _value(trailers, b"grpc-status")
    if not said:
        return BrokenResponse("The worker ended the answer without a gRPC status.")
    number = _number(said)
    if number == 0:
        return None
    name = _NAMES[number] if number is not None and number < len(_NAMES) else "UNKNOWN"
    # Percent-encoded UTF-8; what is no such encoding stays as it is.
    details = unquote(_value(trailers, b"grpc-message").decode("utf-8", "replace"))
    is_constraint = any(key == CONSTRAINT_KEY.encode() for key, _ in trailers)
    return rpc_failed(name, details, is_constraint=is_constraint)


def after_reset(code: int) -> UpstreamError:
    """Return the failure of a call whose stream the worker reset after it took it."""
    name = _OF_RESET.get(code, "INTERNAL")
    return rpc_failed(name, f"Received RST_STREAM with error code {code}")


def _number(said: bytes) -> int | None:
    """Reads a status; Python refuses to read thousands of digits, and no status has more."""
    return int(said) if said.isdigit() and len(said) <= _MAX_DIGITS else None


def _value(headers: Headers, name: bytes) -> bytes:
    # A generator would take three times as long, eight times a request.
    for key, value in headers:
        if key == name:
            return value
    return b""

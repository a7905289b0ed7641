"""Which headers cross the gateway, and in which direction.

Both ways are allow-lists: a worker never sees the gateway's key or a cookie, a client never
sees a worker's ``server`` or ``set-cookie``.
"""

from __future__ import annotations

from app.dispatch.reply import RawHeaders

TO_WORKER = frozenset(
    {
        b"x-correlation-id",
        b"traceparent",
        b"tracestate",
        b"x-smg-routing-key",
    }
)
TRACE = frozenset({b"traceparent", b"tracestate"})
_OWN = ((b"content-type", b"application/json"), (b"accept", b"*/*"))
TO_CLIENT = frozenset({b"content-type", b"retry-after"})


def for_workers(client_headers: RawHeaders, request_id: str) -> list[tuple[bytes, bytes]]:
    """Returns the headers of both legs, without ``host``, framing and credentials."""
    headers = [*_OWN, *[pair for pair in client_headers if pair[0] in TO_WORKER]]
    if request_id:
        headers.append((b"x-request-id", request_id.encode("ascii")))
    return headers


def trace_metadata(headers: RawHeaders) -> tuple[tuple[str, str], ...]:
    """Returns the trace context among the headers of a leg, as gRPC takes it."""
    return tuple(
        (name.decode(), value.decode("ascii"))
        for name, value in headers
        if name in TRACE and value.isascii()
    )


def for_client(worker_headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """Returns the headers of a reply that the client may see; framing is the relay's."""
    return [pair for pair in worker_headers if pair[0] in TO_CLIENT]

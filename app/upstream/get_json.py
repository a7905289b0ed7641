"""One GET of a JSON object, on a connection of its own: for what is asked once."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.upstream.failures import ConnectFailed, UpstreamError
from app.upstream.http1 import Http1Pool

MAX_ANSWER_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """What came of it.

    Attributes:
        status: HTTP status; 0: no answer was had.
        body: The object; empty if the answer was none.
        error: A sentence where no answer was had.
        is_reachable: Somebody listens there.
    """

    status: int = 0
    body: Mapping[str, Any] | None = None
    error: str = ""
    is_reachable: bool = True


async def get_json(
    base_url: str,
    target: str,
    *,
    timeout_s: float,
    headers: Sequence[tuple[bytes, bytes]] = (),
    ssl_context: ssl.SSLContext | None = None,
) -> JsonAnswer:
    """Ask once; a failure is an answer, nothing is raised but ``ValueError``.

    Redirects are answers as any other: they are not followed.

    Args:
        base_url: Scheme, host and port.
        target: Path and query.
        timeout_s: For the connection, and again for every silence after it.
        headers: Sent with it.
        ssl_context: For ``https``.

    Raises:
        ValueError: The URL has another form, or a header would break the framing.
    """
    pool = Http1Pool(base_url, connect_timeout_s=timeout_s, ssl_context=ssl_context)
    try:
        exchange = pool.exchange(
            b"GET",
            target.encode(),
            [(b"accept", b"application/json"), (b"accept-encoding", b"identity"), *headers],
            silence_timeout_s=timeout_s,
        )
        try:
            head = await exchange.head()
            data = await exchange.read(MAX_ANSWER_BYTES)
        finally:
            exchange.close()
    except ConnectFailed as exc:
        return JsonAnswer(error=str(exc), is_reachable=False)
    except UpstreamError as exc:
        return JsonAnswer(error=str(exc))
    finally:
        await pool.aclose()
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        found = None
    return JsonAnswer(head.status, found if isinstance(found, dict) else None)

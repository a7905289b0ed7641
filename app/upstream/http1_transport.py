"""Lets httpx speak over a worker's own pool, for the calls that are not the data plane."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import httpx

from app.upstream.failures import (
    BodyTooLong,
    ConnectFailed,
    ConnectTimeout,
    SilenceTimeout,
    UpstreamError,
)
from app.upstream.http1 import Exchange, Http1Pool

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Of a control call; SGLang's ``/server_info`` has 37 KB."""

# The pool writes these itself.
_CONNECTION_HEADERS = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect")
)


class Http1Transport(httpx.AsyncBaseTransport):
    """Sends httpx requests through a pool and raises httpx's own exceptions.

    The ``timeout`` extension of a request is respected: ``connect`` for the connection, ``read``
    for silence; ``write`` and ``pool`` have no meaning here.

    Args:
        pool: Connections to the one worker that may be called; closing the transport leaves
            the pool open.
        silence_timeout_s: For requests that bring no timeout of their own.
        max_answer_bytes: A longer body is a protocol error; httpx itself would read on for ever.
    """

    def __init__(
        self,
        pool: Http1Pool,
        silence_timeout_s: float,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._pool = pool
        self._silence_timeout_s = silence_timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._origin = _origin(httpx.URL(pool.base_url))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request and returns its response with the body still to be read.

        Raises:
            httpx.UnsupportedProtocol: The request is for another worker than the pool's.
            httpx.LocalProtocolError: The request's head would break the framing.
            httpx.TransportError: As the upstream failure says.
        """
        if _origin(request.url) != self._origin:
            raise httpx.UnsupportedProtocol(
                f"This client speaks to {self._pool.base_url} only.", request=request
            )
        timeouts_s = request.extensions.get("timeout")
        silence_timeout_s, connect_timeout_s = self._silence_timeout_s, None
        if timeouts_s is not None:
            silence_timeout_s = _limit_s(timeouts_s.get("read"))
            connect_timeout_s = _limit_s(timeouts_s.get("connect"))
        body = await request.aread()
        try:
            exchange = self._pool.exchange(
                request.method.encode("ascii"),
                request.url.raw_path,
                [
                    pair
                    for pair in request.headers.raw
                    if pair[0].lower() not in _CONNECTION_HEADERS
                ],
                body,
                silence_timeout_s=silence_timeout_s,
                connect_timeout_s=connect_timeout_s,
            )
        except ValueError as exc:
            raise httpx.LocalProtocolError(str(exc), request=request) from exc
        try:
            head = await exchange.head()
        except UpstreamError as exc:
            exchange.close()
            raise _httpx_error(exc, request) from exc
        except BaseException:
            exchange.close()
            raise
        if any(name.lower() == b"content-encoding" for name, _ in head.headers):
            exchange.close()
            # httpx would unpack it, to any size.
            raise httpx.RemoteProtocolError(
                "The worker's answer is compressed, which it was asked not to do.", request=request
            )
        return httpx.Response(
            head.status,
            headers=head.headers,
            stream=_Body(exchange, request, self._max_answer_bytes),
            request=request,
        )


class _Body(httpx.AsyncByteStream):
    """The body of a response, and the end of its exchange."""

    def __init__(self, exchange: Exchange, request: httpx.Request, max_bytes: int) -> None:
        self._exchange = exchange
        self._request = request
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        n_bytes = 0
        try:
            while data := await self._exchange.chunk():
                n_bytes += len(data)
                if n_bytes > self._max_bytes:
                    raise BodyTooLong(f"The worker's answer is over {self._max_bytes} bytes.")
                yield data
        except UpstreamError as exc:
            raise _httpx_error(exc, self._request) from exc

    async def aclose(self) -> None:
        self._exchange.close()


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _limit_s(timeout_s: float | None) -> float:
    return math.inf if timeout_s is None else timeout_s


def _httpx_error(exc: UpstreamError, request: httpx.Request) -> httpx.TransportError:
    """The exception by which httpx's callers know this failure."""
    if isinstance(exc, ConnectTimeout):
        return httpx.ConnectTimeout(str(exc), request=request)
    if isinstance(exc, ConnectFailed):
        return httpx.ConnectError(str(exc), request=request)
    if isinstance(exc, SilenceTimeout):
        return httpx.ReadTimeout(str(exc), request=request)
    return httpx.RemoteProtocolError(str(exc), request=request)

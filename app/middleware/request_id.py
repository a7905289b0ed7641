"""Gives every request an id, kept from the client where it is sound.

The names of the headers, the accepted alphabet and the prefixes are those of SMG 1.13.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = (b"x-request-id", b"x-correlation-id", b"x-trace-id", b"request-id")
_SOUND = re.compile(rb"[\x21-\x7e]{1,128}")
_PREFIXES = {
    "/v1/chat/completions": "chatcmpl-",
    "/v1/completions": "cmpl-",
    "/generate": "gnt-",
    "/v1/responses": "resp-",
    "/v1/messages": "msg_",
}


def find_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Returns the client's id: the first sound value, by the order of :data:`NAMES`."""
    found: bytes | None = None
    best = len(NAMES)
    for name, value in headers:
        if name in NAMES:
            rank = NAMES.index(name)
            if rank < best and _SOUND.fullmatch(value):
                found, best = value, rank
    return found


class RequestIdMiddleware:
    """Puts the id in ``scope["state"]["request_id"]`` and in the answer's ``x-request-id``.

    Args:
        app: The next layer.
        getrandbits: Source of ids, 96 bits each (24 hexadecimal digits). An id names a request,
            it protects nothing, so the fast generator is enough.
    """

    def __init__(
        self, app: ASGIApp, getrandbits: Callable[[int], int] = random.getrandbits
    ) -> None:
        self._app = app
        self._getrandbits = getrandbits

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serves one request, or passes another kind of scope on.

        Returns the next layer's awaitable itself: one coroutine less to resume at every event.
        """
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        raw = find_id(scope["headers"])
        if raw is None:
            prefix = _PREFIXES.get(scope["path"], "req-")
            raw = f"{prefix}{self._getrandbits(96):024x}".encode("ascii")
        scope.setdefault("state", {})["request_id"] = raw.decode("ascii")
        entry = (b"x-request-id", raw)

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                message["headers"] = [
                    *(pair for pair in headers if pair[0] != b"x-request-id"),
                    entry,
                ]
            return send(message)

        return self._app(scope, receive, send_with_id)

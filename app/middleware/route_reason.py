"""Tells a client why its request went where it went, if it asks and may know."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.access import Access
from app.middleware.auth import bearer_token
from app.middleware.key_ring import KeyRing

ASKS = (b"x-tandem-debug", b"1")
KEY = b"x-tandem-control-key"
ANSWERS = b"x-tandem-route"


class RouteReasonMiddleware:
    """Adds ``x-tandem-route`` to the answer of a request that has ``x-tandem-debug: 1``.

    The reason names workers, so it is for those who may see ``/workers``: everybody while there
    are no keys, the key of the request itself if it opens both planes, and whoever sends a key of
    the control plane in ``x-tandem-control-key``. Where ``--expose-worker-addresses`` is set it is
    for all. Who may not know gets the answer without it.

    Args:
        app: The next layer.
        keys: The keys; may change while requests run.
        exposes_addresses: Clients may know the workers' addresses.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, exposes_addresses: bool) -> None:
        self._app = app
        self._keys = keys
        self._exposes_addresses = exposes_addresses

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serves one request, or passes another kind of scope on."""
        if scope["type"] != "http" or ASKS not in scope["headers"] or not self._may_know(scope):
            return self._app(scope, receive, send)
        state = scope.setdefault("state", {})

        def send_with_reason(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                reason = state.get("log", {}).get("reason")
                if reason is not None:
                    text = reason.text(with_urls=True)
                    entry = (ANSWERS, text.encode("ascii", "replace"))
                    message["headers"] = [*message.get("headers", ()), entry]
            return send(message)

        return self._app(scope, receive, send_with_reason)

    def _may_know(self, scope: Scope) -> bool:
        if self._exposes_addresses:
            return True
        headers = scope["headers"]
        extra = next((value for name, value in headers if name == KEY), None)
        return any(
            self._keys.refusal(Access.CONTROL, "GET", self._keys.find(token)) is None
            for token in (bearer_token(headers), extra)
        )

"""Asks for a key where the table of routes says so."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problem import send_problem
from app.errors import BadKey
from app.middleware.access import Access, access_of, route_path
from app.middleware.key_ring import KeyRing

CHALLENGES = {
    True: (b"www-authenticate", b'Bearer realm="control-plane"'),
    False: (b"www-authenticate", b'Bearer realm="data-plane"'),
}


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Returns the token of ``Authorization: Bearer``, the scheme in any case."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            return token.strip() if scheme.lower() == b"bearer" else None
    return None


class AuthMiddleware:
    """Lets a request pass whose key opens its route; the key's name stays in its state.

    Args:
        app: The next layer.
        keys: The keys; may change while requests run.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serves one request, or passes another kind of scope on."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        path, root_path = scope["path"], scope.get("root_path")
        access = access_of(route_path(path, root_path) if root_path else path)
        key = self._keys.find(bearer_token(scope["headers"]))
        error = self._keys.refusal(access, scope["method"], key)
        if error is not None:
            challenge = CHALLENGES[access is Access.CONTROL]
            extra = (challenge,) if isinstance(error, BadKey) else ()
            return send_problem(scope, send, error, extra_headers=extra)
        if key is not None:
            scope.setdefault("state", {})["key_name"] = key.name
        return self._app(scope, receive, send)

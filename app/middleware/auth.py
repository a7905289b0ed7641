"""Asks for the gateway's key on everything that is not public."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problem import send_problem
from app.errors import BadKey

PUBLIC_PATHS = frozenset({"/health", "/liveness", "/readiness", "/openapi.json", "/docs"})
PUBLIC_PREFIXES = ("/docs/",)
CHALLENGE = (b"www-authenticate", b'Bearer realm="data-plane"')


def is_public(method: str, path: str) -> bool:
    """Whether a route is open without a key.

    Health, the documentation and the list of models are; what SMG leaves open beside them
    (``/health_generate``, server and model info, engine metrics) costs GPU work or tells about
    the fleet, so it needs the key here.
    """
    if path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES):
        return True
    is_model_route = path == "/v1/models" or path.startswith("/v1/models/")
    return is_model_route and method in ("GET", "HEAD")


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Returns the token of ``Authorization: Bearer``, the scheme in any case."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            return token.strip() if scheme.lower() == b"bearer" else None
    return None


class AuthMiddleware:
    """Compares a digest of the caller's key in constant time.

    Args:
        app: The next layer.
        api_key: The key, as text.
    """

    def __init__(self, app: ASGIApp, *, api_key: str) -> None:
        self._app = app
        self._digest = hashlib.sha256(api_key.encode()).digest()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serves one request, or passes another kind of scope on."""
        if scope["type"] == "http" and not self._is_allowed(scope):
            return send_problem(
                scope,
                send,
                BadKey(
                    "The key is missing or wrong; send the gateway's key as "
                    "'Authorization: Bearer KEY'."
                ),
                extra_headers=(CHALLENGE,),
            )
        return self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        token = bearer_token(scope["headers"])
        if token is not None:
            digest = hashlib.sha256(token).digest()
            if hmac.compare_digest(digest, self._digest):
                return True
        return is_public(scope["method"], scope["path"])

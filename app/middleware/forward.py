"""Passes requests for what another process keeps on to that process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.control_body import read_control_body
from app.api.problem import send_problem
from app.errors import GatewayError
from app.middleware.access import route_path

Headers = list[tuple[bytes, bytes]]
Ask = Callable[[str, str, bytes, Headers, bytes], Awaitable[tuple[int, Headers, bytes]]]

_ROUTES = ("/workers", "/policies", "/flush_cache", "/metrics")


class ForwardMiddleware:
    """Answers for the routes of registry and scheduler with what their process says.

    It stands behind the layers that ask for keys: that process asks nobody.

    Args:
        app: The next layer.
        ask: Passes a request on; raises ``GatewayError`` if nobody is there.
    """

    def __init__(self, app: ASGIApp, *, ask: Ask) -> None:
        self._app = app
        self._ask = ask

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serves one request, or hands it on."""
        if scope["type"] == "http" and _is_far(scope):
            return self._serve(scope, receive, send)
        return self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_control_body(Request(scope, receive), "A body")
            status, headers, answer = await self._ask(
                scope["method"], _path(scope), scope["query_string"], list(scope["headers"]), body
            )
        except GatewayError as error:
            await send_problem(scope, send, error)
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def _is_far(scope: Scope) -> bool:
    path = _path(scope)
    return any(path == route or path.startswith(f"{route}/") for route in _ROUTES)


def _path(scope: Scope) -> str:
    return route_path(scope["path"], scope.get("root_path") or "")

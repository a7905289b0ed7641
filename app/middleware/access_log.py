"""One line a request at its end, and the last stop for a defect of the gateway."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from app.api.problem import send_problem
from app.clock import Clock
from app.errors import ClientGone, InternalError

QUIET_PATHS = frozenset({"/health", "/liveness", "/readiness", "/metrics"})
CLIENT_CLOSED = 499
"""The status nginx made usual for a client that left before its answer."""


class AccessLogMiddleware:
    """Logs method, path, status and duration; turns an unexpected exception into a 500.

    A route may leave a dict in ``scope["state"]["log"]``: its entries join the line. A layer that
    has logged a request itself sets ``is_logged`` there.

    Args:
        app: The next layer.
        log: Where lines go.
        is_shown: Whether info lines are written at all; if not, none is built.
        now_s: Clock of the durations.
    """

    def __init__(
        self, app: ASGIApp, *, log: FilteringBoundLogger, is_shown: bool, now_s: Clock
    ) -> None:
        self._app = app
        self._log = log
        self._is_shown = is_shown
        self._now_s = now_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or passes another kind of scope on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = self._now_s()
        status = 0

        def send_noting_status(message: Message) -> Awaitable[None]:
            nonlocal status
            if not status and message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        try:
            await self._app(scope, receive, send_noting_status)
        except ClientGone:
            # Nobody is there to be told; the line below has the status.
            pass
        except Exception:
            self._log.exception(
                "request failed unexpectedly",
                method=scope["method"],
                path=scope["path"],
                request_id=scope.get("state", {}).get("request_id"),
            )
            if status:
                # Half an answer is out: raising makes the server cut the connection, which is
                # the only way left to say that it is not whole.
                raise
            await send_problem(
                scope,
                send_noting_status,
                InternalError("The gateway failed on this request; its log has the details."),
            )
        finally:
            if self._is_shown and scope["path"] not in QUIET_PATHS:
                self._write(scope, status, self._now_s() - started_s)

    def _write(self, scope: Scope, status: int, duration_s: float) -> None:
        state = scope.get("state", {})
        if "is_logged" in state:
            return
        named = {"key": state["key_name"]} if "key_name" in state else {}
        # Where the server itself has answered, it has noted what.
        status = status or state.get("server_status", CLIENT_CLOSED)
        self._log.info(
            "request",
            **{
                **state.get("log", {}),
                **named,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "duration_ms": round(duration_s * 1000, 3),
                "request_id": state.get("request_id"),
            },
        )

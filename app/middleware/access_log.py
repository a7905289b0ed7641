"""The end of a request: one line, the figures, and the last stop for a defect of the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from app.api.problem import send_problem
from app.clock import Clock
from app.errors import ClientGone, InternalError
from app.middleware.access import route_label
from app.observability.log import request_fields
from app.observability.notes import Notes
from app.observability.quick_info import write_info

QUIET_PATHS = frozenset({"/health", "/liveness", "/readiness", "/metrics"})
CLIENT_CLOSED = 499
"""The status nginx made usual for a client that left before its answer."""

OnEnd = Callable[[Notes, str, str], None]
"""Takes what was noted of a request that is over, its method and the label of its route."""


class AccessLogMiddleware:
    """Begins the notes of every request and sees to what is made of them at its end.

    They lie in ``scope["state"]["notes"]``. A layer that has logged a request itself sets
    ``is_logged`` beside them; a server that knows when the head was here has left it as
    ``arrived_s``, of the notes' clock. An unexpected exception becomes a 500.

    Args:
        app: The next layer.
        log: Where lines go.
        is_shown: Whether info lines are written at all; if not, none is built.
        now_s: Clock of the notes.
        on_end: Told of each request that is over.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        log: FilteringBoundLogger,
        is_shown: bool,
        now_s: Clock,
        on_end: OnEnd | None = None,
    ) -> None:
        self._app = app
        self._log = log
        self._is_shown = is_shown
        self._now_s = now_s
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or passes another kind of scope on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        notes = Notes(self._now_s, state.pop("arrived_s", None))
        state["notes"] = notes

        def send_noting_status(message: Message) -> Awaitable[None]:
            if not notes.status and message["type"] == "http.response.start":
                notes.status = message["status"]
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
                request_id=state.get("request_id"),
            )
            error = InternalError("The gateway failed on this request; its log has the details.")
            notes.fail(error)
            if notes.status:
                # Half an answer is out: raising makes the server cut the connection, which is
                # the only way left to say that it is not whole.
                raise
            await send_problem(scope, send_noting_status, error)
        finally:
            self._end(notes, scope)
            # Of a client that left the server makes a circle, and the scope is in it.
            del state["notes"]

    def _end(self, notes: Notes, scope: Scope) -> None:
        state = scope["state"]
        notes.ended_s = notes.now_s()
        # Where the server itself has answered, it has noted what.
        notes.status = notes.status or CLIENT_CLOSED
        notes.request_id = state.get("request_id", "")
        method, path = scope["method"], scope["path"]
        if self._on_end is not None:
            self._on_end(notes, method, notes.route or route_label(path))
        if self._is_shown and path not in QUIET_PATHS and "is_logged" not in state:
            fields = request_fields(notes)
            if "key_name" in state:
                fields["key"] = state["key_name"]
            fields["method"], fields["path"] = method, path
            write_info(self._log, "request", fields)

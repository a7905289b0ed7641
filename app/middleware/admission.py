"""Takes a request on or refuses it at once, before a byte of its body was read.

A limit without a queue: what does not fit is told when to come again. Health, metrics, models
and everything of the control plane never pass here.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from app.api.problem import send_problem
from app.clock import Clock
from app.errors import GatewayError, RateLimited
from app.middleware.access import GATED, route_path
from app.middleware.door import Door, Ticket
from app.middleware.rate_limit import RateLimit

ANONYMOUS = "anonymous"
"""Who shares one bucket where no key is asked for: a name that anybody can invent is none."""
MAX_RETRY_AFTER_S = 3600
LOG_EVERY_S = 1.0
_ALL = ""


class AdmissionMiddleware:
    """Admits POST on the routes that read bodies; the ticket lies in the request's state.

    Args:
        app: The next layer.
        door: Counts who is inside.
        key_rate: Limit of each key.
        total_rate: Limit of all together.
        log: Told of refusals, at most once a second.
        now_s: Clock of that second.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        door: Door,
        key_rate: RateLimit | None,
        total_rate: RateLimit | None,
        log: FilteringBoundLogger,
        now_s: Clock,
    ) -> None:
        self._app = app
        self._door = door
        self._key_rate = key_rate
        self._total_rate = total_rate
        self._log = log
        self._now_s = now_s
        self._refused: dict[str, int] = {}
        self._log_at_s = -math.inf

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serves one request, or passes what is not gated on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return self._app(scope, receive, send)
        path, root_path = scope["path"], scope.get("root_path")
        if (route_path(path, root_path) if root_path else path) not in GATED:
            return self._app(scope, receive, send)
        return self._admit(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        key = state.get("key_name", ANONYMOUS)
        error = self._refusal(key)
        if error is not None:
            # One line for each would cost more than the refusal.
            state["is_logged"] = True
            self._note(error.code)
            await send_problem(scope, send, error)
            return
        if self._key_rate is not None:
            self._key_rate.take(key)
        if self._total_rate is not None:
            self._total_rate.take(_ALL)
        ticket = state["ticket"] = Ticket(self._door, self._key_rate, key)
        try:
            await self._app(scope, receive, send)
        finally:
            ticket.leave()

    def _refusal(self, key: str) -> GatewayError | None:
        """Returns why a request may not come in; nothing is taken for one that may not."""
        if self._key_rate is not None and (wait_s := self._key_rate.wait_s(key)):
            return _too_fast("with this key" if key != ANONYMOUS else "here", wait_s)
        if self._total_rate is not None and (wait_s := self._total_rate.wait_s(_ALL)):
            return _too_fast("here", wait_s)
        if not self._door.has_room():
            return self._door.full("as many requests run as it takes on")
        return None

    def _note(self, code: str) -> None:
        self._refused[code] = self._refused.get(code, 0) + 1
        self._door.refused[code] += 1
        now_s = self._now_s()
        if now_s >= self._log_at_s:
            self._log_at_s = now_s + LOG_EVERY_S
            self._log.warning("requests refused", **self._refused, in_flight=self._door.n_in_flight)
            self._refused.clear()


def _too_fast(where: str, wait_s: float) -> RateLimited:
    retry_after_s = min(math.ceil(wait_s), MAX_RETRY_AFTER_S)
    return RateLimited(
        f"Too many requests {where}; try again in {retry_after_s} s.", retry_after_s=retry_after_s
    )

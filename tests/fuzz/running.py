"""A fleet that stays up while a plain test throws one answer after the other at it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from app.protocol.sse import EventSplitter, data_of
from tests.flow.fleet import CHAT, COMPLETIONS, GENERATE, Fleet, Got, body_of

MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
SETTINGS: dict[str, Any] = {"cb_failure_threshold": 10**6, "request_timeout_secs": 5.0}
ROUTES = st.sampled_from([CHAT, COMPLETIONS, GENERATE])
MODES = st.sampled_from(
    [
        {},
        {"stream": True},
        {"stream": True, "n": 2},
        {"stream": True, "stream_options": {"include_usage": True}},
    ]
)


class Running:
    """A fleet in a loop that a plain test steps.

    Args:
        runner: The loop.

    Attributes:
        stack: Ends everything, see ``close``.
        fleet: To be set by who starts it.
        said: What the decode worker says next.
    """

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.stack = AsyncExitStack()
        self.fleet: Any = None
        self.said: list[Any] = []

    def ask(self, route: str, more: dict[str, Any]) -> Got:
        """Sends a request, and waits until nothing of it is left."""
        if route == GENERATE:
            more = {key: value for key, value in more.items() if key == "stream"}
        return self._runner.run(self._ask(route, more))

    async def _ask(self, route: str, more: dict[str, Any]) -> Got:
        fleet: Fleet = self.fleet
        got = await fleet.ask(route, body_of(route, **more))
        await fleet.settle()
        return got

    def close(self) -> None:
        """Ends the fleet."""
        self._runner.run(self.stack.aclose())


def check(got: Got) -> None:
    """It ended as an answer does, or with an error of a worker.

    What a worker streams is passed on unread, so only the end of a stream is the gateway's word.
    """
    if not got.is_stream:
        error = None if got.status == 200 else got.error
    else:
        last = data_of(EventSplitter().feed(got.raw)[-1])
        error = None if last == b"[DONE]" else orjson.loads(last)["error"]
    if error is not None:
        assert error["code"] != "internal_error", got.raw
        assert error["leg"] in ("prefill", "decode"), got.raw


def as_json(value: Any) -> bytes:
    """JSON of a drawn value; a fixed one for what has no JSON."""
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError):
        return b'{"choices":[]}'

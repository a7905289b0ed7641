"""The generation routes: ``peek -> prepare -> choose -> open -> relay``.

A raw ASGI endpoint, because the framework's request and response objects would cost more than
everything else on this path (``docs/decisions.md``). It owns the request's task group: whatever
runs for a request ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from traceback import clear_frames
from typing import Any

from starlette.types import Receive, Scope, Send

from app.api.debug_headers import DebugHeaders, Headers
from app.api.keep_alive import KeepAlive
from app.api.leaving import Client, leaving
from app.api.problem import send_problem
from app.api.relay import Relay
from app.dispatch.pd_router import PDRouter
from app.dispatch.reply import Prepared
from app.errors import (
    BodyTooLarge,
    ClientGone,
    ClientStalled,
    GatewayError,
    ShuttingDown,
    drop_frames,
)
from app.middleware.door import Ticket
from app.observability.notes import CLIENT_GONE, CLIENT_STALLED, Notes
from app.protocol.facts import parse_object, read_facts
from app.protocol.routes import Route
from app.protocol.routing_key import routing_key
from app.scheduling.prompt_sketch import sketch

MAX_FAN_OUT_BYTES = 64 * 1024 * 1024
"""Every choice of a request is sent the whole body, so this bounds all of them together."""
MAX_LOGGED_MODEL_CHARS = 200


class GenerationEndpoint:
    """One generation route.

    Args:
        route: Which one.
        router: Chooses pairs and opens legs.
        max_body_bytes: Larger bodies are refused with 413.
        keep_alive: When a silent stream gets a comment.
        debug: Who is told of times and workers; None: nobody.
        keeps_sketches: The flight recorder wants the prompts' blocks.
        goes_past_layers: No layer before it adds anything to an answer but the request's id.
    """

    def __init__(
        self,
        route: Route,
        router: PDRouter,
        max_body_bytes: int,
        keep_alive: KeepAlive = KeepAlive(),  # noqa: B008 - frozen
        debug: DebugHeaders | None = None,
        *,
        keeps_sketches: bool = False,
        goes_past_layers: bool = True,
    ) -> None:
        self._route = route
        # Looked up, an enumeration's value is two calls.
        self._label = route.value
        self._router = router
        self._max_body_bytes = max_body_bytes
        self._keep_alive = keep_alive
        self._debug = debug
        self._keeps_sketches = keeps_sketches
        self._goes_past_layers = goes_past_layers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        state = scope.get("state", {})
        ticket: Ticket | None = state.get("ticket")
        notes = _notes_of(state, self._label)
        try:
            prepared = await self._prepare(scope, receive, state, notes)
        except ClientGone:
            # Unless the server has answered in our place.
            notes.outcome = notes.outcome or CLIENT_GONE
            return
        except GatewayError as error:
            notes.fail(error)
            await send_problem(scope, send, error)
            return
        client: Client | None = state.get("client")
        writer = client.writer if client is not None and self._goes_past_layers else None
        relay = Relay(send, self._keep_alive, notes, writer, state.get("request_id", ""))
        try:
            async with asyncio.TaskGroup() as request:
                with leaving(state, receive, request):
                    await self._answer(prepared, request, relay, scope, send, ticket)
        except* ClientGone as gone:
            is_stalled = gone.subgroup(ClientStalled) is not None
            notes.outcome = CLIENT_STALLED if is_stalled else CLIENT_GONE
            # All tasks of the request are through. The frames hold the group and it them, see
            # ``drop_frames``.
            clear_frames(gone.__traceback__)
        except* ShuttingDown as ending:
            await self._fail(_first(ending), prepared, relay, scope, send)

    async def _prepare(
        self, scope: Scope, receive: Receive, state: Mapping[str, Any], notes: Notes
    ) -> Prepared:
        """Reads and parses the body, once; the parsed one is not kept for the request's life."""
        body = await read_body(scope, receive, self._max_body_bytes)
        notes.read_s = notes.now_s()
        document = parse_object(body)
        facts = read_facts(self._route, document, body, routing_key(scope["headers"]))
        notes.model = facts.model and facts.model[:MAX_LOGGED_MODEL_CHARS]
        notes.is_stream = facts.stream
        if self._keeps_sketches:
            notes.sketch = sketch(facts)
        ticket: Ticket | None = state.get("ticket")
        if ticket is not None:
            ticket.count(facts.n, facts.batch or 1)
        if facts.n > 1 and facts.n * len(body) > MAX_FAN_OUT_BYTES:
            raise BodyTooLarge(
                f"With n = {facts.n} the body may have {MAX_FAN_OUT_BYTES // facts.n} bytes: "
                "every choice is sent it whole.",
                param="n",
            )
        request_id, key_name = state.get("request_id", ""), state.get("key_name", "")
        return await self._router.prepare(
            facts, document, body, scope["headers"], request_id, notes, key_name
        )

    async def _answer(
        self,
        prepared: Prepared,
        request: asyncio.TaskGroup,
        relay: Relay,
        scope: Scope,
        send: Send,
        ticket: Ticket | None,
    ) -> None:
        if self._keep_alive.is_early and prepared.facts.stream:
            relay.watch(request)
        try:
            async with self._router.open(prepared, request) as reply:
                if prepared.text is None:
                    # Both legs have it; nobody sends it again. A long stream holds no prompt.
                    prepared.body = b""
                    if ticket is not None:
                        ticket.drop_body()
                reply.headers += self._debug_headers(scope, prepared.notes)
                await relay.run(reply, request)
        except GatewayError as error:
            await self._fail(error, prepared, relay, scope, send)
        finally:
            relay.hush()

    async def _fail(
        self, error: GatewayError, prepared: Prepared, relay: Relay, scope: Scope, send: Send
    ) -> None:
        prepared.notes.fail(error)
        relay.hush()
        if relay.has_started:
            await relay.fail(error)
        else:
            extra = self._debug_headers(scope, prepared.notes)
            await send_problem(scope, send, error, extra_headers=extra)
        drop_frames(error)

    def _debug_headers(self, scope: Scope, notes: Notes) -> Headers:
        debug = self._debug
        return debug.of(notes) if debug is not None and debug.are_due(scope) else []


def _notes_of(state: dict[str, Any], route: str) -> Notes:
    """What is noted of the request; without the access log's layer nobody will read it."""
    notes: Notes = state.get("notes") or Notes()
    notes.route = route
    return notes


def _first(group: BaseExceptionGroup[ShuttingDown]) -> ShuttingDown:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def read_body(scope: Scope, receive: Receive, max_body_bytes: int) -> bytes:
    """Reads a request body, and counts it with the request's ticket.

    Raises:
        BodyTooLarge: It is, or says it will be, over the limit.
        GatewayFull: The bodies of all running requests are too large together.
        ClientGone: The client left before its end.
    """
    ticket: Ticket | None = scope.get("state", {}).get("ticket")
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            n_bytes = _length(value)
            if n_bytes > max_body_bytes:
                raise _too_large(max_body_bytes)
            if ticket is not None:
                ticket.expect_body(n_bytes)
    parts: list[bytes] = []
    n_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        n_bytes += len(part)
        if n_bytes > max_body_bytes:
            raise _too_large(max_body_bytes)
        if ticket is not None:
            ticket.add_body(len(part))
        if not message.get("more_body", False):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


def _length(digits: bytes) -> int:
    # Python refuses to read thousands of digits, even zeros.
    return int(digits.lstrip(b"0")[:20] or b"0")


def _too_large(max_body_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the request body is larger than {max_body_bytes} bytes (--max-payload-size)"
    )

"""What is refused at the door, and how; round a small ASGI application."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import CapturingLogger

from app.api.generation import read_body
from app.errors import BodyTooLarge, GatewayFull, InvalidRequest
from app.middleware.access import GATED
from app.middleware.admission import AdmissionMiddleware
from app.middleware.door import Door, Ticket
from app.middleware.rate_limit import RateLimit

PATH = "/v1/chat/completions"


class Inner:
    """Notes what was inside; then does as it is told."""

    def __init__(self, doing: Callable[[Scope], Any] | None = None) -> None:
        self.n_calls = 0
        self._doing = doing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.n_calls += 1
        if self._doing is not None:
            await self._doing(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


class Gate:
    """An admission layer, its clock and its log."""

    def __init__(self, inner: ASGIApp, *, limit: int = 0, **rates: float) -> None:
        self.now_s = 0.0
        self.log = CapturingLogger()
        self.door = Door(max_in_flight=limit, max_body_bytes=100)
        self.layer = AdmissionMiddleware(
            inner,
            door=self.door,
            key_rate=self._rate(rates.get("key", 0.0)),
            total_rate=self._rate(rates.get("total", 0.0)),
            log=self.log,
            now_s=lambda: self.now_s,
        )

    def _rate(self, rate: float) -> RateLimit | None:
        if not rate:
            return None
        return RateLimit(rate, max(1.0, rate), max_buckets=9, now_s=lambda: self.now_s)

    async def post(self, path: str = PATH, *, key: str | None = None) -> httpx.Response:
        """Sends one request through the layer; reading its body fails the test."""
        return await ask(self.layer, "POST", path, key)


async def ask(app: ASGIApp, method: str, path: str, key: str | None = None) -> httpx.Response:
    """Calls an application that must not read."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    state = {} if key is None else {"key_name": key}
    scope = {"type": "http", "method": method, "path": path, "headers": [], "state": state}
    await app(scope, receive, send)
    return httpx.Response(
        sent[0]["status"], headers=sent[0]["headers"], content=sent[1].get("body", b"")
    )


def told(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and Retry-After."""
    error = answer.json()["error"]
    assert answer.headers["x-tandem-error-code"] == error["code"]
    return answer.status_code, error["code"], answer.headers["retry-after"]


async def test_full_is_refused_unread() -> None:
    """503 with times that spread who comes again; whoever is inside goes on."""
    inner = Inner()
    gate = Gate(inner, limit=1)
    ticket = Ticket(gate.door)
    assert {told(await gate.post()) for _ in range(6)} == {
        (503, "gateway_full", after) for after in "123"
    }
    assert (inner.n_calls, gate.door.n_refused, gate.door.n_in_flight) == (0, 6, 1)
    ticket.leave()
    assert (await gate.post()).status_code == 200
    assert gate.door.n_in_flight == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/v1/models"),
        ("POST", "/workers"),
        ("POST", "/flush_cache"),
        ("GET", PATH),
    ],
)
async def test_what_never_waits(method: str, path: str) -> None:
    """Nothing but POST on the gated routes is counted or refused."""
    inner = Inner()
    gate = Gate(inner, limit=1, key=0.001)
    Ticket(gate.door)
    for _ in range(3):
        assert (await ask(gate.layer, method, path)).status_code == 200
    assert gate.door.n_in_flight == 1


@pytest.mark.parametrize("path", sorted(GATED))
async def test_what_is_gated(path: str) -> None:
    """Each of them, also behind a proxy that puts something before it."""
    gate = Gate(Inner(), limit=1)
    Ticket(gate.door)
    assert (await gate.post(path)).status_code == 503
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": f"/llm{path}", "root_path": "/llm"}
    await gate.layer(scope | {"headers": []}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 503


@pytest.mark.parametrize("how", ["ends", "fails", "cancelled"])
async def test_left_on_every_way(how: str) -> None:
    """The place and the bytes are given back once, however the request ends."""
    entered = asyncio.Event()

    async def doing(scope: Scope) -> None:
        ticket: Ticket = scope["state"]["ticket"]
        ticket.count(3, 1)
        ticket.add_body(50)
        assert (gate.door.n_in_flight, gate.door.n_body_bytes) == (3, 50)
        entered.set()
        if how == "fails":
            raise RuntimeError
        if how == "cancelled":
            await asyncio.Event().wait()

    gate = Gate(Inner(doing), limit=3)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(swallow(gate))
        await entered.wait()
        if how == "cancelled":
            task.cancel()
    assert (gate.door.n_in_flight, gate.door.n_body_bytes) == (0, 0)


async def swallow(gate: Gate) -> None:
    """A request whose failure is meant."""
    with suppress(RuntimeError):
        await gate.post()


async def test_rate_of_a_key() -> None:
    """429 with the time until the next one may come; other keys and those without one are apart."""
    inner = Inner()
    gate = Gate(inner, key=0.25)
    for key in ("a", "b", None):
        assert (await gate.post(key=key)).status_code == 200
    gate.now_s = 1.0
    for key in ("a", "b", None):
        assert told(await gate.post(key=key)) == (429, "rate_limit_exceeded", "3")
    gate.now_s = 4.0
    assert (await gate.post(key="a")).status_code == 200
    assert inner.n_calls == 4


async def test_total_rate() -> None:
    """Of all keys together; a key is not charged for what the others used up."""
    gate = Gate(Inner(), key=1.0, total=2.0)
    assert [(await gate.post(key=key)).status_code for key in "abcb"] == [200, 200, 429, 429]
    gate.now_s = 0.5
    assert (await gate.post(key="c")).status_code == 200


async def test_full_costs_no_key_anything() -> None:
    """Who is refused for want of room may come again at once."""
    gate = Gate(Inner(), limit=1, key=1.0, total=1.0)
    ticket = Ticket(gate.door)
    assert (await gate.post(key="a")).status_code == 503
    ticket.leave()
    assert (await gate.post(key="a")).status_code == 200


async def test_every_answer_counts_for_the_rate() -> None:
    """A request with two choices of three prompts is six, though it was let in as one."""

    async def doing(scope: Scope) -> None:
        scope["state"]["ticket"].count(2, 3)

    gate = Gate(Inner(doing), key=1.0)
    assert (await gate.post(key="a")).status_code == 200
    assert told(await gate.post(key="a")) == (429, "rate_limit_exceeded", "6")


async def test_a_long_debt_is_told_as_an_hour() -> None:
    """No client is told more."""

    async def doing(scope: Scope) -> None:
        scope["state"]["ticket"].count(1, 100_000)

    gate = Gate(Inner(doing), key=1.0)
    await gate.post(key="a")
    assert told(await gate.post(key="a"))[2] == "3600"


async def test_refusals_are_logged_once_a_second() -> None:
    """With their number, and not by the access log; an admitted request is."""
    states: list[dict[str, Any]] = []

    async def layer(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.layer(scope, receive, send)
        states.append(scope["state"])

    gate = Gate(Inner(), limit=1)
    ticket = Ticket(gate.door)
    for gate.now_s in (0.0, 0.1, 0.9, 1.0):
        await ask(layer, "POST", PATH)
    ticket.leave()
    await ask(layer, "POST", PATH)
    assert [call.kwargs for call in gate.log.calls] == [
        {"gateway_full": 1, "in_flight": 1},
        {"gateway_full": 3, "in_flight": 1},
    ]
    assert [state.get("is_logged", False) for state in states] == [True] * 4 + [False]


def test_more_choices_than_places() -> None:
    """What could never fit is the request's fault; what does not fit now is not."""
    door = Door(max_in_flight=4, max_body_bytes=1)
    ticket = Ticket(door)
    with pytest.raises(InvalidRequest, match="at most 4"):
        ticket.count(5, 1)
    Ticket(door)
    with pytest.raises(GatewayFull):
        ticket.count(4, 1)
    ticket.count(3, 1)
    assert door.n_in_flight == 4


def test_a_list_of_prompts_takes_one_place() -> None:
    """It goes to a worker as one body."""
    door = Door(max_in_flight=4, max_body_bytes=1)
    Ticket(door).count(1, 1000)
    assert door.n_in_flight == 1


@pytest.mark.parametrize(
    ("announced", "parts", "error"),
    [
        (100, [b"x" * 100], None),
        (None, [b"x" * 60, b"x" * 40], None),
        (101, [], GatewayFull),
        (None, [b"x" * 60, b"x" * 41], GatewayFull),
        (10**30, [], BodyTooLarge),
        (1001, [], BodyTooLarge),
        (None, [b"x" * 1001], BodyTooLarge),
    ],
)
async def test_bodies_are_counted(
    announced: int | None, parts: list[bytes], error: type[Exception] | None
) -> None:
    """By what they announce, before any of it is read, and by what comes."""
    door = Door(max_in_flight=0, max_body_bytes=100)
    messages = [
        {"type": "http.request", "body": part, "more_body": i < len(parts) - 1}
        for i, part in enumerate(parts)
    ]

    async def receive() -> Message:
        return messages.pop(0)

    headers = [] if announced is None else [(b"content-length", b"000%d" % announced)]
    scope = {"headers": headers, "state": {"ticket": Ticket(door)}}
    if error is None:
        assert await read_body(scope, receive, 1000) == b"x" * 100
        assert door.n_body_bytes == 100
    else:
        with pytest.raises(error):
            await read_body(scope, receive, 1000)
        assert door.n_body_bytes <= 60
    assert messages == []


def test_no_limit() -> None:
    """Zero means as many as come."""
    door = Door(max_in_flight=0, max_body_bytes=1)
    tickets = [Ticket(door) for _ in range(10_000)]
    assert door.has_room(math.inf)  # type: ignore[arg-type]
    assert len(tickets) == door.n_in_flight

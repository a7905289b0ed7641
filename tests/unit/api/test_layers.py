"""Request id, access log and what layers have in common, each round a small application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import CapturingLogger

from app.errors import ClientGone
from app.middleware.access_log import AccessLogMiddleware
from app.middleware.admission import AdmissionMiddleware
from app.middleware.auth import AuthMiddleware
from app.middleware.cors import CorsMiddleware
from app.middleware.door import Door
from app.middleware.key_ring import KeyRing
from app.middleware.keys import shared_key
from app.middleware.request_id import RequestIdMiddleware, find_id


class Echo:
    """Answers 201 and notes the scope; fails on request."""

    def __init__(self) -> None:
        self.scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        if scope["path"] == "/defect":
            raise RuntimeError("secret detail")
        if scope["path"] == "/left":
            raise ClientGone
        if scope["path"] == "/told":
            scope.setdefault("state", {})["is_logged"] = True
        if "notes" in scope["state"]:
            scope["state"]["notes"].route = "/x"
            scope["state"]["notes"].model = "m"
        headers = [(b"x-request-id", b"from-worker")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        if scope["path"] == "/half":
            raise RuntimeError("broke")
        await send({"type": "http.response.body", "body": b"ok"})


async def _ask(
    app: ASGIApp, path: str = "/x", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://tandem") as client:
        return await client.get(path, headers=headers)


@pytest.mark.parametrize("name", ["x-request-id", "x-correlation-id", "x-trace-id", "request-id"])
async def test_sound_request_id_is_kept(name: str) -> None:
    """The client's id comes back once as x-request-id, whichever header brought it."""
    echo = Echo()
    answer = await _ask(RequestIdMiddleware(echo), headers={name: "abc!1"})
    assert answer.headers.get_list("x-request-id") == ["abc!1"]
    assert echo.scope["state"]["request_id"] == "abc!1"


@pytest.mark.parametrize("value", ["", "a b", "x" * 129, "a\tb"])
async def test_unsound_request_id_is_replaced(value: str) -> None:
    """A minted id with 24 characters after its prefix replaces one that is not sound."""
    answer = await _ask(RequestIdMiddleware(Echo()), headers={"x-request-id": value})
    minted = answer.headers["x-request-id"]
    assert minted.startswith("req-")
    assert len(minted) == 28


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/v1/chat/completions", "chatcmpl-"),
        ("/v1/completions", "cmpl-"),
        ("/generate", "gnt-"),
        ("/workers", "req-"),
    ],
)
async def test_minted_id_is_prefixed_by_path(path: str, prefix: str) -> None:
    """Each route has the prefix that SMG gives it, and the digits come from the generator."""
    app = RequestIdMiddleware(Echo(), getrandbits=lambda _: 1)
    assert (await _ask(app, path)).headers["x-request-id"] == f"{prefix}{1:024x}"


def test_first_named_header_wins() -> None:
    """x-request-id goes before x-trace-id, in whatever order they arrive."""
    assert find_id([(b"x-trace-id", b"t"), (b"x-request-id", b"r")]) == b"r"


def _logged(log: CapturingLogger, app: ASGIApp, *, is_shown: bool = True) -> AccessLogMiddleware:
    times = iter([1.0, 1.25])
    return AccessLogMiddleware(
        app,
        log=log,
        is_shown=is_shown,
        now_s=lambda: next(times),
    )


def _lines(log: CapturingLogger, method: str) -> list[dict[str, Any]]:
    return [dict(call.kwargs) for call in log.calls if call.method_name == method]


async def test_one_line_a_request() -> None:
    """Method, path, status, duration, id and the route's extras stand in one line."""
    log = CapturingLogger()
    app = RequestIdMiddleware(_logged(log, Echo()))
    await _ask(app, headers={"x-request-id": "r1"})
    assert _lines(log, "info") == [
        {
            "model": "m",
            "stream": False,
            "outcome": "ok",
            "end_ms": 250.0,
            "method": "GET",
            "path": "/x",
            "status": 201,
            "duration_ms": 250.0,
            "request_id": "r1",
        }
    ]


async def test_the_server_may_know_when_it_came() -> None:
    """Then its time begins there, not when its task had its turn."""
    log = CapturingLogger()
    answer: list[Any] = []

    async def send(message: Any) -> None:
        answer.append(message)

    scope = {"type": "http", "method": "GET", "path": "/x", "state": {"arrived_s": 0.25}}
    await _logged(log, Echo())(scope, None, send)  # type: ignore[arg-type]
    assert _lines(log, "info")[0]["duration_ms"] == 750.0
    assert scope["state"] == {}


async def test_probes_and_a_higher_level_are_not_logged() -> None:
    """No line for /health, for what was logged elsewhere, or when info is filtered out."""
    log = CapturingLogger()
    await _ask(_logged(log, Echo()), "/health")
    await _ask(_logged(log, Echo(), is_shown=False))
    await _ask(_logged(log, Echo()), "/told")
    assert log.calls == []


async def test_defect_is_500_without_details() -> None:
    """500 internal_error with an id, the exception's text only in the log."""
    log = CapturingLogger()
    answer = await _ask(RequestIdMiddleware(_logged(log, Echo())), "/defect")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"].startswith("req-")
    assert len(_lines(log, "exception")) == 1


async def test_defect_after_the_head_cuts_the_connection() -> None:
    """The exception goes on to the server when half an answer is out."""
    log = CapturingLogger()
    with pytest.raises(RuntimeError):
        await _ask(_logged(log, Echo()), "/half")
    assert _lines(log, "info")[0]["status"] == 201


async def test_client_that_left_is_499() -> None:
    """499 in the line and no error, when nobody was there for the answer."""
    log = CapturingLogger()
    app = _logged(log, Echo())

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        raise AssertionError(message)

    await app({"type": "http", "method": "POST", "path": "/left"}, receive, send)
    assert _lines(log, "info")[0]["status"] == 499
    assert _lines(log, "exception") == []


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_other_scopes_pass_untouched(kind: str) -> None:
    """Nothing is added to a scope that is no HTTP request."""
    seen: list[Scope] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope))

    async def receive() -> dict[str, Any]:
        return {}

    async def send(message: object) -> None:
        return None

    log = CapturingLogger()
    admission = AdmissionMiddleware(
        inner,
        door=Door(max_in_flight=1, max_body_bytes=1),
        key_rate=None,
        total_rate=None,
        log=log,
        now_s=lambda: 0.0,
    )
    auth = AuthMiddleware(admission, keys=KeyRing([shared_key("k")]))
    app = CorsMiddleware(RequestIdMiddleware(_logged(log, auth)), origins=["*"])
    await app({"type": kind}, receive, send)
    assert seen == [{"type": kind}]

"""Every failure has one shape."""

from __future__ import annotations

import httpx
import orjson
import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from app.api import problem
from app.errors import LegUnreachable, NoPairAvailable


class _Raw:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = LegUnreachable("gone", leg="prefill")
        await problem.send_problem(scope, send, error, ((b"x-more", b"1"),))


def _app() -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None)
    problem.install(app)

    @app.get("/full")
    async def full() -> None:
        raise NoPairAvailable("no pair", retry_after_s=2)

    @app.get("/number")
    async def number(count: int) -> int:
        return count

    @app.post("/number")
    async def post_number() -> None:
        return None

    return app


async def _get(path: str, method: str = "GET") -> httpx.Response:
    transport = httpx.ASGITransport(app=_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://tandem") as client:
        return await client.request(method, path)


async def test_gateway_error_is_rendered_with_its_headers() -> None:
    """503, retry-after 2 and the code, in body and header, for an error that says so."""
    answer = await _get("/full")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.headers["x-tandem-error-code"] == "no_available_pair"
    assert answer.json() == {
        "error": {
            "message": "no pair",
            "type": "server_error",
            "param": None,
            "code": "no_available_pair",
        }
    }


async def test_unknown_path_is_404_in_the_one_shape() -> None:
    """404 unknown_url for a path that nobody serves."""
    answer = await _get("/nowhere")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


async def test_wrong_method_names_every_allowed_one() -> None:
    """405 with GET and POST in allow, though they are two routes."""
    answer = await _get("/number", "DELETE")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("path", "code"),
    [("/number?count=x", "invalid_request"), ("/number", "missing_required_parameter")],
)
async def test_validation_failure_is_400_with_param(path: str, code: str) -> None:
    """400 with param count when a parameter is wrong or missing, never 422."""
    answer = await _get(path)
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("count", code)


async def test_raw_problem_names_leg_and_request() -> None:
    """The failed leg and the request id are headers of a raw answer, extra ones too."""
    sent: list[dict[str, object]] = []

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {}

    scope = {"type": "http", "state": {"request_id": "req-1"}}
    await _Raw()(scope, receive, send)
    headers = dict(sent[0]["headers"])  # type: ignore[call-overload]
    assert sent[0]["status"] == 502
    assert headers[b"x-tandem-leg"] == b"prefill"
    assert (headers[b"x-request-id"], headers[b"x-more"]) == (b"req-1", b"1")
    assert orjson.loads(sent[1]["body"])["error"]["leg"] == "prefill"  # type: ignore[arg-type]

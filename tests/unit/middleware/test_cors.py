"""What a browser is told."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings

PAGE = "https://chat.example"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


def gateway(**settings: Any) -> FastAPI:
    """A gateway with a key and no workers."""
    return create_app(Settings(api_key="k", log_level="error", **settings))


async def ask(app: FastAPI, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    """Calls it in process."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.request(method, path, headers=headers)


async def test_off_by_default() -> None:
    """No header, and a preflight is a method like another."""
    app = gateway()
    for method in ("OPTIONS", "GET"):
        answer = await ask(app, method, "/health", PREFLIGHT)
        assert [name for name in answer.headers if name.startswith("access-control")] == []
    assert (await ask(app, "OPTIONS", "/health", PREFLIGHT)).status_code == 401


async def test_preflight_needs_no_key() -> None:
    """The page may send what OpenAI's client sends; cookies are never allowed."""
    answer = await ask(
        gateway(cors_allowed_origins=PAGE), "OPTIONS", "/v1/chat/completions", PREFLIGHT
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "x-stainless-os" in answer.headers["access-control-allow-headers"]
    assert {"PUT", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["access-control-max-age"] == "3600"


async def test_other_origin() -> None:
    """Refused in our error shape; without a preflight the browser finds no permission."""
    app = gateway(cors_allowed_origins=PAGE)
    stranger = {"origin": "https://evil.example"}
    refused = await ask(app, "OPTIONS", "/workers", PREFLIGHT | stranger)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "cors_refused")
    assert refused.headers["content-type"] == "application/json"
    answer = await ask(app, "GET", "/health", stranger)
    assert answer.status_code == 200
    for got in (refused, answer):
        assert "access-control-allow-origin" not in got.headers
        assert "Origin" in got.headers["vary"]


async def test_errors_may_be_read_too() -> None:
    """A page that sends a wrong key is told so, with the headers it needs."""
    answer = await ask(gateway(cors_allowed_origins=PAGE), "GET", "/workers", {"origin": PAGE})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == PAGE
    exposed = answer.headers["access-control-expose-headers"]
    assert {"x-request-id", "retry-after"} <= set(exposed.split(", "))


async def test_any_origin() -> None:
    """A star is a star."""
    answer = await ask(gateway(cors_allowed_origins="*"), "GET", "/health", {"origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == "*"

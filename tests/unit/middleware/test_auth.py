"""The key of a request, its name in the log, and paths that a proxy has changed."""

from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.middleware.auth import AuthMiddleware, bearer_token
from app.middleware.key_ring import KeyRing
from app.middleware.keys import control_key, data_key

RING = KeyRing([data_key("team-a:k1"), control_key("ops:Ops:admin:k2")])


async def ask(path: str, authorization: str | None, root_path: str = "") -> tuple[int, str | None]:
    """Status and the name of the key that the next layer saw."""
    names: list[str | None] = []
    sent: list[Message] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        names.append(scope.get("state", {}).get("key_name"))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", authorization.encode())] if authorization else []
    scope = {"type": "http", "method": "GET", "path": path, "root_path": root_path}
    await AuthMiddleware(inner, keys=RING)(scope | {"headers": headers}, receive, send)
    return sent[0]["status"], names[0] if names else None


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer k1", b"k1"),
        ("bearer  k1 ", b"k1"),
        ("Basic k1", None),
        ("k1", None),
        ("Bearer", b""),
    ],
)
def test_bearer_token(value: str, token: bytes | None) -> None:
    """The scheme in any case, and no other scheme."""
    assert bearer_token([(b"accept", b"*/*"), (b"authorization", value.encode())]) == token
    assert bearer_token([(b"x-api-key", b"k1")]) is None


@pytest.mark.parametrize(
    ("path", "authorization", "expected"),
    [
        ("/health", None, (200, None)),
        ("/health", "Bearer wrong", (200, None)),
        ("/get_model_info", "Bearer k1", (200, "team-a")),
        ("/get_model_info", "Bearer wrong", (401, None)),
        ("/get_model_info", "Bearer ", (401, None)),
        ("/workers", "Bearer k2", (200, "ops")),
        ("/workers", "Bearer k1", (403, None)),
    ],
)
async def test_key(path: str, authorization: str | None, expected: tuple[int, str | None]) -> None:
    """The name of the key goes on with the request."""
    assert await ask(path, authorization) == expected
    assert await ask(f"/llm{path}", authorization, "/llm") == expected

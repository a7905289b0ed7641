"""A request of the control plane that came in at one process and is served by another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Headers = list[tuple[bytes, bytes]]
Answer = tuple[int, Headers, bytes]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Asgi = Callable[[Any, Receive, Send], Awaitable[None]]


async def call_asgi(
    app: Asgi, method: str, path: str, query: bytes, headers: Headers, body: bytes
) -> Answer:
    """Has an application in this process serve one request; for answers that are small and whole.

    Args:
        app: The application.
        method: As in the scope, like the following ones.
        path: Decoded.
        query: Raw.
        headers: Names in lower case.
        body: All of it.
    """
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query,
        "headers": headers,
        "server": None,
        "client": None,
        "state": {},
    }
    unread = [{"type": "http.request", "body": body, "more_body": False}]
    begun: list[tuple[int, Headers]] = []
    parts: list[bytes] = []

    async def receive() -> Any:
        return unread.pop() if unread else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            begun.append((message["status"], [(k, v) for k, v in message["headers"]]))
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    status, answered = begun[0]
    return status, answered, b"".join(parts)

"""A request body is read to its end, within its bound."""

from __future__ import annotations

from typing import Any

import pytest

from app.api.generation import read_body
from app.errors import BodyTooLarge, ClientGone

LIMIT = 10


async def read(*messages: dict[str, Any] | bytes, length: bytes | None = None) -> bytes:
    """Reads what a client sends; the last of the bytes ends the body."""
    told = [
        {"type": "http.request", "body": m, "more_body": i < len(messages) - 1}
        if isinstance(m, bytes)
        else m
        for i, m in enumerate(messages)
    ]
    coming = iter(told)

    async def receive() -> dict[str, Any]:
        return next(coming)

    headers = [] if length is None else [(b"content-length", length)]
    return await read_body({"type": "http", "headers": headers}, receive, LIMIT)


@pytest.mark.parametrize("parts", [[b""], [b"0123456789"], [b"01234", b"", b"56789"], [b"0", b""]])
async def test_parts_are_joined(parts: list[bytes]) -> None:
    """Up to the limit all of it is there."""
    assert await read(*parts) == b"".join(parts)


@pytest.mark.parametrize("parts", [[b"0123456789x"], [b"01234", b"56789x", b""]])
async def test_too_much_is_refused(parts: list[bytes]) -> None:
    """One byte over the limit, in one part or several."""
    with pytest.raises(BodyTooLarge):
        await read(*parts)


@pytest.mark.parametrize("length", [b"11", b"0" * 5000 + b"11", b"9" * 5000, b"1" + b"0" * 5000])
async def test_length_says_too_much(length: bytes) -> None:
    """It is refused before any of the body is read, however many digits say so."""
    with pytest.raises(BodyTooLarge):
        await read(length=length)


@pytest.mark.parametrize("length", [b"5", b"0" * 5000 + b"5", b"10", b"no number"])
async def test_length_within_the_limit(length: bytes) -> None:
    """The body is read; leading zeros say nothing."""
    assert await read(b"01234", length=length) == b"01234"


@pytest.mark.parametrize(
    "before", [[], [{"type": "http.request", "body": b"0", "more_body": True}]]
)
async def test_client_left(before: list[dict[str, Any]]) -> None:
    """Nobody is there whose body could be half read."""
    with pytest.raises(ClientGone):
        await read(*before, {"type": "http.disconnect"})

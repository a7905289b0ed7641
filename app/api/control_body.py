"""Reads the bodies of the control plane, which are small."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from app.errors import BodyTooLarge, ClientGone

MAX_BODY_BYTES = 1024 * 1024


async def read_control_body(request: Request, what: str) -> bytes:
    """Reads a whole body.

    Args:
        request: Whose.
        what: What it should be, for the refusal: "A worker's description".

    Raises:
        BodyTooLarge: It is over 1 MiB.
        ClientGone: The client left before its end.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise BodyTooLarge(f"{what} is at most {MAX_BODY_BYTES} bytes.")
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)

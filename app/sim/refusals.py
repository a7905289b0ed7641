"""Why a simulated engine refuses a request, and how SGLang 0.5.23 words it on each route.

The same sentence has a shape of its own by where in the engine it was said:

* before the route's code (FastAPI's types, the JSON contract): ``Malformed``;
* by the front, before the scheduler saw the request: ``Refused``;
* by the scheduler, as the end of a sequence: the ``failure`` of a job.

All shapes were seen on a real pair, streamed and not, on the three routes.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
GENERATE = "/generate"
ROUTES = (CHAT, COMPLETIONS, GENERATE)


class Refused(Exception):
    """A request that the engine does not take.

    Args:
        status: 400 has the shapes of SGLang's ``ValueError``, others those of its
            ``HTTPException``.
        message: What the engine says.
        kind: ``err_type`` of a scheduler's refusal that has one.
    """

    def __init__(self, status: int, message: str, kind: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind


class Malformed(Refused):
    """A body that does not fit the schema: 400 before any head, streamed or not."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(400, str(body))
        self.body = body


class Crashed(Refused):
    """A body over which the front stumbles with an exception nobody awaits.

    Args:
        reason: The text of that exception.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(500, f"Internal server error: {reason}", "InternalServerError")


def error_body(route: str, refused: Refused) -> dict[str, Any]:
    """The body of an error answer."""
    if isinstance(refused, Malformed):
        return refused.body
    if route == GENERATE and refused.status == 400:
        return {"error": {"message": refused.message}}
    kind = "BadRequestError" if refused.status == 400 else str(refused.status)
    if isinstance(refused, Crashed):
        kind = refused.kind or kind
    return _error(refused, kind)


def error_event(failure: Refused) -> dict[str, Any]:
    """The event by which chat and completions report the scheduler's failure in a stream."""
    return {"error": _error(failure, HTTPStatus(failure.status).name)}


def front_event(refused: Refused) -> dict[str, Any]:
    """The event by which a streamed /generate, whose 200 is out already, reports a refusal."""
    return {
        "error": {
            "message": refused.message,
            "type": "invalid_request_error",
            "code": refused.status,
            "retryable": False,
        }
    }


def _error(refused: Refused, kind: str) -> dict[str, Any]:
    return {
        "object": "error",
        "message": refused.message,
        "type": kind,
        "param": None,
        "code": refused.status,
    }

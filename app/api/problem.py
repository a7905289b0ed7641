"""The one place where an error becomes an answer.

Every failure of every route, ``/workers`` too, is the OpenAI error object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope, Send

from app.errors import (
    BodyTooLarge,
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    UnknownRoute,
    WorkerError,
)
from app.observability.notes import Notes
from app.protocol.problem import error_body

RawHeader = tuple[bytes, bytes]


def render(
    error: GatewayError, extra_headers: Iterable[RawHeader] = ()
) -> tuple[int, list[RawHeader], bytes]:
    """Returns status, headers and body of an error's answer."""
    body = error_body(error)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-tandem-error-code", error.code.encode("ascii", "replace")),
    ]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.leg is not None:
        headers.append((b"x-tandem-leg", error.leg.encode("ascii")))
    if error.n_attempts:
        headers.append((b"x-tandem-attempts", b"%d" % error.n_attempts))
    headers.extend(extra_headers)
    return error.status, headers, body


async def send_problem(
    scope: Scope, send: Send, error: GatewayError, extra_headers: Iterable[RawHeader] = ()
) -> None:
    """Sends an error as a whole answer; nothing may have been sent before."""
    status, headers, body = render(error, extra_headers)
    request_id = scope.get("state", {}).get("request_id")
    if request_id:
        headers.append((b"x-request-id", request_id.encode("ascii")))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def problem_response(error: GatewayError, extra_headers: Iterable[RawHeader] = ()) -> Response:
    """Returns an error as a response object, for routes that return one."""
    status, headers, body = render(error, extra_headers)
    response = Response(content=body, status_code=status)
    response.raw_headers = headers
    return response


def invalid_request(details: Sequence[Any]) -> InvalidRequest:
    """Returns the first of pydantic's complaints as one sentence that names the field."""
    first = details[0]
    loc = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = ".".join(loc) or None
    if first["type"] == "extra_forbidden":
        return InvalidRequest(
            f"There is no field {param!r} here.", code="unknown_parameter", param=param
        )
    if first["type"] == "missing":
        return InvalidRequest(
            f"The field {param!r} is required.", code="missing_required_parameter", param=param
        )
    if first["type"] == "json_invalid":
        return InvalidRequest("The body is not valid JSON.", code="invalid_json")
    reason = str(first["msg"]).removeprefix("Value error, ")
    where = f"{param}: " if param else ""
    return InvalidRequest(f"{where}{reason}.".replace("..", "."), param=param)


def allowed_methods(routes: Iterable[BaseRoute], scope: Scope) -> set[str]:
    """Returns every method that some route takes at this path."""
    found: set[str] = set()
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            found |= allowed_methods(included.routes, scope)
        elif isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found


def _from_http_exception(request: Request, exc: HTTPException) -> Response:
    path = request.url.path
    if exc.status_code == 404:
        return problem_response(UnknownRoute(f"There is no {path} here; GET /docs lists what is."))
    if exc.status_code == 405:
        methods = ", ".join(sorted(allowed_methods(request.app.routes, request.scope)))
        error = MethodNotAllowed(f"{path} does not take {request.method}, only {methods}.")
        return problem_response(error, ((b"allow", methods.encode("ascii")),))
    if exc.status_code == 413:
        return problem_response(BodyTooLarge(str(exc.detail)))
    if exc.status_code < 500:
        error_4xx = InvalidRequest(str(exc.detail))
        error_4xx.status = exc.status_code
        return problem_response(error_4xx)
    return problem_response(InternalError("The gateway failed on this request."))


def install(app: FastAPI, *, exposes_addresses: bool = False) -> None:
    """Makes the application answer each kind of failure in the one shape.

    Args:
        app: The application.
        exposes_addresses: Clients are told what else only the log says of a worker's failure.
    """

    async def on_gateway_error(request: Request, exc: Exception) -> Response:
        error = cast("GatewayError", exc)
        if isinstance(error, WorkerError):
            notes: Notes | None = request.scope.get("state", {}).get("notes")
            if notes is not None:
                notes.fail(error)
                notes.detail = error.detail
            if exposes_addresses:
                error.message = error.with_detail()
        return problem_response(error)

    async def on_http_exception(request: Request, exc: Exception) -> Response:
        return _from_http_exception(request, cast("HTTPException", exc))

    async def on_invalid(_request: Request, exc: Exception) -> Response:
        return problem_response(invalid_request(cast("RequestValidationError", exc).errors()))

    app.add_exception_handler(GatewayError, on_gateway_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_invalid)

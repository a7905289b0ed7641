"""Lets pages of other origins call the gateway from a browser; only there when it was asked for.

Starlette's layer does the work: it is plain ASGI. Only its refusal of a preflight is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.api.problem import problem_response
from app.errors import InvalidRequest

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
EXPOSED = (
    "x-request-id",
    "retry-after",
    "x-tandem-error-code",
    "x-tandem-leg",
    "traceparent",
    "tracestate",
)
MAX_AGE_S = 3600
"""As SMG 1.13."""


class CorsMiddleware(CORSMiddleware):
    """Answers preflights and marks answers for the origins that may read them.

    Any request header may be sent: OpenAI's client adds a dozen of its own in a browser. Cookies
    are never allowed, since a key is sent in the open.

    Args:
        app: The next layer.
        origins: ``scheme://host[:port]`` each, or ``*`` alone.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=tuple(origins),
            allow_methods=METHODS,
            allow_headers=("*",),
            expose_headers=EXPOSED,
            max_age=MAX_AGE_S,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answers a preflight; a refusal is the one error shape."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        text = bytes(response.body).decode()
        refusal = problem_response(InvalidRequest(f"{text}.", code="cors_refused"))
        kept = [h for h in response.raw_headers if h[0] not in (b"content-type", b"content-length")]
        refusal.raw_headers.extend(kept)
        return refusal

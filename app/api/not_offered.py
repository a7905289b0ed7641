"""Routes of SMG 1.13 that are known here but not served: 501, so that a caller knows why."""

from __future__ import annotations

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.api.problem import send_problem
from app.errors import NotOffered

ROUTES: tuple[tuple[str, str], ...] = (
    ("GET", "/engine_metrics"),
    ("POST", "/rerank"),
    ("POST", "/v1/rerank"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/classify"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/responses"),
    ("GET DELETE", "/v1/responses/{id}"),
    ("POST", "/v1/responses/{id}/cancel"),
    ("GET", "/v1/responses/{id}/input_items"),
    ("POST", "/v1/conversations"),
    ("GET POST DELETE", "/v1/conversations/{id}"),
    ("GET POST", "/v1/conversations/{id}/items"),
    ("GET DELETE", "/v1/conversations/{id}/items/{item_id}"),
    ("POST", "/v1/interactions"),
    ("POST", "/v1/audio/transcriptions"),
    ("GET", "/v1/realtime"),
    ("POST", "/v1/realtime/calls"),
    ("POST", "/v1/realtime/sessions"),
    ("POST", "/v1/realtime/client_secrets"),
    ("POST", "/v1/realtime/transcription_sessions"),
    ("GET POST", "/v1/tokenizers"),
    ("GET DELETE", "/v1/tokenizers/{id:path}"),
    ("POST", "/parse/function_call"),
    ("POST", "/parse/reasoning"),
    ("POST", "/start_profile"),
    ("POST", "/stop_profile"),
    ("GET POST", "/wasm"),
    ("DELETE", "/wasm/{id}"),
    ("POST", "/heap_profile"),
)


class NotOfferedEndpoint:
    """Answers 501 without reading the body."""

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answers one request."""
        await send_problem(
            scope,
            send,
            NotOffered(f"{scope['method']} {scope['path']} is not served by this version."),
        )


def routes() -> list[Route]:
    """Returns the routes, to be added after all that are served."""
    endpoint = NotOfferedEndpoint()
    return [
        Route(path, endpoint, methods=methods.split(), include_in_schema=False, name=path)
        for methods, path in ROUTES
    ]

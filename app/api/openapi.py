"""The API description: FastAPI's own, plus the raw generation routes and the one error shape."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.openapi_schemas import (
    ANSWER_EXAMPLES,
    ERROR_EXAMPLE,
    REQUEST_EXAMPLES,
    SCHEMAS,
    STREAM_EXAMPLES,
    ref,
)
from app.api.policy_schemas import PoliciesAsked
from app.api.tokenize_schemas import TOKENIZE_SCHEMAS
from app.api.worker_changes import WorkerPatch, WorkerPut
from app.api.worker_views import NewWorker
from app.protocol.routes import Route

_KINDS = {
    Route.CHAT: ("chat", "ChatRequest", "ChatAnswer", "Answer a conversation"),
    Route.COMPLETIONS: ("completions", "CompletionRequest", "CompletionAnswer", "Go on with text"),
    Route.GENERATE: ("generate", "GenerateRequest", "GenerateAnswer", "SGLang's way to ask"),
}
_STREAM_NOTE = (
    'With `"stream": true` the answer is `text/event-stream`, closed by `data: [DONE]`. A failure '
    "after the first byte is one event with the error object, and no `[DONE]`."
)
_FAILURES = {
    "400": "The request is wrong; `param` names the field",
    "401": "The key is missing or wrong",
    "403": "The key is not one of the data plane",
    "404": "No worker serves the model",
    "413": "The body is too large",
    "429": "Too many requests with this key; see `retry-after`",
    "502": "A leg failed; `leg` and `x-tandem-leg` name it",
    "503": "No pair is ready or has room, a leg's worker was removed, or the gateway is full; see "
    "`retry-after`",
    "504": "A leg was silent for too long",
}
_HEADERS = {
    "x-request-id": {"description": "Id of the request", "schema": {"type": "string"}},
    "x-tandem-error-code": {"description": "`error.code`", "schema": {"type": "string"}},
}


def _error(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": _HEADERS,
        "content": {"application/json": {"schema": ref("Error"), "example": ERROR_EXAMPLE}},
    }


def generation_operation(route: Route) -> dict[str, Any]:
    """Returns the OpenAPI operation of one generation route."""
    kind, request, answer, summary = _KINDS[route]
    good = {
        "description": "The answer, whole or streamed",
        "headers": {"x-request-id": _HEADERS["x-request-id"]},
        "content": {
            "application/json": {"schema": ref(answer), "example": ANSWER_EXAMPLES[kind]},
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": STREAM_EXAMPLES[kind],
            },
        },
    }
    body = {"schema": ref(request), "examples": _request_examples(REQUEST_EXAMPLES[kind])}
    return {
        "tags": ["generation"],
        "summary": summary,
        "description": _STREAM_NOTE,
        "operationId": f"generate_{kind}",
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {"200": good, **{code: _error(text) for code, text in _FAILURES.items()}},
    }


def _request_examples(example: dict[str, Any]) -> dict[str, Any]:
    return {
        "whole": {"summary": "Answered at once", "value": example},
        "streamed": {"summary": "Streamed", "value": {**example, "stream": True}},
    }


def _own_errors(operations: dict[str, Any]) -> None:
    """Puts the one error shape where FastAPI writes its own validation error."""
    for operation in operations.values():
        responses = operation["responses"]
        responses.pop("422", None)
        responses["default"] = _error("Any failure")


def build(app: FastAPI, *, has_key: bool) -> dict[str, Any]:
    """Returns the whole description.

    Args:
        app: The application with all its routes.
        has_key: Whether a key is asked for, so that /docs offers a field for it.
    """
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=[
            {"name": "generation", "description": "Served by prefill/decode pairs"},
            {"name": "tokens", "description": "Text to tokens and back"},
            {"name": "models"},
            {"name": "workers", "description": "The registry"},
            {"name": "policies", "description": "How workers are chosen"},
            {"name": "flights", "description": "The flight recorder"},
            {"name": "engines", "description": "Passed on to the engines"},
            {"name": "health"},
        ],
    )
    paths: dict[str, Any] = document["paths"]
    for operations in paths.values():
        _own_errors(operations)
    document["paths"] = {
        **{route.value: {"post": generation_operation(route)} for route in Route},
        **paths,
    }
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for body in (NewWorker, WorkerPatch, WorkerPut, PoliciesAsked):
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[body.__name__] = schema
    schemas.update(SCHEMAS)
    schemas.update(TOKENIZE_SCHEMAS)
    if has_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def install(app: FastAPI, *, has_key: bool) -> None:
    """Makes ``/openapi.json`` the whole description; it is built once, at the first call."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app, has_key=has_key)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

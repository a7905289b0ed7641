"""``/tokenize`` and ``/detokenize``: what a model makes of a text, and back.

Models on vLLM workers are answered here, with the tokenizer that their requests are read by.
SGLang workers have these routes themselves, so a request for one of their models is passed on.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.generation import read_body
from app.api.parts import GatewayParts, Parts
from app.api.tokenize_schemas import DETOKENIZE, TOKENIZE
from app.api.worker_calls import ask_worker, json_of
from app.errors import ClientGone, InvalidRequest, NoPairAvailable, NotOffered, UnknownModel
from app.protocol.facts import parse_object
from app.protocol.wire_json import JsonObject
from app.text import tokenize_routes
from app.workers.registry import Snapshot
from app.workers.worker import Engine, Role, Worker

PASSED_ON_TIMEOUT_S = 30.0
MAX_INLINE_BYTES = 32 * 1024
"""Longer lists of tokens are decoded in a thread: 10,000 tokens take a millisecond or two."""


def make_router(max_body_bytes: int) -> APIRouter:
    """Returns the routes.

    Args:
        max_body_bytes: Larger bodies are refused with 413.
    """
    router = APIRouter(tags=["tokens"])

    async def tokenize(request: Request, gateway: GatewayParts) -> Response:
        """Tokens of a prompt, of a list of prompts, or of a chat as the template writes it."""
        return await _answer(request, gateway, "tokenize", max_body_bytes)

    async def detokenize(request: Request, gateway: GatewayParts) -> Response:
        """Text of tokens, or of lists of them; `text` and `prompt` are the same."""
        return await _answer(request, gateway, "detokenize", max_body_bytes)

    for route, summary, extra in (
        (tokenize, "Turn text into tokens", TOKENIZE),
        (detokenize, "Turn tokens into text", DETOKENIZE),
    ):
        for path in (f"/v1/{route.__name__}", f"/{route.__name__}"):
            router.add_api_route(
                path, route, methods=["POST"], summary=summary, openapi_extra=extra
            )
    return router


async def _answer(request: Request, gateway: Parts, name: str, max_body_bytes: int) -> Response:
    try:
        body = await read_body(request.scope, request.receive, max_body_bytes)
    except ClientGone:
        # Nobody is there to read it.
        return Response()
    document = parse_object(body)
    model = document.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequest("model must be a string.", param="model")
    if model is not None:
        model = gateway.aliases.get(model, model)
    worker = gateway.texts.worker_of(model)
    if worker is None:
        answer = await _pass_on(gateway, model, name, body)
    else:
        answer = await _by_ourselves(gateway, model, worker, name, document, len(body))
    return Response(orjson.dumps(answer), media_type="application/json")


async def _by_ourselves(
    gateway: Parts, model: str | None, worker: Worker, name: str, document: JsonObject, n_bytes: int
) -> JsonObject:
    served = await gateway.texts.get(model, worker)
    if name == "tokenize":
        return await tokenize_routes.tokenize(document, served)
    if n_bytes > MAX_INLINE_BYTES:
        answer = await asyncio.to_thread(tokenize_routes.detokenize, document, served)
    else:
        answer = tokenize_routes.detokenize(document, served)
    # vLLM says "prompt", SMG and SGLang say "text".
    return {**answer, "text": answer["prompt"]}


async def _pass_on(gateway: Parts, model: str | None, name: str, body: bytes) -> Any:
    """Asks an SGLang worker (0.5.23 has both names of both routes)."""
    worker = _sglang_worker(gateway.registry.snapshot(), model)
    answer = await ask_worker(
        gateway.clients,
        worker,
        (f"/v1/{name}", f"/{name}"),
        timeout_s=PASSED_ON_TIMEOUT_S,
        method="POST",
        body=body,
    )
    if answer.status == 404:
        raise NotOffered(f"The engine of this model has no /{name}.")
    return json_of(answer, worker)


def _sglang_worker(snapshot: Snapshot, model: str | None) -> Worker:
    for role in (Role.DECODE, Role.PREFILL, Role.REGULAR):
        for worker in snapshot.candidates(role, model):
            if worker.spec.engine is Engine.SGLANG:
                return worker
    is_known_to_be_none = snapshot.workers and all(
        worker.is_discovered or worker.model_ids for worker in snapshot.workers
    )
    if model is not None and is_known_to_be_none and not snapshot.knows_model(model):
        raise UnknownModel(f"The model {model[:200]!r} is not served here.", param="model")
    raise NoPairAvailable("No worker whose model could tokenize is ready.", retry_after_s=1)

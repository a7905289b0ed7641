"""The registry over HTTP: list, look at, add and remove workers."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from app.api.parts import GatewayParts, Parts
from app.api.problem import invalid_request
from app.api.worker_views import EXAMPLE, NewWorker, list_view, to_spec, view
from app.errors import (
    BodyTooLarge,
    ClientGone,
    InvalidRequest,
    NotOffered,
    WorkerExists,
    WorkerNotFound,
)
from app.workers.registry import DuplicateWorker
from app.workers.worker import Worker

router = APIRouter(prefix="/workers", tags=["workers"])

MAX_BODY_BYTES = 1024 * 1024
_STATS = {"prefill_count": 1, "decode_count": 0, "regular_count": 0}
_ACCEPTED = {"status": "accepted", "worker_id": EXAMPLE["id"], "message": "..."}


def _shown(example: Any, description: str = "OK") -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


_NEW_WORKER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/NewWorker"},
                "examples": {
                    "sglang": {
                        "summary": "An SGLang prefill worker",
                        "value": {
                            "url": "http://10.0.0.1:30001",
                            "worker_type": "prefill",
                            "bootstrap_port": 9001,
                        },
                    },
                    "vllm": {
                        "summary": "A vLLM decode worker",
                        "value": {"url": "grpc://10.0.0.2:50052", "worker_type": "decode"},
                    },
                },
            }
        },
    }
}


@router.get(
    "",
    summary="List workers",
    responses={200: _shown({"workers": [EXAMPLE], "total": 1, "stats": _STATS})},
)
async def list_workers(gateway: GatewayParts, model: str | None = None) -> dict[str, Any]:
    """All workers, or those that name the given model; counts are those of the list."""
    workers = gateway.registry.workers()
    if model is not None:
        workers = tuple(worker for worker in workers if model in worker.model_ids)
    return list_view(workers, gateway.handoffs)


@router.post(
    "",
    status_code=202,
    summary="Add a worker",
    openapi_extra=_NEW_WORKER_BODY,
    responses={202: _shown({**_ACCEPTED, "url": EXAMPLE["url"], "location": "/workers/..."})},
)
async def add_worker(request: Request, gateway: GatewayParts) -> JSONResponse:
    """Registers in the background; follow `Location` until `status` is `ready`."""
    try:
        new = NewWorker.model_validate_json(await _read_body(request))
    except ValidationError as exc:
        raise invalid_request(exc.errors(include_url=False)) from exc
    spec = to_spec(new)
    try:
        gateway.registry.add(spec)
    except DuplicateWorker as exc:
        raise WorkerExists(f"A worker with the URL {spec.url} is registered.", param="url") from exc
    location = f"/workers/{spec.id}"
    return JSONResponse(
        {
            "status": "accepted",
            "worker_id": spec.id,
            "url": spec.url,
            "location": location,
            "message": "The worker is being registered.",
        },
        status_code=202,
        headers={"location": location},
    )


@router.get("/{worker_id}", summary="Look one worker up", responses={200: _shown(EXAMPLE)})
async def get_worker(worker_id: str, gateway: GatewayParts) -> dict[str, Any]:
    """The worker as it is now."""
    return view(_find(gateway, worker_id))


@router.delete(
    "/{worker_id}",
    status_code=202,
    summary="Drain and remove a worker",
    responses={202: _shown(_ACCEPTED)},
)
async def remove_worker(worker_id: str, gateway: GatewayParts) -> dict[str, Any]:
    """It gets no new request, and is removed when its running ones have ended."""
    worker = _find(gateway, worker_id)
    gateway.drain.start(worker, "removed by DELETE /workers")
    return {
        "status": "accepted",
        "worker_id": worker_id,
        "message": "The worker is draining and is removed when it is idle.",
    }


@router.put("/{worker_id}", include_in_schema=False)
@router.patch("/{worker_id}", include_in_schema=False)
async def change_worker(worker_id: str, gateway: GatewayParts) -> None:
    """Not offered in this version."""
    _find(gateway, worker_id)
    raise NotOffered("A worker cannot be changed yet; remove it and add it anew.")


def _find(gateway: Parts, worker_id: str) -> Worker:
    try:
        uuid.UUID(worker_id)
    except ValueError as exc:
        raise InvalidRequest(f"{worker_id!r} is no worker id.", param="worker_id") from exc
    worker = gateway.registry.get(worker_id)
    if worker is None:
        raise WorkerNotFound(f"There is no worker {worker_id}.", param="worker_id")
    return worker


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise BodyTooLarge(f"A worker's description is at most {MAX_BODY_BYTES} bytes.")
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)

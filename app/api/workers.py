"""The registry over HTTP: list, look at, add, change and remove workers."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from app.api.control_body import read_control_body
from app.api.parts import GatewayParts, Parts
from app.api.problem import invalid_request
from app.api.worker_changes import patched, replaced
from app.api.worker_schemas import EXAMPLE, Accepted, WorkerList, WorkerView
from app.api.worker_sharing import tell_changed, tell_removed
from app.api.worker_states import Moment
from app.api.worker_urls import guard_url
from app.api.worker_views import NewWorker, list_view, to_spec, view
from app.errors import (
    InvalidRequest,
    WorkerExists,
    WorkerNotFound,
)
from app.workers.registry import DuplicateWorker
from app.workers.states import State
from app.workers.worker import Worker, WorkerSpec

router = APIRouter(prefix="/workers", tags=["workers"])

_BODY = "A worker's description"
_STATS = {"prefill_count": 1, "decode_count": 0, "regular_count": 0}
_ACCEPTED = {"status": "accepted", "worker_id": EXAMPLE["id"], "message": "..."}


def _shown(model: type, example: Any, description: str = "OK") -> dict[str, Any]:
    return {
        "model": model,
        "description": description,
        "content": {"application/json": {"example": example}},
    }


def _takes(schema: str, **examples: Any) -> dict[str, Any]:
    shown = {name: {"summary": text, "value": value} for name, (text, value) in examples.items()}
    body = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": shown}
    return {"requestBody": {"required": True, "content": {"application/json": body}}}


_NEW_WORKER_BODY = _takes(
    "NewWorker",
    sglang=(
        "An SGLang prefill worker",
        {"url": "http://10.0.0.1:30001", "worker_type": "prefill", "bootstrap_port": 9001},
    ),
    vllm=("A vLLM decode worker", {"url": "grpc://10.0.0.2:50052", "worker_type": "decode"}),
)
_PATCH_BODY = _takes(
    "WorkerPatch",
    labels=("One label set, one taken away", {"labels": {"zone": "b", "old": None}}),
    key=("Another key for the worker", {"api_key": "..."}),
)
_PUT_BODY = _takes("WorkerPut", labels=("These labels and no others", {"labels": {"zone": "b"}}))


@router.get(
    "",
    summary="List workers",
    responses={200: _shown(WorkerList, {"workers": [EXAMPLE], "total": 1, "stats": _STATS})},
)
async def list_workers(gateway: GatewayParts, model: str | None = None) -> dict[str, Any]:
    """All workers, or those that name the given model; counts are those of the list."""
    workers = gateway.registry.workers()
    if model is not None:
        workers = tuple(worker for worker in workers if model in worker.model_ids)
    return list_view(
        [_view(gateway, worker) for worker in workers], gateway.handoffs, gateway.solo_counts
    )


@router.post(
    "",
    status_code=202,
    summary="Add a worker",
    openapi_extra=_NEW_WORKER_BODY,
    responses={
        202: _shown(Accepted, {**_ACCEPTED, "url": EXAMPLE["url"], "location": "/workers/..."})
    },
)
async def add_worker(request: Request, gateway: GatewayParts) -> JSONResponse:
    """Registers in the background; follow `Location` until `status` is `ready`."""
    try:
        new = NewWorker.model_validate_json(await read_control_body(request, _BODY))
    except ValidationError as exc:
        raise invalid_request(exc.errors(include_url=False)) from exc
    spec = to_spec(new)
    guard_url(gateway, spec.url)
    try:
        gateway.registry.add(spec)
    except DuplicateWorker as exc:
        raise WorkerExists(f"{exc} Its state is {exc.state}.", param="url") from exc
    tell_changed(gateway, spec.id)
    location = f"/workers/{spec.id}"
    return JSONResponse(
        {
            "status": "accepted",
            "worker_id": spec.id,
            "url": spec.address,
            "location": location,
            "message": "The worker is being registered.",
        },
        status_code=202,
        headers={"location": location},
    )


@router.get(
    "/{worker_id}",
    summary="Look one worker up",
    responses={200: _shown(WorkerView, EXAMPLE)},
)
async def get_worker(worker_id: str, gateway: GatewayParts) -> dict[str, Any]:
    """The worker as it is now, and the change that is under way (`job_status`)."""
    return _view(gateway, _find(gateway, worker_id))


@router.patch(
    "/{worker_id}",
    status_code=202,
    summary="Change fields of a worker",
    openapi_extra=_PATCH_BODY,
    responses={202: _shown(Accepted, _ACCEPTED)},
)
async def change_worker(worker_id: str, request: Request, gateway: GatewayParts) -> dict[str, Any]:
    """Takes effect at once; with another key or other models the worker is asked anew."""
    body = await read_control_body(request, _BODY)
    worker = _find(gateway, worker_id)
    old, new = worker.spec, patched(worker.spec, body)
    is_asked = (old.api_key, old.model_ids) != (new.api_key, new.model_ids)
    return _apply(gateway, worker, new, is_asked=is_asked)


@router.put(
    "/{worker_id}",
    status_code=202,
    summary="Replace fields of a worker",
    openapi_extra=_PUT_BODY,
    responses={202: _shown(Accepted, _ACCEPTED)},
)
async def replace_worker(worker_id: str, request: Request, gateway: GatewayParts) -> dict[str, Any]:
    """As PATCH, but labels and probing rules are replaced whole, and the worker is asked anew."""
    body = await read_control_body(request, _BODY)
    worker = _find(gateway, worker_id)
    return _apply(gateway, worker, replaced(worker.spec, body), is_asked=True)


@router.delete(
    "/{worker_id}",
    status_code=202,
    summary="Drain and remove a worker",
    responses={202: _shown(Accepted, _ACCEPTED)},
)
async def remove_worker(
    worker_id: str,
    gateway: GatewayParts,
    *,
    force: Annotated[bool, Query(description="End what runs on it at once")] = False,
    timeout_s: Annotated[
        float | None,
        Query(
            ge=0,
            le=31_536_000,
            allow_inf_nan=False,
            description="Seconds from now until what still runs is ended; "
            "left out: --drain-timeout-secs, or the time of the first call",
        ),
    ] = None,
) -> dict[str, Any]:
    """No new request; removed when its running ones have ended. A joining one goes at once.

    Again is harmless, also after the worker is gone; it may name another time, or force.
    """
    why = gateway.registry.why_removed(worker_id)
    if why is not None:
        return _accepted(worker_id, f"The worker was removed: {why}.")
    worker = _find(gateway, worker_id)
    gateway.drain.start(worker, "asked by DELETE /workers", timeout_s=timeout_s, is_forced=force)
    tell_removed(gateway, worker, timeout_s, is_forced=force)
    if worker.state is State.GONE:
        return _accepted(worker_id, "The worker had not joined yet, and is removed.")
    n_left = worker.n_leases + worker.n_held
    return _accepted(
        worker_id,
        f"The worker is draining and is removed when it is idle; {n_left} requests are left.",
    )


def _apply(gateway: Parts, worker: Worker, spec: WorkerSpec, *, is_asked: bool) -> dict[str, Any]:
    gateway.registry.set_spec(worker, spec)
    tell_changed(gateway, worker.id)
    if is_asked:
        gateway.health.register_anew(worker)
    return _accepted(worker.id, "The worker is changed.")


def _accepted(worker_id: str, message: str) -> dict[str, Any]:
    return {"status": "accepted", "worker_id": worker_id, "message": message}


def _view(gateway: Parts, worker: Worker) -> dict[str, Any]:
    moment = Moment(gateway.clocks.now_s(), gateway.clocks.unix_s())
    return view(worker, moment, gateway.drain, gateway.clients)


def _find(gateway: Parts, worker_id: str) -> Worker:
    try:
        uuid.UUID(worker_id)
    except ValueError as exc:
        raise InvalidRequest(f"{worker_id!r} is no worker id.", param="worker_id") from exc
    worker = gateway.registry.get(worker_id)
    if worker is None:
        why = gateway.registry.why_removed(worker_id)
        what = "There is no worker" if why is None else "There is no longer a worker"
        tail = "" if why is None else f": {why}"
        raise WorkerNotFound(f"{what} {worker_id}{tail}.", param="worker_id")
    return worker

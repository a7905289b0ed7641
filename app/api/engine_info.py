"""What engines say of themselves, asked through the gateway; and emptying their caches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from app import __version__
from app.api.parts import GatewayParts, Parts
from app.api.worker_calls import ask_vllm, ask_worker, json_of, without_secrets
from app.errors import NoPairAvailable, WorkerError
from app.workers.states import State
from app.workers.worker import Engine, Role, Worker

if TYPE_CHECKING:
    from app.upstream.vllm_worker import VllmWorker

router = APIRouter(tags=["engines"])

INFO_TIMEOUT_S = 10.0
FLUSH_TIMEOUT_S = 45.0
MAX_CALLS_AT_ONCE = 32
"""Both as SMG 1.13 has them for its flush."""


def _ready(gateway: Parts) -> list[Worker]:
    return [worker for worker in gateway.registry.workers() if worker.state is State.READY]


async def _of_first_worker(
    gateway: Parts, paths: tuple[str, ...], of_vllm: Callable[[VllmWorker], Awaitable[Any]]
) -> Any:
    workers = sorted(_ready(gateway), key=lambda worker: worker.spec.role is not Role.PREFILL)
    if not workers:
        raise NoPairAvailable("No worker is ready to be asked.", retry_after_s=1)
    first = workers[0]
    if first.spec.engine is Engine.VLLM:
        return without_secrets(await ask_vllm(of_vllm(gateway.clients.vllm(first)), first))
    answer = await ask_worker(gateway.clients, first, paths, timeout_s=INFO_TIMEOUT_S)
    return json_of(answer, first)


@router.get("/get_model_info", summary="Model info of the first prefill worker")
@router.get("/model_info", summary="Model info of the first prefill worker")
async def model_info(gateway: GatewayParts) -> Any:
    """The engine's own answer, of vLLM its GetModelInfo; `/get_model_info` is its older name."""
    paths = ("/model_info", "/get_model_info")
    return await _of_first_worker(gateway, paths, lambda client: client.model_info())


@router.get("/get_server_info", summary="Server info of the first prefill worker")
@router.get("/server_info", summary="Server info of the first prefill worker")
async def server_info(gateway: GatewayParts) -> Any:
    """The engine's own answer, of vLLM its GetServerInfo; keys and passwords are nulled."""
    paths = ("/server_info", "/get_server_info")
    return await _of_first_worker(gateway, paths, lambda client: client.server_info())


async def _each(
    workers: Sequence[Worker], ask: Callable[[Worker], Awaitable[Any]]
) -> list[Any | WorkerError]:
    """Asks every worker, some at a time; a failure is returned in the worker's place."""
    gate = asyncio.Semaphore(MAX_CALLS_AT_ONCE)

    async def ask_one(worker: Worker) -> Any | WorkerError:
        async with gate:
            try:
                return await ask(worker)
            except WorkerError as failure:
                return failure

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask_one(worker)) for worker in workers]
    return [task.result() for task in tasks]


@router.get("/get_loads", summary="Loads of all engines, one row a worker and rank")
@router.get("/v1/loads", summary="Loads of all engines, one row a worker and rank")
async def loads(gateway: GatewayParts) -> dict[str, Any]:
    """Rows as the engines report them, with `worker` and `worker_type` added."""
    clients = gateway.clients

    async def ask(worker: Worker) -> Any:
        if worker.spec.engine is Engine.VLLM:
            return await ask_vllm(clients.vllm(worker).loads(), worker)
        answer = await ask_worker(clients, worker, ("/v1/loads",), timeout_s=INFO_TIMEOUT_S)
        return json_of(answer, worker)

    workers = _ready(gateway)
    answers = await _each(workers, ask)
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    times: list[str] = []
    for worker, answer in zip(workers, answers, strict=True):
        if isinstance(answer, WorkerError):
            errors.append({"worker": worker.spec.url, "message": answer.message})
            continue
        if isinstance(answer, dict):
            times.append(str(answer.get("timestamp") or ""))
        names = {"worker": worker.spec.url, "worker_type": worker.spec.role.value}
        rows.extend({**names, **row} for row in load_rows(answer))
    return {
        "timestamp": max(times, default=""),
        "version": f"tandem-{__version__}",
        "dp_rank_count": len(rows),
        "loads": rows,
        "aggregate": aggregate(rows),
        "errors": errors,
    }


def load_rows(answer: Any) -> list[dict[str, Any]]:
    """Returns the rows of an engine's `/v1/loads`: `loads` of an object, or the list itself."""
    rows = answer.get("loads", []) if isinstance(answer, dict) else answer
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def aggregate(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns sums of the counts and the mean token usage; a missing number counts as 0."""

    def total(name: str) -> int:
        return sum(row[name] for row in rows if isinstance(row.get(name), int))

    usages = [row["token_usage"] for row in rows if isinstance(row.get("token_usage"), int | float)]
    return {
        "total_running_reqs": total("num_running_reqs"),
        "total_waiting_reqs": total("num_waiting_reqs"),
        "total_reqs": total("num_total_reqs"),
        "total_used_tokens": total("num_used_tokens"),
        "avg_token_usage": round(sum(usages) / len(usages), 4) if usages else 0.0,
    }


@router.post("/flush_cache", summary="Empty the prefix caches of all ready workers")
async def flush_cache(gateway: GatewayParts) -> JSONResponse:
    """200 when all were flushed, 206 with the failures when some were, 502 when none was."""
    clients = gateway.clients

    async def ask(worker: Worker) -> None:
        if worker.spec.engine is Engine.VLLM:
            await ask_vllm(clients.vllm(worker).flush_cache(), worker)
            gateway.registry.announce("flushed", worker)
            return
        answer = await ask_worker(
            clients, worker, ("/flush_cache",), timeout_s=FLUSH_TIMEOUT_S, method="POST"
        )
        if not 200 <= answer.status <= 299:
            json_of(answer, worker)
        gateway.registry.announce("flushed", worker)

    workers = _ready(gateway)
    failed = [
        {"worker": worker.spec.url, "message": answer.message}
        for worker, answer in zip(workers, await _each(workers, ask), strict=True)
        if isinstance(answer, WorkerError)
    ]
    n_flushed = len(workers) - len(failed)
    if failed and not n_flushed:
        raise WorkerError(
            f"No worker flushed its cache; {failed[0]['worker']}: {failed[0]['message']}",
            leg=None,
            code="flush_failed",
        )
    n_grpc = sum(worker.spec.engine is Engine.VLLM for worker in workers)
    answer: dict[str, Any] = {
        "status": "partial_success" if failed else "success",
        "message": f"Flushed the caches of {n_flushed} of {len(workers)} workers.",
        "workers_flushed": n_flushed,
        "total_http_workers": len(workers) - n_grpc,
        "total_grpc_workers": n_grpc,
        "total_workers": len(gateway.registry.workers()),
    }
    if failed:
        answer["failed"] = failed
    return JSONResponse(answer, status_code=206 if failed else 200)

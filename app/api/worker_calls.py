"""Control calls that a route passes on to workers, with failures said in our one shape."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from app.dispatch.leg_failures import from_wire
from app.errors import Leg, LegRejected, WorkerError
from app.protocol.peer_blame import without_addresses
from app.protocol.problem import message_of
from app.upstream.clients import WorkerClients
from app.upstream.failures import UpstreamError
from app.upstream.sglang_worker import WorkerRefused
from app.workers.worker import Role, Worker

Told = TypeVar("Told")
MAX_ANSWER_BYTES = 16 * 1024 * 1024
_SECRETS = frozenset({"api_key", "admin_api_key", "ssl_keyfile_password"})


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's whole answer to a control call."""

    status: int
    body: bytes


def leg_of(worker: Worker) -> Leg | None:
    """Returns the leg that a worker serves; None for a regular one."""
    if worker.spec.role is Role.PREFILL:
        return "prefill"
    return "decode" if worker.spec.role is Role.DECODE else None


async def ask_worker(
    clients: WorkerClients,
    worker: Worker,
    paths: tuple[str, ...],
    *,
    timeout_s: float,
    method: str = "GET",
    body: bytes = b"",
) -> Answer:
    """Calls an SGLang worker; a later path is tried when an earlier one is not there (404).

    Args:
        clients: The connections to the workers.
        worker: Whom to ask, with its own key.
        paths: Route names, newest first: engines renamed some of them.
        timeout_s: Longest silence of the worker.
        method: HTTP method.
        body: JSON to send, if any.

    Raises:
        WorkerError: Unreachable, silent, or its answer broke off.
    """
    headers = [(b"accept", b"*/*")]
    if body:
        headers.append((b"content-type", b"application/json"))
    if worker.spec.api_key is not None:
        headers.append((b"authorization", b"Bearer " + worker.spec.api_key.encode()))
    answer = Answer(404, b"")
    for path in paths:
        exchange = clients.get(worker).pool.exchange(
            method.encode("ascii"), path.encode("ascii"), headers, body, silence_timeout_s=timeout_s
        )
        try:
            head = await exchange.head()
            answer = Answer(head.status, await exchange.read(MAX_ANSWER_BYTES))
        except UpstreamError as failure:
            raise _in_our_words(failure, worker) from failure
        finally:
            exchange.close()
        if answer.status != 404:
            break
    return answer


async def ask_vllm(call: Awaitable[Told], worker: Worker) -> Told:
    """Waits for a control call to a vLLM worker.

    Raises:
        WorkerError: Unreachable or silent; its own error status is kept (``LegRejected``).
    """
    try:
        return await call
    except UpstreamError as failure:
        raise _in_our_words(failure, worker) from failure
    except WorkerRefused as refused:
        text = _without_addresses(str(refused), worker)
        raise LegRejected(
            f"{_named(worker)} refused: {text}",
            leg=leg_of(worker),
            worker_id=worker.spec.id,
            status=502,
            detail=f"{worker.spec.url}: {refused}",
        ) from refused


def _in_our_words(failure: UpstreamError, worker: Worker) -> WorkerError:
    leg = leg_of(worker)
    if leg is not None:
        error = from_wire(failure, leg, worker)
        error.message = _without_addresses(error.message, worker)
    else:
        error = WorkerError(
            f"{_named(worker)} could not be asked", leg=None, worker_id=worker.spec.id
        )
    error.detail = f"{worker.spec.url}: {failure}"
    return error


def _named(worker: Worker) -> str:
    """Names a worker by its role; its address is for the log."""
    return f"The {worker.spec.role} worker"


def _without_addresses(text: str, worker: Worker) -> str:
    return without_addresses(text.replace(worker.spec.url, "it"), (worker.spec.host,))


def json_of(answer: Answer, worker: Worker) -> Any:
    """Returns the JSON of a good answer, keys and passwords taken out.

    Raises:
        LegRejected: The worker answered with another status than 2xx (kept from 400 on, else
            502), or not with JSON.
    """
    text = message_of(answer.body)
    if 200 <= answer.status <= 299:
        try:
            return without_secrets(orjson.loads(answer.body))
        except orjson.JSONDecodeError:
            text = "the answer is not JSON"
        except RecursionError:
            text = "the answer is nested too deeply"
    raise LegRejected(
        f"{_named(worker)} answered {answer.status}: {_without_addresses(text, worker)}",
        leg=leg_of(worker),
        worker_id=worker.spec.id,
        status=answer.status if answer.status >= 400 else 502,
        detail=f"{worker.spec.url}: {text}",
    )


def without_secrets(value: Any) -> Any:
    """Returns JSON with keys and passwords nulled: SGLang's server info repeats its own."""
    if isinstance(value, dict):
        return {
            key: None if key in _SECRETS else without_secrets(inner) for key, inner in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(inner) for inner in value]
    return value

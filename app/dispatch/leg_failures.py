"""What went wrong on the wire of a leg, said as an error the client can be shown.

One table. Nothing above this module knows the HTTP client's exceptions.
"""

from __future__ import annotations

import orjson

from app.errors import (
    GatewayFull,
    Leg,
    LegBroken,
    LegEnded,
    LegRejected,
    LegTimedOut,
    LegUnreachable,
    WorkerError,
)
from app.protocol.problem import message_of
from app.protocol.reply_faults import Fault
from app.protocol.wire_json import Json
from app.upstream.failures import (
    BodyTooLong,
    ConnectFailed,
    ConnectTimeout,
    OutOfFiles,
    RpcFailed,
    SilenceTimeout,
    UpstreamError,
    WorkerRemoved,
)
from app.upstream.http1 import Exchange, Head
from app.workers.worker import Worker

MAX_ERROR_BODY_BYTES = 1024 * 1024
"""Engines quote the request they refuse, so this is more than any sentence needs."""


def named(leg: Leg | None) -> str:
    """Returns a worker as messages name it; a regular one has no leg."""
    return f"the {leg} worker" if leg else "the worker"


def from_wire(failure: UpstreamError, leg: Leg | None, worker: Worker) -> WorkerError:
    """Translates a failure of the HTTP or gRPC client.

    The client's own words name addresses: they are for the log. An engine's status is passed on
    with its text.
    """
    if isinstance(failure, RpcFailed):
        return LegRejected(
            failure.message or f"status {failure.status} without a text",
            leg=leg,
            worker_id=worker.spec.id,
            status=failure.http_status,
            code=failure.code or None,
        )
    detail = str(failure)
    if isinstance(failure, OutOfFiles):
        return LegUnreachable(
            "the gateway is full: it may open no further connection",
            leg=leg,
            worker_id=worker.spec.id,
            is_unsent=True,
            status=GatewayFull.status,
            code=GatewayFull.code,
            retry_after_s=1,
            detail=detail,
        )
    if isinstance(failure, ConnectFailed):
        is_late = isinstance(failure, ConnectTimeout)
        return LegUnreachable(
            f"{named(leg)} could not be reached{' in time' if is_late else ''}",
            leg=leg,
            worker_id=worker.spec.id,
            is_unsent=True,
            status=504 if is_late else None,
            code="connect_timeout" if is_late else None,
            detail=detail,
        )
    if isinstance(failure, SilenceTimeout):
        where = "before its answer" if failure.phase == "head" else "in the middle of its answer"
        return LegTimedOut(
            f"{named(leg)} sent nothing for too long {where}",
            leg=leg,
            worker_id=worker.spec.id,
            detail=detail,
        )
    if isinstance(failure, WorkerRemoved):
        return LegEnded(
            f"{named(leg)} was removed before the request had ended",
            leg=leg,
            worker_id=worker.spec.id,
            retry_after_s=1,
        )
    what = "is too long" if isinstance(failure, BodyTooLong) else "broke off"
    return LegBroken(
        f"{named(leg)}'s answer {what}", leg=leg, worker_id=worker.spec.id, detail=detail
    )


async def refusal(exchange: Exchange, head: Head, leg: Leg | None, worker: Worker) -> LegRejected:
    """Reads the rest of an answer that is not 200.

    Raises:
        UpstreamError: It broke off.
    """
    try:
        body = await exchange.read(MAX_ERROR_BODY_BYTES)
    except BodyTooLong:
        # The status is what counts; a page of that size holds no sentence.
        body = b""
    return from_status(head, body, leg, worker)


def from_status(head: Head, body: bytes, leg: Leg | None, worker: Worker) -> LegRejected:
    """Passes a worker's error status on, with its text and its ``Retry-After``.

    A status that makes no sense as an answer to a generation (1xx, 3xx, another 2xx) is 502.
    """
    retry_after_s = None
    for name, value in head.headers:
        if name == b"retry-after" and value.isdigit():
            retry_after_s = min(int(value[:9]), 3600)
    text = message_of(body) or f"status {head.status} without a text"
    return LegRejected(
        text,
        leg=leg,
        worker_id=worker.spec.id,
        status=head.status if 400 <= head.status <= 599 else 502,
        retry_after_s=retry_after_s,
    )


def from_fault(fault: Fault, leg: Leg | None, worker: Worker) -> WorkerError:
    """Translates a failure that a worker reports in an answer with status 200.

    With a status of its own it is the refusal that the status line came too early for.
    """
    if fault.status is not None:
        return LegRejected(fault.message, leg=leg, worker_id=worker.spec.id, status=fault.status)
    return LegBroken(
        f"{named(leg)} ended the generation: {fault.message}",
        leg=leg,
        worker_id=worker.spec.id,
        code="generation_aborted",
    )


def parse_json(body: bytes, leg: Leg | None, worker: Worker) -> Json:
    """Parses a whole 200 answer.

    Raises:
        LegBroken: It is not JSON.
    """
    try:
        parsed: Json = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise LegBroken(
            f"{named(leg)} answered 200 with a body that is not JSON",
            leg=leg,
            worker_id=worker.spec.id,
        ) from error
    return parsed

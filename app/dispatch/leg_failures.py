"""What went wrong on the wire of a leg, said as an error the client can be shown.

One table. Nothing above this module knows the HTTP client's exceptions.
"""

from __future__ import annotations

import orjson

from app.errors import Leg, LegBroken, LegRejected, LegTimedOut, LegUnreachable, WorkerError
from app.protocol.problem import message_of
from app.protocol.wire_json import Json
from app.upstream.failures import ConnectFailed, SilenceTimeout, UpstreamError
from app.upstream.http1 import Head
from app.workers.worker import Worker

MAX_ERROR_BODY_BYTES = 64 * 1024


def from_wire(failure: UpstreamError, leg: Leg, worker: Worker) -> WorkerError:
    """Translates a failure of the HTTP client."""
    if isinstance(failure, ConnectFailed):
        return LegUnreachable(
            f"the {leg} worker could not be reached: {failure}",
            leg=leg,
            worker_id=worker.spec.id,
            is_unsent=True,
        )
    if isinstance(failure, SilenceTimeout):
        return LegTimedOut(
            f"the {leg} worker sent nothing for too long: {failure}",
            leg=leg,
            worker_id=worker.spec.id,
        )
    return LegBroken(
        f"the {leg} worker's answer broke off: {failure}", leg=leg, worker_id=worker.spec.id
    )


def from_status(head: Head, body: bytes, leg: Leg, worker: Worker) -> LegRejected:
    """Passes a worker's error status on, with its text and its ``Retry-After``.

    A status that makes no sense as an answer to a generation (1xx, 3xx, another 2xx) is 502.
    """
    retry_after_s = None
    for name, value in head.headers:
        if name == b"retry-after" and value.isdigit():
            retry_after_s = min(int(value), 3600)
    text = message_of(body) or f"status {head.status} without a text"
    return LegRejected(
        text,
        leg=leg,
        worker_id=worker.spec.id,
        status=head.status if 400 <= head.status <= 599 else 502,
        retry_after_s=retry_after_s,
    )


def aborted(message: str, leg: Leg, worker: Worker) -> LegBroken:
    """A worker ended the generation itself (``finish_reason`` abort or an error event)."""
    return LegBroken(
        f"the {leg} worker ended the generation: {message}",
        leg=leg,
        worker_id=worker.spec.id,
        code="generation_aborted",
    )


def parse_json(body: bytes, leg: Leg, worker: Worker) -> Json:
    """Parses a whole 200 answer.

    Raises:
        LegBroken: It is not JSON.
    """
    try:
        parsed: Json = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise LegBroken(
            f"the {leg} worker answered 200 with a body that is not JSON",
            leg=leg,
            worker_id=worker.spec.id,
        ) from error
    return parsed

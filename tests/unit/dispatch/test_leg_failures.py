"""Failures of the wire, as the client is told of them."""

from __future__ import annotations

from typing import Any

import pytest

from app.dispatch import leg_failures
from app.errors import LegBroken, LegRejected, LegTimedOut, LegUnreachable
from app.protocol.reply_faults import Fault
from app.upstream.failures import (
    BodyTooLong,
    BrokenResponse,
    ConnectFailed,
    ConnectTimeout,
    SilenceTimeout,
    UpstreamError,
)
from app.upstream.http1 import Head
from app.workers.worker import Role, Worker, WorkerSpec

WORKER = Worker(WorkerSpec("http://10.1.2.3:8000", Role.DECODE))
WHERE = "No connection to 10.1.2.3:8000: refused."


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (ConnectFailed(WHERE), LegUnreachable, "the decode worker could not be reached"),
        (
            ConnectTimeout(WHERE),
            LegUnreachable,
            "the decode worker could not be reached in time",
        ),
        (
            SilenceTimeout(WHERE, "head"),
            LegTimedOut,
            "the decode worker sent nothing for too long before its answer",
        ),
        (
            SilenceTimeout(WHERE, "body"),
            LegTimedOut,
            "the decode worker sent nothing for too long in the middle of its answer",
        ),
        (BrokenResponse(WHERE), LegBroken, "the decode worker's answer broke off"),
        (BodyTooLong(WHERE), LegBroken, "the decode worker's answer is too long"),
    ],
)
def test_no_address_is_shown(failure: UpstreamError, kind: type, message: str) -> None:
    """The leg is named; the client's own words, with the address, go to the log."""
    error = leg_failures.from_wire(failure, "decode", WORKER)
    assert (message, WHERE) == (error.message, error.detail)
    assert (kind, "decode", WORKER.id) == (type(error), error.leg, error.worker_id)
    assert isinstance(failure, ConnectFailed) is error.is_unsent


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ConnectFailed(WHERE), 502, "worker_unreachable"),
        (ConnectTimeout(WHERE), 504, "connect_timeout"),
        (SilenceTimeout(WHERE, "head"), 504, "worker_timeout"),
        (BrokenResponse(WHERE), 502, "worker_broken"),
    ],
)
def test_whatever_took_too_long_is_504(failure: UpstreamError, status: int, code: str) -> None:
    """A connection that does not come about in time is one of them."""
    error = leg_failures.from_wire(failure, "decode", WORKER)
    assert (status, code) == (error.status, error.code)


@pytest.mark.parametrize(
    ("status", "shown"), [(400, 400), (422, 422), (503, 503), (201, 502), (302, 502), (600, 502)]
)
def test_only_error_statuses_pass(status: int, shown: int) -> None:
    """What makes no sense as an answer to a generation is 502."""
    error = leg_failures.from_status(Head(status, []), b"", "prefill", WORKER)
    assert (shown, f"status {status} without a text") == (error.status, error.message)


@pytest.mark.parametrize(
    ("value", "retry_after_s"),
    [(b"7", 7), (b"0", 0), (b"99999", 3600), (b"soon", None), (b"-1", None)],
)
def test_retry_after_passes(value: bytes, retry_after_s: int | None) -> None:
    """In whole seconds, an hour at most; anything else is left out."""
    head = Head(429, [(b"server", b"x"), (b"retry-after", value)])
    assert retry_after_s == leg_failures.from_status(head, b"", "decode", WORKER).retry_after_s


class Page:
    """An exchange whose body is too long, or broken."""

    def __init__(self, failure: UpstreamError | None) -> None:
        self._failure = failure

    async def read(self, limit: int) -> bytes:
        """The body, or its failure."""
        if self._failure is not None:
            raise self._failure
        return b'{"message": "No."}'


@pytest.mark.parametrize(
    ("failure", "message"), [(None, "No."), (BodyTooLong("x"), "status 400 without a text")]
)
async def test_refusal_keeps_its_status(failure: UpstreamError | None, message: str) -> None:
    """A page that is too long to be read is still a refusal."""
    page: Any = Page(failure)
    error = await leg_failures.refusal(page, Head(400, []), "decode", WORKER)
    assert (400, message) == (error.status, error.message)


async def test_refusal_that_breaks_off() -> None:
    """A connection that ends in the middle is another failure."""
    page: Any = Page(BrokenResponse("cut"))
    with pytest.raises(BrokenResponse):
        await leg_failures.refusal(page, Head(400, []), "decode", WORKER)


def test_fault_with_a_status_is_a_refusal() -> None:
    """The engine's words and status pass as if they had come in the status line."""
    error = leg_failures.from_fault(Fault("Full.", 503), "prefill", WORKER)
    assert (LegRejected, "Full.", 503) == (type(error), error.message, error.status)


def test_fault_without_a_status_is_an_abort() -> None:
    """Somebody ended the generation: 502."""
    error = leg_failures.from_fault(Fault("Aborted", None), "decode", WORKER)
    assert (LegBroken, "generation_aborted", 502) == (type(error), error.code, error.status)
    assert "Aborted" in error.message


def test_page_in_place_of_json() -> None:
    """200 with a page is a broken worker."""
    with pytest.raises(LegBroken, match="not JSON"):
        leg_failures.parse_json(b"<html>", "decode", WORKER)

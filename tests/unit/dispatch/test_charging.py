"""The table of who pays, read from where it is written."""

from __future__ import annotations

import pytest

from app.dispatch import charging
from app.dispatch.charging import Charge, charge_of
from app.dispatch.leg_failures import from_fault, from_status, from_wire
from app.errors import LegBroken, LegEnded, WorkerError
from app.protocol.reply_faults import Fault
from app.upstream.failures import (
    BrokenResponse,
    ConnectFailed,
    ConnectTimeout,
    OutOfFiles,
    RpcFailed,
    SilenceTimeout,
)
from app.upstream.http1 import Head
from app.workers.worker import Role, Worker, WorkerSpec

WORKER = Worker(WorkerSpec("http://w:1", Role.DECODE))


def answered(status: int) -> list[WorkerError]:
    """Errors of a worker that answers a status, over HTTP, in an event, and over gRPC."""
    found: list[WorkerError] = [from_status(Head(status, []), b"", "decode", WORKER)]
    if 400 <= status < 600:
        found.append(from_fault(Fault("No.", status), "decode", WORKER))
        found.append(from_wire(RpcFailed("NAME", status, "No."), "decode", WORKER))
    return found


def broken(code: str) -> list[WorkerError]:
    """A failure that only a code tells from others."""
    return [LegBroken("broken", leg="decode", worker_id="w", code=code)]


ERRORS: dict[str, list[WorkerError]] = {
    "refuse the connection": [from_wire(ConnectFailed("gone"), "decode", WORKER)],
    "not be connected in time": [from_wire(ConnectTimeout("late"), "decode", WORKER)],
    "find the gateway out of open files": [from_wire(OutOfFiles("none"), "decode", WORKER)],
    "answer 4xx, other than 429": [e for s in (400, 401, 404, 408, 422) for e in answered(s)],
    "answer 429": answered(429),
    "answer 503, its last probe was good": answered(503),
    "answer 503, its last probe failed": answered(503),
    "answer any other 5xx": [e for s in (500, 501, 502, 504) for e in answered(s)],
    "answer a status that is none": [e for s in (201, 302) for e in answered(s)],
    "cut or reset its answer, send garbage": [from_wire(BrokenResponse("cut"), "decode", WORKER)],
    "end the generation by abort": [from_fault(Fault("aborted", None), "decode", WORKER)],
    "leave no handoff, if that is wanted": broken("handoff_missing"),
    "take too long to be reached": broken("handoff_stale"),
    "say nothing for too long": [
        from_wire(SilenceTimeout("hung", "head"), "decode", WORKER),
        from_wire(SilenceTimeout("hung", "body"), "decode", WORKER),
    ],
    "not end before it was removed": [LegEnded("removed", leg="decode", worker_id="w")],
}


def rows() -> list[tuple[str, str, str, bool, bool, str]]:
    """The rows of the table: cause, status, code, charged, probed, besides."""
    lines = (charging.__doc__ or "").splitlines()
    rules = [i for i, line in enumerate(lines) if line.startswith("====")]
    widths = [len(bar) + 1 for bar in lines[rules[0]].split()]
    found = []
    for line in lines[rules[1] + 1 : rules[2]]:
        # Of the columns before the last one the cause alone has several words.
        cause, rest = line[: widths[0]].strip(), line[widths[0] :].split()
        status, code, is_charged, is_probed, *besides = rest
        found.append(
            (cause, status, code, is_charged == "yes", is_probed == "yes", " ".join(besides))
        )
    return found


def test_every_row_has_its_errors() -> None:
    """No row is left out below, and none is made up."""
    assert list(ERRORS) == [row[0] for row in rows()]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_row(row: tuple[str, str, str, bool, bool, str]) -> None:
    """What is written is what is done."""
    cause, status, code, is_charged, is_probed, besides = row
    expected = Charge(
        is_failure=is_charged,
        is_probed=is_probed,
        is_full=besides == "used last a while",
        is_cut_off=besides == "out at once",
    )
    for error in ERRORS[cause]:
        assert expected == charge_of(error, is_sick="failed" in cause)
        assert code == error.code
        if status != "own":
            assert status == str(error.status)

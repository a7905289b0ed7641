"""The fault matrix: what a client gets for each fault of each leg, whole or streamed.

Pure data. ``matrix_faults`` makes the faults, ``test_matrix`` holds the gateway to the cells,
``matrix_page`` writes ``docs/fault-matrix.md`` from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from app.errors import Leg

LEGS: tuple[Leg, ...] = ("prefill", "decode")


class Transfer(StrEnum):
    """The engine and what carries its KV cache."""

    SGLANG = "SGLang"
    NIXL = "NIXL"
    MOONCAKE = "Mooncake"


class Fault(StrEnum):
    """What one worker does wrong; the other one and its own probes are well."""

    REFUSED = "connection refused"
    STATUS_400 = "400"
    STATUS_422 = "422"
    STATUS_429 = "429"
    STATUS_503 = "bare 503"
    STATUS_500 = "500"
    HANG = "hang before the head"
    HANG_MIDWAY = "hang mid-stream"
    RESET = "reset"
    HALF_BODY = "half body"
    GARBAGE = "bad JSON or SSE"
    SLOW = "slow, within the limit"
    STOPPED = "SIGSTOP"
    HALF_OPEN = "half-open TCP"


class Saw(StrEnum):
    """What became of the other leg."""

    NOTHING = "never asked"
    ENDED = "ended at once"
    THROUGH = "did its part"


class Pays(StrEnum):
    """What the failure costs the worker that failed; the other one never pays."""

    NOTHING = "nothing"
    WEIGHT = "used last for a while"
    BREAKER = "breaker"


class When(StrEnum):
    """How long the answer takes."""

    AT_ONCE = "at once"
    AFTER_SILENCE = "silence limit"
    AFTER_PROBES = "silence limit, then a probe (1 s)"


@dataclass(frozen=True, slots=True)
class Cell:
    """What happens.

    Attributes:
        status: HTTP status of the answer.
        code: ``error.code``; empty for a good answer.
        is_event: The error comes as the last event of a stream that had begun.
        is_named: ``error.leg`` is the leg that failed; otherwise no leg is named.
        other: What became of the other leg.
        pays: What the worker that failed pays.
        when: How long it takes.
        is_moved: With a second pair, the client gets a good answer from there.
        why: What the reader might ask.
    """

    status: int
    code: str = ""
    is_event: bool = False
    is_named: bool = True
    other: Saw = Saw.ENDED
    pays: Pays = Pays.NOTHING
    when: When = When.AT_ONCE
    is_moved: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class NoCell:
    """A cell that cannot exist."""

    why: str


@dataclass(frozen=True, slots=True)
class Row:
    """One fault of either leg; what is not told apart is the same for whole and stream."""

    prefill: Cell | NoCell
    decode: Cell | NoCell
    prefill_stream: Cell | NoCell | None = None
    decode_stream: Cell | NoCell | None = None

    def cell(self, leg: Leg, *, is_stream: bool) -> Cell | NoCell:
        """The cell of one leg and mode."""
        whole, stream = (
            (self.prefill, self.prefill_stream)
            if leg == "prefill"
            else (self.decode, self.decode_stream)
        )
        return stream if is_stream and stream is not None else whole


GOOD = Cell(200, other=Saw.THROUGH)
BROKEN = Cell(502, "worker_broken", pays=Pays.BREAKER)
SILENT = Cell(504, "worker_timeout", pays=Pays.BREAKER, when=When.AFTER_SILENCE)
UNREACHABLE = Cell(502, "worker_unreachable", other=Saw.NOTHING, pays=Pays.BREAKER, is_moved=True)
NOBODY_KNOWS = replace(
    SILENT,
    is_named=False,
    pays=Pays.NOTHING,
    why="with one leg hung the other is silent too; both answer their probes, so neither is named",
)


def rejected(status: int, pays: Pays = Pays.NOTHING, code: str = "worker_rejected") -> Cell:
    """The worker's own status."""
    return Cell(status, code, pays=pays)


def in_stream(cell: Cell, **more: object) -> Cell:
    """The same after events were relayed, so as one error event."""
    return replace(cell, status=200, is_event=True, **more)  # type: ignore[arg-type]


def both(cell: Cell | NoCell) -> Row:
    """The same for either leg."""
    return Row(cell, cell)


_DECODE_SPOKE = "decode's first event proves that the KV cache arrived, so nobody waits for prefill"

SGLANG: Mapping[Fault, Row] = {
    Fault.REFUSED: both(UNREACHABLE),
    Fault.STATUS_400: both(rejected(400)),
    Fault.STATUS_422: both(rejected(422)),
    Fault.STATUS_429: both(rejected(429, Pays.WEIGHT)),
    Fault.STATUS_503: both(rejected(503, Pays.WEIGHT)),
    Fault.STATUS_500: both(rejected(500, Pays.BREAKER)),
    Fault.HANG: both(NOBODY_KNOWS),
    Fault.HANG_MIDWAY: Row(
        prefill=replace(GOOD, why=_DECODE_SPOKE),
        decode=replace(SILENT, other=Saw.THROUGH),
        decode_stream=in_stream(SILENT, other=Saw.THROUGH),
    ),
    Fault.RESET: both(BROKEN),
    Fault.HALF_BODY: Row(
        prefill=replace(BROKEN, why="prefill's answer is cut while decode still computes"),
        prefill_stream=replace(GOOD, why=_DECODE_SPOKE),
        decode=replace(BROKEN, other=Saw.THROUGH),
        decode_stream=in_stream(BROKEN, other=Saw.THROUGH),
    ),
    Fault.GARBAGE: both(BROKEN),
    Fault.SLOW: both(GOOD),
    Fault.STOPPED: both(replace(SILENT, when=When.AFTER_PROBES)),
    Fault.HALF_OPEN: both(NOBODY_KNOWS),
}

_NO_HALF = NoCell("gRPC frames its messages: a cut one is a reset")
_NO_MIDWAY = NoCell("the answer is one message, so this is the hang before the head")
_ALONE = Saw.NOTHING
"""With NIXL decode is asked when prefill has ended."""

NIXL: Mapping[Fault, Row] = {
    Fault.REFUSED: Row(UNREACHABLE, replace(UNREACHABLE, other=Saw.THROUGH)),
    **{
        fault: Row(replace(cell, other=_ALONE), replace(cell, other=Saw.THROUGH))
        for fault, cell in {
            Fault.STATUS_400: rejected(400),
            Fault.STATUS_422: rejected(422, code="constraint_failed"),
            Fault.STATUS_429: rejected(429, Pays.WEIGHT),
            Fault.STATUS_503: rejected(503, Pays.WEIGHT),
            Fault.STATUS_500: rejected(500, Pays.BREAKER),
            Fault.HANG: SILENT,
            Fault.RESET: BROKEN,
            Fault.GARBAGE: BROKEN,
            Fault.STOPPED: SILENT,
            Fault.HALF_OPEN: SILENT,
        }.items()
    },
    Fault.HANG_MIDWAY: Row(
        prefill=_NO_MIDWAY,
        decode=_NO_MIDWAY,
        decode_stream=in_stream(SILENT, other=Saw.THROUGH),
    ),
    Fault.HALF_BODY: both(_NO_HALF),
    Fault.SLOW: both(GOOD),
}

MOONCAKE = NIXL
"""Decode is asked when prefill has ended, too: one that waits for blocks holds room for them."""

MATRIX: Mapping[Transfer, Mapping[Fault, Row]] = {
    Transfer.SGLANG: SGLANG,
    Transfer.NIXL: NIXL,
    Transfer.MOONCAKE: MOONCAKE,
}

GRPC_STATUS: Mapping[Fault, str] = {
    Fault.STATUS_400: "INVALID_ARGUMENT",
    Fault.STATUS_422: "FAILED_PRECONDITION",
    Fault.STATUS_429: "RESOURCE_EXHAUSTED",
    Fault.STATUS_503: "UNAVAILABLE",
    Fault.STATUS_500: "INTERNAL",
}
"""What the statuses are over gRPC; 422 comes with ``smg-constraint-failed`` in its metadata."""


@dataclass(frozen=True, slots=True)
class Case:
    """One cell with its place."""

    transfer: Transfer
    fault: Fault
    leg: Leg
    is_stream: bool
    cell: Cell

    @property
    def name(self) -> str:
        """For pytest."""
        mode = "stream" if self.is_stream else "whole"
        return f"{self.transfer}-{self.leg}-{self.fault}-{mode}".replace(" ", "_")


def cases() -> Iterator[Case]:
    """Every cell that exists."""
    for transfer, rows in MATRIX.items():
        for fault in Fault:
            for leg in LEGS:
                for is_stream in (False, True):
                    cell = rows[fault].cell(leg, is_stream=is_stream)
                    if isinstance(cell, Cell):
                        yield Case(transfer, fault, leg, is_stream, cell)

"""Writes ``docs/fault-matrix.md`` from the fault matrix: ``python -m tests.flow.matrix_page``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product

from app.errors import Leg
from tests.flow.matrix_cells import GRPC_STATUS, LEGS, MATRIX, Cell, Fault, NoCell, Row, Transfer

HEAD = """\
# Fault matrix

<!-- Made by `python -m tests.flow.matrix_page`; a test fails when it is out of date. -->

What a client gets when one worker of a pair fails while the other one is well. Every row is a test
with simulated workers (`tests/flow/test_matrix.py`), which also looks at what the other worker saw,
that no lease, connection, task, room or pinned block is left, and that the same pair serves the
next request once the worker is well again. `tests/flow/test_matrix_moves.py` holds the last column.

- **Client gets**: the status, `error.code` and, after the comma, `error.leg` (also in the header
  `x-tandem-leg`). *Event* means that the stream had begun: its status is 200, one error event ends
  it, and `[DONE]` does not come.
- **Other leg**: *ended at once* is `POST /abort_request` for SGLang, a cancelled call for vLLM.
- **The worker pays**: *breaker* counts towards opening its circuit breaker, *used last* means that
  it gets requests only when no other can take them, for `Retry-After` or a second. The other
  worker never pays.
- **When**: the silence limit is the one of `--prefill-timeout-secs`, `--first-token-timeout-secs`,
  `--token-gap-timeout-secs` and `--request-timeout-secs` that holds, see [Failures](failures.md).
- **Another pair**: whether another pair is tried, if there is one. That needs proof that nothing
  reached an engine.

Messages name no address of a worker.
"""

LEGENDS = {
    Transfer.SGLANG: """\
Both legs are sent at once. A worker whose own probes answer is meant throughout, but for SIGSTOP:
there the probe fails as well, which names the leg. *Half-open TCP*: the peer of a pooled connection
is gone without a word; new connections reach it.""",
    Transfer.NIXL: """\
Prefill runs first, with one token; decode follows with the handoff. Over gRPC
{statuses}.
Blocks that a failed decode leg did not read come free when decode's engine lets prefill know, or
when their lease ends. *Half-open TCP*: a connection whose peer is gone without a word is found by a
ping within 20 s and made anew.""",
    Transfer.MOONCAKE: """\
As NIXL: decode follows when prefill has ended, since a decode worker that waits for blocks holds
room for them however the request ends.""",
}
COLUMNS = (
    "| Fault | Leg | Answer | Client gets | Other leg | The worker pays | When | Another pair |"
)


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for transfer, rows in MATRIX.items():
        statuses = ", ".join(f"{fault} is `{name}`" for fault, name in GRPC_STATUS.items())
        parts.append(f"\n## {transfer}\n\n{LEGENDS[transfer].format(statuses=statuses)}\n\n")
        parts.append(f"{COLUMNS}\n| {' | '.join(['---'] * 8)} |\n")
        for fault in Fault:
            parts += [f"{line}\n" for line in _lines(fault, rows[fault])]
    return "".join(parts)


def _lines(fault: Fault, row: Row) -> Iterator[str]:
    """The cells of a fault, equal ones in one line."""
    places: dict[Cell | NoCell, list[tuple[Leg, bool]]] = {}
    for leg, is_stream in product(LEGS, (False, True)):
        places.setdefault(row.cell(leg, is_stream=is_stream), []).append((leg, is_stream))
    for cell, found in places.items():
        legs = list(dict.fromkeys(leg for leg, _ in found))
        modes = list(dict.fromkeys(mode for _, mode in found))
        if len(found) == len(legs) * len(modes):
            yield _line(fault, cell, legs, modes)
            continue
        for leg in legs:
            yield _line(fault, cell, [leg], [mode for one, mode in found if one == leg])


def _line(fault: Fault, cell: Cell | NoCell, legs: list[Leg], modes: list[bool]) -> str:
    leg = legs[0] if len(legs) == 1 else "either"
    mode = "both" if len(modes) == 2 else "stream" if modes[0] else "whole"
    if isinstance(cell, NoCell):
        told = [f"cannot be: {cell.why}", "", "", "", ""]
    elif not cell.code:
        told = ["a good answer" + _why(cell), cell.other, cell.pays, cell.when, ""]
    else:
        named = (leg if leg != "either" else "the leg") if cell.is_named else "no leg"
        start = "event" if cell.is_event else str(cell.status)
        got = f"{start} `{cell.code}`, {named}" + _why(cell)
        told = [got, cell.other, cell.pays, cell.when, "yes" if cell.is_moved else "no"]
    return f"| {' | '.join([fault, leg, mode, *told])} |"


def _why(cell: Cell) -> str:
    return f" ({cell.why})" if cell.why else ""


if __name__ == "__main__":
    sys.stdout.write(page())

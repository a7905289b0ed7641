"""The prefill queue against early binding, in virtual time, over leads, transfers and loads.

Early binding is what the queue does itself without a word of the engines: each request goes at
once to where it is expected to end first. Run it by ``make bench-sweep TRACE=FILE``.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from app.twin.fleet import EARLY, QUEUE, FleetShape
from app.twin.replay import replay
from app.twin.report import Figures
from app.twin.trace import read_trace

LEADS_S = (0.05, 0.15, 0.3)
TRANSFERS_S = (2e-6, 1e-5, 2e-5)
RATES = (0.3, 0.6, 0.85, 1.0, 1.2)
NOISE = 1.02
"""Means that differ by less are equal: one request that overtakes another moves them as much."""
IDLE_SHARE = 0.01


def idle_share(figures: Figures, shape: FleetShape, span_s: float) -> float:
    """The share of the prefill workers' time in which one was idle while a request waited."""
    return (figures.idle_s or 0.0) / (shape.n_prefill * span_s)


def main() -> int:
    """Prints a line a cell.

    Returns:
        How many cells fail.
    """
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("trace", type=Path)
    words.add_argument("--rows", default="2000:3000", metavar="FIRST:LAST")
    words.add_argument("--rate", type=float, action="append", help=f"default {RATES}; repeatable")
    words.add_argument("--engine-order", default="fcfs")
    asked = words.parse_args()
    first, last = map(int, asked.rows.split(":"))
    print("seconds; p99 and busy as shares of early binding's")
    print("rate  lead  transfer  queue mean  early mean  ratio   p99  busy  idle %")
    n_failed = 0
    for rate in asked.rate or RATES:
        rows = read_trace(asked.trace, first, last, rate)
        for lead_s, transfer_s in itertools.product(LEADS_S, TRANSFERS_S):
            shape = FleetShape(
                lead_s=lead_s, transfer_s_per_token=transfer_s, engine_order=asked.engine_order
            )
            queue, early = (replay(rows, shape, router) for router in (QUEUE, EARLY))
            idle = idle_share(queue, shape, rows[-1].at_s)
            ratio = queue.mean_s / early.mean_s
            is_bad = ratio > NOISE or idle >= IDLE_SHARE
            n_failed += is_bad
            print(
                f"{rate:4.2f}  {lead_s:4.2f}  {transfer_s:8.0e}  {queue.mean_s:10.2f}  "
                f"{early.mean_s:10.2f}  {ratio:5.2f}  {queue.at(0.99) / early.at(0.99):4.2f}  "
                f"{queue.busy_s / early.busy_s:4.2f}  {100 * idle:6.2f}{'  !' if is_bad else ''}",
                flush=True,
            )
    print("every cell holds" if not n_failed else f"{n_failed} cells do not hold")
    return n_failed


if __name__ == "__main__":
    raise SystemExit(min(1, main()))

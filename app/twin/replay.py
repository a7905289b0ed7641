"""``tandem replay``: what a trace's requests would have waited for, by router and fleet."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from app.policies.catalog import POLICIES
from app.twin.fleet import EARLY, QUEUE, FleetShape, TwinFleet
from app.twin.report import HEADING, Figures
from app.twin.trace import BadTrace, Row, read_trace
from app.twin.virtual_time import VirtualTimeLoop

_ORDERS = {"fcfs": "fcfs", "spf": "shortest-prefill-first", "hrrn": "hrrn"}
_WORKERS = re.compile(r"(\d{1,3})P(\d{1,3})D", re.IGNORECASE)


def replay(
    rows: list[Row], shape: FleetShape, router: str, *, shows_progress: bool = False
) -> Figures:
    """Plays a trace in virtual time.

    Args:
        rows: The trace.
        shape: The fleet.
        router: A policy's name, ``queue`` or ``early``.
        shows_progress: Write how far it is to the terminal.
    """

    def progress(share: float) -> None:
        if shows_progress:
            sys.stderr.write(f"\r{router:<18} {share:4.0%} ")
            sys.stderr.flush()

    async def play() -> Figures:
        return await TwinFleet(shape, router).play(rows, progress)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        figures = runner.run(play())
    if shows_progress:
        sys.stderr.write("\r" + " " * 24 + "\r")
    return figures


def main(argv: Sequence[str]) -> int:
    """Prints one line a router.

    Returns:
        Exit code: 0, or 2 for a file or flag that cannot be used.
    """
    asked = _parser().parse_args(argv)
    first, _, last = asked.rows.partition(":")
    found = _WORKERS.fullmatch(asked.workers)
    try:
        rows = read_trace(asked.file, int(first or 0), int(last) if last else None, asked.rate)
    except (BadTrace, OSError, ValueError) as error:
        sys.stderr.write(f"tandem replay: {error}\n")
        return 2
    if found is None or not all(int(n) for n in found.groups()):
        sys.stderr.write(f"tandem replay: --workers {asked.workers}: write it as 4P4D.\n")
        return 2
    shape = FleetShape(
        n_prefill=int(found[1]),
        n_decode=int(found[2]),
        tokens_per_s=asked.tokens_per_s,
        chunk_tokens=asked.chunk,
        lead_s=asked.lead,
        transfer_s_per_token=asked.transfer,
        decode_kv_tokens=asked.decode_kv_tokens,
        engine_order=_ORDERS[asked.engine_order],
    )
    print(f"{len(rows)} requests over {rows[-1].at_s:.0f} s, {asked.workers}; seconds")  # noqa: T201
    print(HEADING)  # noqa: T201
    for router in asked.policy or (QUEUE, "cache_aware", "least_load"):
        figures = replay(rows, shape, router, shows_progress=sys.stderr.isatty())
        print(figures.line(router), flush=True)  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        prog="tandem replay",
        description="Plays a trace through a simulated fleet in virtual time.",
    )
    words.add_argument("file", type=Path, help="a trace in the Mooncake form, one object a line")
    words.add_argument(
        "--policy",
        action="append",
        choices=(QUEUE, EARLY, *POLICIES),
        help="queue, early (the queue without the engines' word), a policy's name; repeatable",
    )
    words.add_argument("--workers", default="4P4D", help="default %(default)s")
    words.add_argument("--rows", default="", metavar="FIRST:LAST", help="all of them")
    words.add_argument("--rate", type=float, default=1.0, help="of the trace's own speed")
    words.add_argument("--tokens-per-s", type=float, default=10_000.0, help="of a prefill worker")
    words.add_argument("--chunk", type=int, default=8192, help="tokens of a prefill step")
    words.add_argument("--lead", type=float, default=0.15, help="seconds before prefill can start")
    words.add_argument("--transfer", type=float, default=1e-5, help="KV transfer, seconds a token")
    words.add_argument(
        "--engine-order",
        choices=_ORDERS,
        default="fcfs",
        help="in which prefill workers take what waits on them; spf: shortest prefill first",
    )
    words.add_argument(
        "--decode-kv-tokens", type=int, default=4_000_000, help="KV cache of a decode worker"
    )
    return words

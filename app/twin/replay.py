"""``tandem replay``: what a trace's requests would have waited for, by router and fleet."""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from app.policies.catalog import POLICIES
from app.twin.fleet import EARLY, QUEUE, FleetShape, TwinFleet
from app.twin.learned import Learned, learn
from app.twin.record import is_record, read_record
from app.twin.report import HEADING, Figures, pooled
from app.twin.trace import BadTrace, Row, read_trace
from app.twin.virtual_time import VirtualTimeLoop

_ORDERS = {"fcfs": "fcfs", "spf": "shortest-prefill-first", "hrrn": "hrrn"}
NUDGE_S = 0.002
"""Requests this close together might as well have come in another order."""
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


def replay_often(
    rows: list[Row], shape: FleetShape, router: str, n_plays: int, *, shows_progress: bool = False
) -> Figures:
    """Plays a trace as it is, and then with requests that come up to 2 ms later.

    Where requests come together their order decides who waits for whom, and hangs on less than
    that. A record has the order in which they came; of a trace one play is one draw out of many.
    """
    luck, runs = random.Random(1), []
    for number in range(n_plays):
        moved = rows
        if number:
            late = [replace(row, at_s=row.at_s + luck.uniform(0, NUDGE_S)) for row in rows]
            moved = sorted(late, key=lambda row: row.at_s)
        runs.append(replay(moved, shape, router, shows_progress=shows_progress))
    return pooled(runs)


def main(argv: Sequence[str]) -> int:
    """Prints what was learned of a record, and one line a router.

    Returns:
        Exit code: 0, or 2 for a file or flag that cannot be used.
    """
    asked = parser().parse_args(argv)
    first, _, last = asked.rows.partition(":")
    try:
        played = _read(asked, int(first or 0), int(last) if last else None)
    except (BadTrace, OSError, ValueError) as error:
        sys.stderr.write(f"tandem replay: {error}\n")
        return 2
    rows, shape = played.rows, played.shape
    workers = f"{shape.n_prefill}P{shape.n_decode}D"
    print(f"{len(rows)} requests over {rows[-1].at_s:.0f} s, {workers}; seconds")  # noqa: T201
    if played.learned is not None:
        print(played.learned.line())  # noqa: T201
    print(HEADING)  # noqa: T201
    if played.learned is not None:
        print(played.learned.recorded.line("as recorded"), flush=True)  # noqa: T201
    for router in asked.policy or (QUEUE, "cache_aware", "least_load"):
        shows = sys.stderr.isatty()
        figures = replay_often(rows, shape, router, asked.plays, shows_progress=shows)
        print(figures.line(router), flush=True)  # noqa: T201
    return 0


class _Played(NamedTuple):
    rows: list[Row]
    shape: FleetShape
    learned: Learned | None


def _read(asked: argparse.Namespace, first: int, last: int | None) -> _Played:
    """The requests and the fleet; a record says what its engines were like, flags overrule it."""
    found = None if asked.workers is None else _WORKERS.fullmatch(asked.workers)
    if asked.workers is not None and (found is None or not all(int(n) for n in found.groups())):
        raise ValueError(f"--workers {asked.workers}: write it as 4P4D.")
    learned, n_workers = None, (4, 4)
    base = FleetShape() if asked.chunk is None else FleetShape(chunk_tokens=asked.chunk)
    if is_record(asked.file):
        record = read_record(asked.file, first, last)
        rows = [replace(row, at_s=row.at_s / asked.rate) for row in record.rows]
        n_workers = record.n_workers
        learned = learn(record, base.chunk_tokens)
        if learned is not None:
            base = learned.shape(base)
    else:
        rows = read_trace(asked.file, first, last, asked.rate)
    if found is not None:
        n_workers = int(found[1]), int(found[2])
    by_flag = {
        "tokens_per_s": asked.tokens_per_s,
        "slow": None if asked.tokens_per_s is None else (),
        "lead_s": asked.lead,
        "transfer_s_per_token": asked.transfer,
        "decode_step_s": None if asked.step_ms is None else asked.step_ms / 1000,
        "decode_kv_tokens": asked.decode_kv_tokens,
        "engine_order": _ORDERS[asked.engine_order],
    }
    wanted = {name: value for name, value in by_flag.items() if value is not None}
    shape = replace(base, n_prefill=n_workers[0], n_decode=n_workers[1], **wanted)
    return _Played(rows, shape, learned)


def parser() -> argparse.ArgumentParser:
    """Returns the flags of the command."""
    words = argparse.ArgumentParser(
        prog="tandem replay",
        description="Plays a trace through a simulated fleet in virtual time.",
    )
    words.add_argument(
        "file",
        type=Path,
        help="a trace in the Mooncake form, or what GET /flights or --recorder-file wrote",
    )
    words.add_argument(
        "--policy",
        action="append",
        choices=(QUEUE, EARLY, *POLICIES),
        help="queue, early (the queue without the engines' word), a policy's name; repeatable",
    )
    words.add_argument("--workers", help="as 4P4D, which is the default; of a record, as it had")
    words.add_argument("--rows", default="", metavar="FIRST:LAST", help="all of them")
    words.add_argument("--rate", type=float, default=1.0, help="of the trace's own speed")
    words.add_argument(
        "--plays",
        type=int,
        default=1,
        metavar="N",
        help="those beyond the first are shuffled a bit",
    )
    # These are learned from a record.
    words.add_argument("--tokens-per-s", type=float, help="of a prefill worker; 10,000 or learned")
    words.add_argument("--lead", type=float, help="seconds before prefill starts; 0.15 or learned")
    words.add_argument("--transfer", type=float, help="of KV, s a token; 1e-5 or learned")
    words.add_argument("--step-ms", type=float, help="of a decode step; 20 or learned")
    words.add_argument("--chunk", type=int, help="tokens of a prefill step; 8192")
    words.add_argument(
        "--engine-order",
        choices=_ORDERS,
        default="fcfs",
        help="in which prefill workers take what waits on them; spf: shortest prefill first",
    )
    words.add_argument(
        "--decode-kv-tokens", type=int, help="KV cache of a decode worker; 4,000,000"
    )
    return words

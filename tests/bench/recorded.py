"""A run of a simulated fleet in real time against the replay of what its gateway recorded.

::

    python tests/bench/recorded.py TRACE [--rows 2000:2250] [--speed 2] [--router queue]

Exit code 1 where the replay's mean time to first token is off by more than 5 %, or its p99 by
more than 15 %. With ``--more`` the record is also replayed with one pair more and compared with a
run that really has it; 10 % and 15 % are allowed there. The replay knows of the engines what it
learns from the record, as ``tandem replay`` does. Tokens are not shrunk, as the recorder's blocks
have 512 of them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import routing_fleet
from children import Bench, BenchFailed
from routing_cases import CASES, Case, rows_of
from routing_fleet import ROUTERS, Fleet, start_router
from routing_play import play
from traces import prompt

from app.twin.fleet import FleetShape
from app.twin.learned import Learned, learn
from app.twin.record import Record, read_record
from app.twin.replay import replay
from app.twin.report import HEADING, Figures
from app.twin.trace import BadTrace, Row

MEAN_OFF, MORE_MEAN_OFF, P99_OFF = 0.05, 0.10, 0.15


def main() -> int:
    """Plays, fetches the record, replays it, and compares."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    flags.add_argument("trace", type=Path)
    flags.add_argument("--rows", default="2000:2250", metavar="FIRST:LAST")
    flags.add_argument("--speed", type=float, default=2.0, help="of the fleet's clock")
    flags.add_argument("--case", choices=tuple(CASES), default="base")
    flags.add_argument("--router", choices=("queue", "cache_aware", "least_load"), default="queue")
    flags.add_argument("--tokens-per-s", type=float, default=10_000.0)
    flags.add_argument("--more", action="store_true", help="one pair more, too")
    flags.add_argument("--keep", type=Path, help="a file for the record")
    asked = flags.parse_args()
    try:
        return _compare(asked)
    except (BenchFailed, BadTrace, OSError, ValueError) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2


def _compare(asked: argparse.Namespace) -> int:
    case = CASES[asked.case]
    rows = rows_of(case, asked.rows, asked.trace, None, asked.tokens_per_s)
    print(f"{len(rows)} requests over {rows[-1].at_s:.0f} s\n{HEADING}", flush=True)
    truth, recorded = _run(asked, case, rows)
    learned = learn(recorded, FleetShape().chunk_tokens)
    if learned is None:
        raise BenchFailed("too few requests went well")
    print(learned.line(), flush=True)
    is_off = _judge(asked, case.n_pairs, truth, recorded.rows, learned, MEAN_OFF)
    if asked.more:
        larger = replace(case, n_pairs=case.n_pairs + 1)
        truth, _ = _run(asked, larger, rows)
        is_off |= _judge(asked, larger.n_pairs, truth, recorded.rows, learned, MORE_MEAN_OFF)
    return int(is_off)


def _judge(
    asked: argparse.Namespace,
    n_pairs: int,
    truth: Figures,
    rows: list[Row],
    learned: Learned,
    allowed: float,
) -> bool:
    print(truth.line(f"{asked.router} {n_pairs}P"), flush=True)
    shape = learned.shape(FleetShape(n_prefill=n_pairs, n_decode=n_pairs))
    foretold = replay(rows, shape, asked.router)
    print(foretold.line("the record (twin)"), flush=True)
    mean_off = foretold.mean_s / truth.mean_s - 1
    p99_off = foretold.at(0.99) / truth.at(0.99) - 1
    print(f"off: mean {mean_off:+.1%}, p99 {p99_off:+.1%}", flush=True)
    return abs(mean_off) > allowed or abs(p99_off) > P99_OFF


def _run(asked: argparse.Namespace, case: Case, rows: list[Row]) -> tuple[Figures, Record]:
    routing_fleet.SHRINK = 1
    router = next(one for one in ROUTERS if one.name == asked.router)
    texts = [prompt(row, 1) for row in rows]
    with Bench() as bench:
        fleet = Fleet(bench, case, asked.speed, asked.tokens_per_s, None)
        port, _ = start_router(bench, router, fleet, asked.speed)
        times = [t for t in asyncio.run(play(port, rows, texts, asked.speed, 1)) if t is not None]
        path = asked.keep or bench.folder / "recorded.jsonl"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/flights", timeout=30) as answer:
            path.write_bytes(answer.read())
        recorded = read_record(path, speed=asked.speed)
        work = fleet.work()
    busy_s, n_computed = (sum(column) for column in zip(*work, strict=True))
    hits = 1 - n_computed / sum(row.n_prompt for row in rows)
    n_lost = len(rows) - len(times)
    return Figures([one.ttft_s for one in times], busy_s, hits, None, n_lost), recorded


if __name__ == "__main__":
    raise SystemExit(main())

"""Time to first token of a simulated fleet in real time, by router, on a recorded trace.

::

    python tests/bench/routing.py TRACE [--case base] [--speed 5] [--rounds 1] [--plot FILE.svg]
    SMG=/path/to/its/python python tests/bench/routing.py TRACE

The fleet is simulated SGLang workers in processes of their own: chunked prefill with two batches
in flight, transfer, decode. ``--speed`` makes its clock and the trace run faster; all times are
printed in the fleet's seconds. Every router sees the same requests at the same moments, one
router at a time, each on a fleet started anew. ``(twin)`` is what ``tandem replay --plays 5``
foretells: which of the requests that come together is first is luck in real time, too.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from children import ENVIRONMENT, Bench, BenchFailed
from routing_cases import CASES, Case, decode_kv_tokens, rows_of
from routing_fleet import DECODE_STEP_S, ROUTERS, SHRINK, Fleet, Router, start_router
from routing_play import Times, play
from routing_plot import draw
from traces import prompt

from app.twin.fleet import FleetShape
from app.twin.replay import replay_often
from app.twin.report import HEADING, Figures
from app.twin.trace import BadTrace, Row

_N_PLAYS = 5
_RATIOS = ("mean", "p99", "max", "busy")


def main() -> int:
    """Plays the cases through every router; a line for each run, then medians and ratios."""
    asked = _arguments()
    routers = _chosen(asked.only or [""])
    try:
        for name in asked.case or ["base"]:
            _play_case(name, CASES[name], routers, asked)
    except (BenchFailed, BadTrace, OSError, ValueError) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    return 0


def _chosen(asked: list[str]) -> list[Router]:
    """Those of a name, and where no one has it, those whose names contain it."""
    names = [router.name for router in ROUTERS]
    chosen = {
        name
        for part in asked
        for name in names
        if part == name or (part not in names and part in name)
    }
    with_smg = bool(ENVIRONMENT.get("SMG"))
    return [one for one in ROUTERS if one.name in chosen and (with_smg or not one.is_smg)]


def _play_case(name: str, case: Case, routers: list[Router], asked: argparse.Namespace) -> None:
    rows = rows_of(case, asked.rows, asked.trace, asked.short_trace, asked.tokens_per_s)
    texts = [prompt(row, SHRINK) for row in rows]
    kv_tokens = decode_kv_tokens(case, rows, DECODE_STEP_S)
    print(f"\n{name}: {case.about}", flush=True)
    print(f"{len(rows)} requests over {rows[-1].at_s:.0f} s, {case.n_pairs} pairs", flush=True)
    if kv_tokens is not None:
        print(f"KV cache of a decode worker: {kv_tokens} tokens", flush=True)
    print(f"{HEADING} {'tpot ms':>8}  busy s by worker", flush=True)
    runs: dict[str, list[Figures]] = defaultdict(list)
    for _ in range(asked.rounds):
        for router in routers:
            runs[router.name].append(_run(router, case, rows, texts, kv_tokens, asked))
    if case.dies_at is None:
        _foretell(case.shape(asked.tokens_per_s, kv_tokens), case, rows, runs)
    _compare(runs)
    if asked.plot is not None:
        path = asked.plot.with_stem(f"{asked.plot.stem}-{name}")
        drawn = draw(path, case.about, {router: found[-1].ttft_s for router, found in runs.items()})
        print(f"plot: {path}" if drawn else "no plot: pip install matplotlib", flush=True)


def _run(
    router: Router,
    case: Case,
    rows: list[Row],
    texts: list[str],
    kv_tokens: int | None,
    asked: argparse.Namespace,
) -> Figures:
    with Bench() as bench:
        fleet = Fleet(bench, case, asked.speed, asked.tokens_per_s, kv_tokens)
        port, _ = start_router(bench, router, fleet, asked.speed)
        before = fleet.work()
        found = asyncio.run(_with_death(case, fleet, port, rows, texts, asked.speed))
        after = fleet.work()
    if len(after) < len(before):
        # What the dead worker did is not known.
        before = before[len(before) - len(after) :]
    busy = [end[0] - start[0] for start, end in zip(before, after, strict=True)]
    n_computed = sum(end[1] - start[1] for start, end in zip(before, after, strict=True))
    times = [one for one in found if one is not None]
    if not times:
        raise BenchFailed(f"{router.name} answered nothing")
    hits = 1 - n_computed / sum(row.n_prompt for row in rows)
    figures = Figures([one.ttft_s for one in times], sum(busy), hits, None, len(rows) - len(times))
    tpot_ms = 1000 * statistics.median(one.tpot_s for one in times)
    by_worker = " ".join(f"{one:.0f}" for one in busy)
    print(f"{figures.line(router.name)} {tpot_ms:8.1f}  {by_worker}", flush=True)
    return figures


async def _with_death(
    case: Case, fleet: Fleet, port: int, rows: list[Row], texts: list[str], speed: float
) -> list[Times | None]:
    """Plays the trace and, if the case wants it, kills the first prefill worker meanwhile."""
    async with asyncio.TaskGroup() as tasks:
        playing = tasks.create_task(play(port, rows, texts, speed, SHRINK))
        if case.dies_at is not None:
            await asyncio.sleep(case.dies_at * rows[-1].at_s / speed)
            fleet.first.kill()
    return playing.result()


def _foretell(
    shape: FleetShape, case: Case, rows: list[Row], runs: dict[str, list[Figures]]
) -> None:
    """Prints what the twin says of the same, for those routers it knows."""
    if case.order != "fcfs":
        return
    # The twin knows nothing of processes.
    for name in [name for name in runs if not name.startswith("smg") and "," not in name]:
        print(replay_often(rows, shape, name, _N_PLAYS).line(f"{name} (twin)"), flush=True)


def _compare(runs: dict[str, list[Figures]]) -> None:
    """Prints the medians of each router's runs against the better of SMG's, figure by figure."""
    medians = {name: _medians(found) for name, found in runs.items()}
    smg = [found for name, found in medians.items() if name.startswith("smg")]
    if not smg:
        return
    best = [min(values) for values in zip(*smg, strict=True)]
    print(f"against the better of SMG's ({', '.join(_RATIOS)}):", flush=True)
    for name, found in medians.items():
        ratios = " ".join(f"{value / least:7.2f}" for value, least in zip(found, best, strict=True))
        print(f"{name:<18} {ratios}", flush=True)


def _medians(found: list[Figures]) -> list[float]:
    columns = zip(
        *((one.mean_s, one.at(0.99), one.at(1.0), one.busy_s) for one in found), strict=True
    )
    return [statistics.median(column) for column in columns]


def _arguments() -> argparse.Namespace:
    cases = "; ".join(f"{name}: {case.about}" for name, case in CASES.items())
    flags = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], epilog=cases)
    flags.add_argument("trace", type=Path)
    flags.add_argument(
        "--short-trace", type=Path, help="CSV: TIMESTAMP,ContextTokens,GeneratedTokens"
    )
    flags.add_argument(
        "--case", action="append", choices=tuple(CASES), help="default base; repeatable"
    )
    flags.add_argument("--rows", default="2000:3000", metavar="FIRST:LAST")
    flags.add_argument("--speed", type=float, default=5.0, help="of the fleet's clock")
    flags.add_argument("--rounds", type=int, default=1)
    flags.add_argument(
        "--only", action="append", help="routers of this name, or containing it; repeatable"
    )
    flags.add_argument("--tokens-per-s", type=float, default=10_000.0)
    flags.add_argument("--plot", type=Path, help="an SVG file for each case, named FILE-CASE.svg")
    return flags.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

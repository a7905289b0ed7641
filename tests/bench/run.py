"""What the gateway costs beside the stub alone and, with ``SMG`` set, beside SMG.

::

    .venv/bin/python tests/bench/run.py [--quick] [--seconds S] [--rounds N] [--only WORDS]
                                        [--engine sglang|vllm]
    SMG=/path/to/its/python .venv/bin/python tests/bench/run.py

For SGLang over HTTP, then for vLLM over gRPC: one stub prefill worker, one stub decode worker,
every gateway in front of the same pair with its own defaults. Only one target is under load at a
time; in each round they take turns, and the figures are medians over the rounds. Exit code 1 when
an answer was wrong or a leg was missing.
"""

from __future__ import annotations

import argparse
import sys
import time

import cpu
import report
import seeing
from children import ENVIRONMENT, Bench, BenchFailed, Gateway
from measure import GrpcPair, Pair
from scenarios import GRPC_SCENARIOS, SCENARIOS
from turns import take_turns

_TITLES = {"sglang": "SGLang workers over HTTP", "vllm": "vLLM workers over gRPC (NIXL)"}


def main() -> int:
    """Runs the scenarios that were asked for and prints the tables."""
    asked = _arguments()
    print(f"machine: {report.machine()}", flush=True)
    engines = ("sglang", "vllm") if asked.engine == "both" else (asked.engine,)
    faults: list[str] = []
    try:
        for engine in engines:
            faults += _run(engine, asked)
    except BenchFailed as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    print()
    seeing.main()
    print("".join(f"\nFAULT: {fault}" for fault in faults))
    return 1 if faults else 0


def _run(engine: str, asked: argparse.Namespace) -> list[str]:
    """Measures the scenarios of one engine; returns what makes a figure doubtful."""
    of_engine = GRPC_SCENARIOS if engine == "vllm" else SCENARIOS
    scenarios = [s for s in of_engine if asked.only in f"{s.name} {s.n_connections}"]
    if not scenarios:
        return []
    print(f"\n{_TITLES[engine]}:", flush=True)
    with Bench() as bench:
        pair = GrpcPair(bench) if engine == "vllm" else Pair(bench)
        gateways = [_start(bench, pair, "tandem", sys.executable, asked.policy)]
        if smg_python := ENVIRONMENT.get("SMG"):
            gateways.append(_start(bench, pair, "smg", smg_python, asked.policy))
        deadline_s = time.monotonic() + asked.limit
        rows = [
            take_turns(pair, gateways, scenario, asked.rounds, asked.seconds, deadline_s)
            for scenario in scenarios
            if time.monotonic() < deadline_s
        ]
    print(f"\n{report.table(rows)}")
    if len(gateways) > 1:
        print(f"\n{report.ratios(rows, 'tandem', 'smg')}")
    if len(rows) < len(scenarios):
        print(f"\nThe time limit left out the last {len(scenarios) - len(rows)} scenarios.")
    return report.faults(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures the gateway on a pair of stub workers.")
    parser.add_argument("--quick", action="store_true", help="one short round, below 40 s")
    parser.add_argument("--seconds", type=float, help="length of one measurement (2; quick 0.7)")
    parser.add_argument("--rounds", type=int, help="measurements per target (3; quick 1)")
    parser.add_argument("--engine", choices=("sglang", "vllm", "both"), default="both")
    parser.add_argument("--only", default="", help='part of "<scenario> <connections>"')
    parser.add_argument("--policy", help="policy of every gateway (default: its own)")
    parser.add_argument("--limit", type=float, default=270.0, help="seconds for one engine")
    asked = parser.parse_args()
    asked.seconds = asked.seconds or (0.7 if asked.quick else 2.0)
    asked.rounds = asked.rounds or (1 if asked.quick else 3)
    return asked


def _start(bench: Bench, pair: Pair, name: str, python: str, policy: str | None) -> Gateway:
    begun_s = time.monotonic()
    gateway = bench.start_gateway(name, python, pair.prefill, pair.decode, policy, pair.flags)
    resident = cpu.memory(gateway.pid).rss_bytes / 1e6
    print(f"{name}: ready after {time.monotonic() - begun_s:.1f} s, {resident:.0f} MB", flush=True)
    return gateway


if __name__ == "__main__":
    sys.exit(main())

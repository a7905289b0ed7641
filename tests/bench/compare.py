"""The gateway beside SMG, vllm-router, a plain FastAPI + httpx proxy and nginx, as Markdown.

::

    SMG=PYTHON VLLM_ROUTER=PYTHON .venv/bin/python tests/bench/compare.py [--rounds 3]
                                  [--seconds 1.5] [--only http|grpc|tls]

``SMG`` and ``VLLM_ROUTER`` name the Python of an environment that holds the released wheel; nginx
is found on the PATH. What is missing is left out, and that is said. Standard output is the section
of ``docs/performance.md`` as it stands there, the rest goes to standard error. Exit code 1 when an
answer was wrong or a leg was missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import beside
import compare_report
import report
import tls_cost
from children import Bench, BenchFailed, Gateway
from measure import GrpcPair, Pair
from report import Row
from scenarios import PEER_GRPC_SCENARIOS, PEER_SCENARIOS, TLS_SCENARIOS, Scenario
from turns import take_turns


def main() -> int:
    """Measures what was asked for and prints it."""
    parser = argparse.ArgumentParser(description="Measures the gateway beside its peers.")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each target")
    parser.add_argument("--only", choices=("http", "grpc", "tls"), help="one of the tables")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one table")
    asked = parser.parse_args()
    faults: list[str] = []
    print(
        "### Beside the others\n\n"
        f"`make bench-peers`: medians of {asked.rounds} turns of {asked.seconds:g} s. "
        f"{report.machine()}.\n",
        flush=True,
    )
    try:
        for name, table in (("http", _http), ("grpc", _grpc), ("tls", _tls)):
            if asked.only in (None, name):
                faults += table(asked)
    except BenchFailed as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    print("".join(f"FAULT: {fault}\n" for fault in faults), end="", file=sys.stderr)
    return 1 if faults else 0


def _http(asked: argparse.Namespace) -> list[str]:
    with Bench() as bench:
        pair = Pair(bench)
        targets, missing = beside.start_all(bench, pair)
        rows = _rows(pair, targets, PEER_SCENARIOS, asked)
    print("SGLang workers over HTTP; in brackets Tandem's figure in parts of theirs:\n")
    _say(compare_report.table(rows, [target.name for target in targets]), missing)
    return report.faults(rows)


def _grpc(asked: argparse.Namespace) -> list[str]:
    with Bench() as bench:
        pair = GrpcPair(bench)
        targets, missing = beside.start_both(bench, pair)
        rows = _rows(pair, targets, PEER_GRPC_SCENARIOS, asked)
    print("vLLM workers over gRPC (NIXL):\n")
    _say(compare_report.table(rows, [target.name for target in targets]), missing)
    return report.faults(rows)


def _tls(asked: argparse.Namespace) -> list[str]:
    if missing := tls_cost.missing():
        print(missing)
        return []
    with Bench() as bench:
        pair = Pair(bench)
        rows = _rows(pair, tls_cost.start(bench, pair), TLS_SCENARIOS, asked)
    print("TLS, in brackets in parts of the cost without:\n")
    _say(tls_cost.table(rows), [])
    return report.faults(rows)


def _rows(
    pair: Pair,
    targets: Sequence[Gateway],
    scenarios: Sequence[Scenario],
    asked: argparse.Namespace,
) -> list[Row]:
    deadline_s = time.monotonic() + asked.limit
    return [
        take_turns(
            *(pair, targets, scenario, asked.rounds, asked.seconds, deadline_s),
            with_alone=scenario.n_connections == 1,
        )
        for scenario in scenarios
    ]


def _say(table: str, missing: Sequence[str]) -> None:
    print("\n".join([table, "", *(f"{sentence}\n" for sentence in missing)]), flush=True)


if __name__ == "__main__":
    sys.exit(main())

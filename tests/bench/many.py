"""What a request costs in several processes beside one: CPU of all of them, in turns.

::

    python tests/bench/many.py [--workers 2] [--connections 32] [--seconds 2] [--rounds 5]

One process and ``--workers N`` stand in front of the same pair of stub workers, each with its own
defaults; only one of them is under load at a time. The figure to read is the median over the
rounds of the ratio of both: what else the machine does meanwhile changes both alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import cpu
from children import Bench, Gateway
from measure import Pair, Sample, median
from scenarios import Scenario


def main() -> int:
    """Prints a line for each scenario; 1 if an answer was wrong or a leg was missing."""
    asked = _arguments()
    more = tuple(asked.flags.split())
    faults: list[str] = []
    with Bench() as bench:
        pair = Pair(bench)
        both = [
            bench.start_gateway("tandem", sys.executable, pair.prefill, pair.decode, more=flags)
            for flags in (more, (*more, "--workers", str(asked.workers)))
        ]
        for n_events, interval_us in ((0, 0), (64, 20_000)):
            n_connections = asked.connections * (4 if n_events else 1)
            scenario = Scenario("", n_connections, asked.body, n_events, interval_us)
            faults += _compare(pair, scenario, both, asked)
    print("".join(f"FAULT: {fault}\n" for fault in faults), end="")
    return 1 if faults else 0


def _compare(
    pair: Pair, scenario: Scenario, both: list[Gateway], asked: argparse.Namespace
) -> list[str]:
    """Measures one scenario in turns and prints what came of it."""
    runs: list[list[Sample]] = []
    shares: dict[str, float] = {}
    for gateway in both:
        pair.measure(scenario, gateway, 0.3)
    for _ in range(asked.rounds):
        one = pair.measure(scenario, both[0], asked.seconds)
        before = _by_process(both[1])
        many = pair.measure(scenario, both[1], asked.seconds)
        for name, spent_s in _by_process(both[1]).items():
            shares[name] = shares.get(name, 0.0) + (spent_s - before[name]) * 1e6 / many.n_requests
        runs.append([one, many])
    ratios = [many.cpu_us / one.cpu_us for one, many in runs]
    one, many = (median(of) for of in zip(*runs, strict=True))
    by_process = ", ".join(f"{name} {us / asked.rounds:.1f}" for name, us in shares.items())
    print(
        f"{scenario.n_events} events, {scenario.n_connections} connections: "
        f"{one.cpu_us:.0f} us in one process ({one.kernel_us:.0f} of the kernel), "
        f"{many.cpu_us:.0f} in {asked.workers} ({many.kernel_us:.0f}; {by_process}); "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )
    return [fault for run in runs for sample in run for fault in sample.faults]


def _by_process(gateway: Gateway) -> dict[str, float]:
    """CPU seconds of the supervisor, the brain and the pipes, in the order of their start."""
    pids = cpu.tree(gateway.pid)
    names = ["supervisor", "brain", *(f"pipe {number}" for number in range(1, len(pids) - 1))]
    return dict(zip(names, map(cpu.own_s, pids), strict=True))


def _arguments() -> argparse.Namespace:
    flags = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    flags.add_argument("--workers", type=int, default=2)
    flags.add_argument("--connections", type=int, default=32)
    flags.add_argument("--body", type=int, default=1_024, help="bytes of a request")
    flags.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--flags", default="", help="further flags of both")
    return flags.parse_args()


if __name__ == "__main__":
    sys.exit(main())

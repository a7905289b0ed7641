"""Targets measured in turns, so that what else the machine does falls on all of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import report
from children import Gateway
from measure import Pair, Sample, median
from scenarios import Scenario

_WARM_UP_S = 0.2


def take_turns(
    pair: Pair,
    gateways: Sequence[Gateway],
    scenario: Scenario,
    n_rounds: int,
    seconds: float,
    deadline_s: float,
    *,
    with_alone: bool = True,
) -> report.Row:
    """Warms each target up, then measures them one after the other, round by round.

    Args:
        pair: The stubs behind all of them.
        gateways: The targets, by names of their own.
        scenario: The load.
        n_rounds: Measurements of each target.
        seconds: Length of one.
        deadline_s: On ``time.monotonic``; no round but the first begins after it.
        with_alone: Measure the decode stub alone, too, where it can be.
    """
    alone = with_alone and pair.can_be_asked
    samples: dict[str, list[Sample]] = {report.ALONE: []} if alone else {}
    for gateway in gateways:
        samples[gateway.name] = []
        pair.measure(scenario, gateway, min(_WARM_UP_S, seconds))
    for i in range(n_rounds):
        if i and time.monotonic() > deadline_s:
            break
        if alone:
            samples[report.ALONE].append(pair.measure_alone(scenario, seconds))
        for gateway in gateways:
            samples[gateway.name].append(pair.measure(scenario, gateway, seconds))
    row = report.Row(scenario, {name: median(some) for name, some in samples.items()})
    costs = ", ".join(f"{g.name} {row.samples[g.name].cpu_us:.0f} µs" for g in gateways)
    print(f"{scenario.name} at {scenario.n_connections}: {costs}", file=sys.stderr, flush=True)
    return row

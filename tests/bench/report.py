"""The result as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from measure import Sample
from scenarios import Scenario

ALONE = "stub alone"
_HEADINGS = (
    "scenario",
    "conn.",
    "target",
    "CPU µs/request (kernel)",
    "CPU µs/event or token",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "added p50",
    "added p99",
    "first byte p50 / p99 ms",
    "peak MB",
)


class Row(NamedTuple):
    """Medians of one scenario by target."""

    scenario: Scenario
    samples: Mapping[str, Sample]


def machine() -> str:
    """One line on where this ran."""
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    kernel = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} cores, {kernel}, {python}, load averages {load}"


def table(rows: Sequence[Row]) -> str:
    """Every scenario and target; added latency is against the stub alone, where there is such."""
    lines = [line(_HEADINGS), line(["---"] * len(_HEADINGS))]
    for scenario, samples in rows:
        for target, sample in samples.items():
            lines.append(line(_cells(scenario, target, sample, samples.get(ALONE))))
    return "\n".join(lines)


def ratios(rows: Sequence[Row], ours: str, theirs: str) -> str:
    """What ``ours`` costs in parts of what ``theirs`` costs (below 1: ours is cheaper)."""
    headings = ("scenario", "conn.", "CPU", "requests/s", "p50", "p99", "peak memory")
    lines = [f"{ours} / {theirs}:", "", line(headings), line(["---"] * len(headings))]
    for scenario, samples in rows:
        a, b = samples[ours], samples[theirs]
        pairs = (
            (a.cpu_us, b.cpu_us),
            (a.rate_per_s, b.rate_per_s),
            (a.p50_us, b.p50_us),
            (a.p99_us, b.p99_us),
            (a.peak_bytes, b.peak_bytes),
        )
        figures = [f"{x / y:.2f}" if y else "-" for x, y in pairs]
        lines.append(line([scenario.name, str(scenario.n_connections), *figures]))
    return "\n".join(lines)


def faults(rows: Sequence[Row]) -> list[str]:
    """Everything that makes a figure doubtful."""
    return [
        f"{scenario.name} at {scenario.n_connections}, {target}: {fault}"
        for scenario, samples in rows
        for target, sample in samples.items()
        for fault in sample.faults
    ]


def _cells(scenario: Scenario, target: str, sample: Sample, alone: Sample | None) -> list[str]:
    is_gateway = target != ALONE
    added = (
        [_ms(sample.p50_us - alone.p50_us), _ms(sample.p99_us - alone.p99_us)]
        if is_gateway and alone is not None
        else ["-", "-"]
    )
    return [
        scenario.name,
        str(scenario.n_connections),
        target,
        f"{sample.cpu_us:.0f} ({sample.kernel_us:.0f})" if is_gateway else "-",
        f"{sample.cpu_us_per_event:.1f}" if is_gateway and sample.n_events else "-",
        f"{sample.rate_per_s:.0f}",
        _ms(sample.p50_us),
        _ms(sample.p99_us),
        *added,
        f"{_ms(sample.first_p50_us)} / {_ms(sample.first_p99_us)}" if sample.n_events else "-",
        f"{sample.peak_bytes / 1e6:.0f}" if is_gateway else "-",
    ]


def _ms(us: float) -> str:
    return f"{us / 1000:.2f}"


def line(cells: Sequence[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"

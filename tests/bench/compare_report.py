"""The comparison with the peers as one Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from measure import Sample
from report import ALONE, Row, line
from scenarios import Scenario


def table(rows: Sequence[Row], targets: Sequence[str]) -> str:
    """CPU of each scenario, then latency, throughput and memory; the first target is ours.

    In brackets stands what ours is in parts of the other's.
    """
    lines = [line(["", *targets]), line(["---", *["---:"] * len(targets)])]
    for row in rows:
        per = "an event" if row.scenario.interval_us else "a request"
        costs = {name: _cpu_us(row.scenario, sample) for name, sample in row.samples.items()}
        lines.append(_cells(f"CPU µs {per}, {_words(row.scenario)}", costs, targets))
    for row in rows:
        if ALONE in row.samples:
            alone_us = row.samples[ALONE].p50_us
            added = {name: (s.p50_us - alone_us) / 1e3 for name, s in row.samples.items()}
            lines.append(_cells(f"added p50 in ms, {_words(row.scenario)}", added, targets))
    peaks = {
        name: max(row.samples[name].peak_bytes for row in rows if name in row.samples) / 1e6
        for name in targets
        if any(name in row.samples for row in rows)
    }
    lines.append(_cells("peak memory in MB", peaks, targets))
    return "\n".join(lines)


def _cpu_us(scenario: Scenario, sample: Sample) -> float:
    return sample.cpu_us_per_event if scenario.interval_us else sample.cpu_us


def _words(scenario: Scenario) -> str:
    n = scenario.n_connections
    return f"{scenario.name}, {n} connection{'s' if n > 1 else ''}"


def _cells(name: str, figures: dict[str, float], targets: Sequence[str]) -> str:
    ours = figures[targets[0]]
    cells = [_number(ours)]
    for target in targets[1:]:
        theirs = figures.get(target)
        ratio = f" ({ours / theirs:.2f})" if theirs and theirs > 0 else ""
        cells.append(f"{_number(theirs)}{ratio}" if theirs is not None else "-")
    return line([name, *cells])


def _number(figure: float) -> str:
    return f"{figure:.2f}" if figure < 10 else f"{figure:.1f}" if figure < 100 else f"{figure:.0f}"

"""What a fleet has to carry: read from a trace, from the gateway's own log, or from numbers."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from app.twin.trace import BLOCK_TOKENS, BadTrace, Row, read_trace

PEAK_S = 60.0
"""Pools are sized for the busiest minute."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request: when (seconds after the first), and its tokens."""

    at_s: float
    n_prompt: int
    n_cached: int
    n_output: int


@dataclass(frozen=True, slots=True)
class Load:
    """A load at its peak, and how long its requests are on the average.

    Attributes:
        requests_per_s: On the average of the whole time.
        peak_uncached_per_s: Prompt tokens to compute, in their busiest minute.
        peak_output_per_s: Output tokens, in their busiest minute.
        n_prompt: Mean.
        n_output: Mean.
        cached_share: Of all prompt tokens; what one cache for everybody would hold.
    """

    requests_per_s: float
    peak_uncached_per_s: float
    peak_output_per_s: float
    n_prompt: float
    n_output: float
    cached_share: float


def load_of(calls: Sequence[Call]) -> Load:
    """Sum a list of requests up; a time shorter than a minute is its own peak."""
    length_s = max(1.0, calls[-1].at_s)
    n_prompt = sum(call.n_prompt for call in calls)
    return Load(
        requests_per_s=len(calls) / length_s,
        peak_uncached_per_s=_peak([(c.at_s, c.n_prompt - c.n_cached) for c in calls], length_s),
        peak_output_per_s=_peak([(c.at_s, c.n_output) for c in calls], length_s),
        n_prompt=n_prompt / len(calls),
        n_output=sum(call.n_output for call in calls) / len(calls),
        cached_share=sum(call.n_cached for call in calls) / n_prompt,
    )


def _peak(amounts: Iterable[tuple[float, float]], length_s: float) -> float:
    """The most that came within a minute, a second."""
    window_s = min(PEAK_S, length_s)
    # A last piece that is shorter would look emptier than it is.
    n_windows = max(1, math.floor(length_s / window_s))
    sums = [0.0] * n_windows
    for at_s, amount in amounts:
        sums[min(n_windows - 1, int(at_s / window_s))] += amount
    last_s = length_s - (n_windows - 1) * window_s
    return max([*(s / window_s for s in sums[:-1]), sums[-1] / last_s])


def read_calls(path: Path, rate: float = 1.0) -> tuple[list[Call], list[Row]]:
    """Read a file, by its first character a trace, a log or a table.

    - a trace as of ``tandem replay``; what of a prompt is cached is what came before, all workers
      taken together;
    - the gateway's log with ``--log-json``: lines that have ``completion_tokens``;
    - a CSV table with the columns TIMESTAMP, ContextTokens, GeneratedTokens, as Azure published it.

    Returns:
        The requests, and the same for the twin.

    Raises:
        BadTrace: It is none of these.
        OSError: The file cannot be read.
    """
    with path.open(encoding="utf-8") as lines:
        # Before the first line of a log may stand warnings of the start.
        first = next((line for line in islice(lines, 100) if line.startswith("{")), "")
    if first.startswith("{") and '"hash_ids"' in first:
        rows = read_trace(path, rate=rate)
        return list(_calls_of_trace(rows)), rows
    with path.open(encoding="utf-8", newline="") as lines:
        try:
            found = _log(lines) if first.startswith("{") else _table(lines)
        except (ValueError, KeyError, TypeError) as error:
            raise BadTrace(f"{path}: {error!r}") from None
    if not found:
        raise BadTrace(f"{path}: no request is in it")
    found.sort(key=lambda call: call.at_s)
    began_s = found[0].at_s
    calls = [
        Call((c.at_s - began_s) / rate, max(1, c.n_prompt), c.n_cached, max(1, c.n_output))
        for c in found
    ]
    return calls, rows_of(calls)


def _calls_of_trace(rows: Iterable[Row]) -> Iterator[Call]:
    known: set[int] = set()
    for row in rows:
        n_hit = next((i for i, block in enumerate(row.blocks) if block not in known), None)
        n_blocks = len(row.blocks) if n_hit is None else n_hit
        known.update(row.blocks)
        # An engine computes the last token anyway.
        n_cached = max(0, min(n_blocks * BLOCK_TOKENS, row.n_prompt - 1))
        yield Call(row.at_s, row.n_prompt, n_cached, row.n_output)


def _log(lines: Iterable[str]) -> list[Call]:
    found = []
    for line in lines:
        if not line.startswith("{"):
            continue
        entry: dict[str, Any] = json.loads(line)
        if entry.get("completion_tokens") is None or entry.get("prompt_tokens") is None:
            continue
        ended_s = datetime.fromisoformat(entry["time"]).timestamp()
        began_s = ended_s - float(entry.get("duration_ms", 0)) / 1000
        n_prompt = int(entry["prompt_tokens"])
        n_cached = min(n_prompt, int(entry.get("cached_tokens") or 0))
        found.append(Call(began_s, n_prompt, n_cached, int(entry["completion_tokens"])))
    return found


def _table(lines: Iterable[str]) -> list[Call]:
    return [
        Call(
            # Azure writes seven digits after the point, which Python 3.11 does not read.
            datetime.fromisoformat(entry["TIMESTAMP"][:26]).timestamp(),
            int(entry["ContextTokens"]),
            0,
            int(entry["GeneratedTokens"]),
        )
        for entry in csv.DictReader(lines)
    ]


def made_up(
    requests_per_s: float, n_prompt: int, n_output: int, cached_share: float, n_calls: int = 1000
) -> list[Call]:
    """Requests of one length that come at random, the same ones every time."""
    letters = random.Random(1)
    at_s, calls = 0.0, []
    n_cached = min(n_prompt - 1, round(n_prompt * cached_share))
    for _ in range(n_calls):
        calls.append(Call(at_s, n_prompt, n_cached, n_output))
        at_s += letters.expovariate(requests_per_s)
    return calls


def rows_of(calls: Sequence[Call]) -> list[Row]:
    """Write requests for the twin: what is cached is a beginning that all have in common."""
    rows, fresh = [], 1_000_000
    for call in calls:
        n_blocks = math.ceil(call.n_prompt / BLOCK_TOKENS)
        n_shared = min(n_blocks, call.n_cached // BLOCK_TOKENS)
        own = tuple(range(fresh, fresh + n_blocks - n_shared))
        fresh += len(own)
        rows.append(Row(call.at_s, call.n_prompt, call.n_output, (*range(n_shared), *own)))
    assert all(a.at_s <= b.at_s for a, b in pairwise(rows))  # noqa: S101 - the twin relies on it
    return rows

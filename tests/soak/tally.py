"""Counts what became of the requests, and says whether the soak was passed."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from tests.soak.client import End, Told
from tests.soak.truth import Truth, Verdict

GROWN_SHARE, GROWN_BYTES = 1.10, 24 * 1024 * 1024
"""Memory is flat unless the last quarter is above the first by more than both."""
N_SHOWN = 5


class Tally:
    """All requests of a run."""

    def __init__(self) -> None:
        self.n_requests = 0
        self.by_end: Counter[str] = Counter()
        self.by_fleet: Counter[str] = Counter()
        self.by_refusal: Counter[str] = Counter()
        self.crossed: list[Told] = []
        self.lost: list[Told] = []
        self._refused: list[Told] = []
        self.rss_bytes: list[int] = []
        self.leaks: list[str] = []
        self.defects: list[str] = []

    def take(self, told: Told) -> None:
        """Counts one request."""
        self.n_requests += 1
        self.by_end[told.end] += 1
        self.by_fleet[told.asked.fleet] += 1
        if told.is_crossed:
            self.crossed.append(told)
        if told.end is End.LOST:
            self.lost.append(told)
        if told.end is End.REFUSED:
            self.by_refusal[f"{told.status} {told.code}"] += 1
            self._refused.append(told)

    def line(self) -> str:
        """How it goes so far."""
        ends = ", ".join(f"{n} {end}" for end, n in self.by_end.most_common())
        rss_mb = self.rss_bytes[-1] / 1e6 if self.rss_bytes else 0
        return f"{self.n_requests} requests: {ends}; gateway {rss_mb:.0f} MB"

    def report(self, truth: Truth) -> tuple[list[str], bool]:
        """The table, and whether all that must be zero is zero."""
        verdicts = [(truth.judge(told), told) for told in self._refused]
        wrong = [told for verdict, told in verdicts if verdict is Verdict.WRONG_LEG]
        unexplained = [told for verdict, told in verdicts if verdict is Verdict.UNEXPLAINED]
        first, last = _quarter(self.rss_bytes, 0), _quarter(self.rss_bytes, -1)
        is_grown = last > first * GROWN_SHARE and last > first + GROWN_BYTES
        bad = {
            "lost": [_told(told) for told in self.lost],
            "unexplained": [_told(told) for told in unexplained],
            "wrong leg named": [f"{_told(told)}; {truth.near(told)}" for told in wrong],
            "leaked": self.leaks,
            "crosstalk": [_told(told) for told in self.crossed],
            "defects logged": self.defects,
        }
        lines = [
            _row("requests", self.n_requests, self.by_fleet),
            *(_row(f"  {end}", n, {}) for end, n in self.by_end.most_common()),
            _row("errors", len(self._refused), self.by_refusal),
            _row("faults", truth.n_by_kind.total(), truth.n_by_kind),
            *(_row(name, len(found), {}) for name, found in bad.items()),
            f"{'memory':<22} {first / 1e6:.1f} MB first quarter, {last / 1e6:.1f} MB last"
            + (" (grown)" if is_grown else ""),
        ]
        for name, found in bad.items():
            lines += [f"{name}: {text}" for text in found[:N_SHOWN]]
        return lines, not is_grown and not any(bad.values())


def _row(name: str, n: int, parts: Counter[str] | dict[str, int]) -> str:
    told = ", ".join(f"{part} {count}" for part, count in Counter(parts).most_common())
    return f"{name:<22} {n:>8}  {told}".rstrip()


def _told(told: Told) -> str:
    asked = told.asked
    mode = "stream" if asked.is_stream else "whole"
    return (
        f"{asked.nonce} {asked.fleet} {asked.path} {mode}, {asked.manner}: {told.end}, "
        f"{told.status} {told.code} leg {told.leg}, {told.ended_s - told.began_s:.2f} s from "
        f"{told.began_s:.2f}: {told.why or told.message}"
    )


def _quarter(samples: Sequence[int], which: int) -> float:
    size = max(1, len(samples) // 4)
    part = samples[-size:] if which < 0 else samples[which * size : (which + 1) * size]
    return statistics.median(part) if part else 0.0

"""The figures of one run of a fleet, and how they are printed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

HEADING = (
    f"{'router':<18} {'mean':>7} {'p50':>7} {'p90':>7} {'p99':>7} {'max':>7}  "
    f"{'within 1/5/10 s':>15} {'busy s':>8} {'hits':>6} {'idle s':>7} {'full s':>7} {'lost':>5}"
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run showed, in seconds of the fleet.

    Attributes:
        ttft_s: Time to first token of each request that was answered.
        busy_s: Work of all prefill workers.
        hit_rate: Share of the prompt tokens that came from a prefix cache.
        idle_s: Time that a prefill worker was idle while a request waited for none other;
            ``None`` where it was not looked at.
        n_lost: Requests without an answer.
        room_wait_s: The longest that a request waited on a decode worker for free KV cache;
            ``None`` where it was not looked at.
    """

    ttft_s: Sequence[float]
    busy_s: float
    hit_rate: float
    idle_s: float | None
    n_lost: int
    room_wait_s: float | None = None

    @property
    def mean_s(self) -> float:
        """The mean time to first token."""
        return statistics.fmean(self.ttft_s)

    def at(self, share: float) -> float:
        """The time within which this share of the requests had their first token."""
        times = sorted(self.ttft_s)
        return times[min(len(times) - 1, int(share * len(times)))]

    def within(self, limit_s: float) -> float:
        """The share of requests whose first token came within so many seconds."""
        return sum(time_s <= limit_s for time_s in self.ttft_s) / len(self.ttft_s)

    def line(self, name: str) -> str:
        """One line under :data:`HEADING`."""
        within = "/".join(f"{self.within(limit_s):.2f}" for limit_s in (1, 5, 10))
        idle = "-" if self.idle_s is None else f"{self.idle_s:.1f}"
        full = "-" if self.room_wait_s is None else f"{self.room_wait_s:.1f}"
        times = " ".join(f"{self.at(share):7.2f}" for share in (0.5, 0.9, 0.99, 1.0))
        return (
            f"{name:<18} {self.mean_s:7.2f} {times}  {within:>15} {self.busy_s:8.0f} "
            f"{self.hit_rate:6.3f} {idle:>7} {full:>7} {self.n_lost:5d}"
        )


def pooled(runs: Sequence[Figures]) -> Figures:
    """Puts several runs of the same together: all times, and the mean of what is one number."""
    idle_s = [run.idle_s for run in runs if run.idle_s is not None]
    room_s = [run.room_wait_s for run in runs if run.room_wait_s is not None]
    return Figures(
        [one_s for run in runs for one_s in run.ttft_s],
        statistics.fmean(run.busy_s for run in runs),
        statistics.fmean(run.hit_rate for run in runs),
        statistics.fmean(idle_s) if idle_s else None,
        max(run.n_lost for run in runs),
        max(room_s) if room_s else None,
    )

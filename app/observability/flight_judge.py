"""Prediction error and regret as histograms, worked out when somebody asks for metrics.

Nothing of it is done while a request runs: the recorder has what is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from app.observability.families import histogram
from app.observability.flight_recorder import FlightRecorder
from app.observability.hindsight import look_back
from app.observability.histogram import PHASE_S, Histogram

MAX_JUDGED = 1_000
"""Requests at a time, the latest ones: a gateway that answers more than that between two looks is
judged by a sample."""
N_BEFORE = 200
"""Requests before those, to learn from what workers are like."""


class FlightJudge:
    """Judges each recorded request once.

    Args:
        recorder: Where requests come from.
    """

    def __init__(self, recorder: FlightRecorder) -> None:
        self._recorder = recorder
        self._n_judged = 0
        self._regret_s: dict[tuple[str, ...], Histogram] = {
            ("prefill",): Histogram(PHASE_S),
            ("decode",): Histogram(PHASE_S),
        }
        self.first_error_s = Histogram(PHASE_S)
        """By how much first tokens were earlier or later than expected at the grant."""
        # Two may ask at a time, each in a thread of its own.
        self._lock = threading.Lock()

    def judge(self) -> None:
        """Looks at the requests that are new since the last time; from any thread."""
        with self._lock:
            n_recorded = self._recorder.n_recorded
            n_new = min(n_recorded - self._n_judged, MAX_JUDGED)
            self._n_judged = n_recorded
            if not n_new:
                return
            flights = list(self._recorder.last(min(n_new + N_BEFORE, len(self._recorder))))
            for seen in look_back(flights)[-n_new:]:
                if seen is None:
                    continue
                for role, regret_s in (
                    ("prefill", seen.regret_s),
                    ("decode", seen.decode_regret_s),
                ):
                    if regret_s is not None:
                        self._regret_s[role,].add(regret_s)
                if seen.first_error_s is not None:
                    self.first_error_s.add(abs(seen.first_error_s))

    def families(self) -> Iterator[Metric]:
        """Yields what it found; call :meth:`judge` first."""
        yield histogram(
            "regret",
            "By how much another worker would have been faster, as far as can be told afterwards",
            ("role",),
            self._regret_s,
        )

"""Counts requests as they end: plain numbers on the loop's thread, read by the metrics' thread.

prometheus-client's objects take a lock and a look-up by labels for each value, about 2 us; a
request feeds a dozen. So the numbers are our own, and the collector makes its families of them
when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

from app.observability.histogram import DURATION_S, PHASE_S, TPOT_S, TTFT_S, Histogram
from app.observability.notes import CLIENT_GONE, CLIENT_STALLED, OK, Notes
from app.observability.phases import PHASES, phases
from app.workers.worker import Engine, Worker

MAX_MODELS = 64
"""Names that get series of their own; wildcard workers serve whatever clients invent."""
OTHER = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LEFT = (CLIENT_GONE, CLIENT_STALLED)


class ModelMeters:
    """What is measured of the requests for one model."""

    __slots__ = ("n_cached", "n_completion", "n_prompt", "phase_s", "tpot_s", "ttft_s", "whole_s")

    def __init__(self) -> None:
        self.ttft_s = Histogram(TTFT_S)
        self.tpot_s = Histogram(TPOT_S)
        self.whole_s = {stream: Histogram(DURATION_S) for stream in (False, True)}
        self.phase_s = {name: Histogram(PHASE_S) for name in PHASES}
        self.n_prompt = self.n_cached = self.n_completion = 0


class WorkerMeters:
    """What became of the legs on one worker."""

    __slots__ = ("n_by_outcome", "n_cached", "n_tokens")

    def __init__(self) -> None:
        self.n_by_outcome = {"ok": 0, "failed": 0, "ended": 0}
        self.n_tokens = 0
        """Prompt tokens computed by a prefill worker, tokens made by any other."""
        self.n_cached = 0
        """Prompt tokens that it had in its cache; none of a decode worker in a pair."""


class Meters:
    """Everything that is counted by request.

    Args:
        knows_model: Whether a model's name may become a label.
    """

    def __init__(self, knows_model: Callable[[str], bool]) -> None:
        self._knows_model = knows_model
        self.http: Counter[tuple[str, str, int]] = Counter()
        """By route, method and status."""
        self.http_s: dict[str, Histogram] = {}
        self.requests: Counter[tuple[str, str, str, str]] = Counter()
        """Generations by model, route, outcome and leg."""
        self.models: dict[str, ModelMeters] = {}
        self.workers: dict[str, WorkerMeters] = {}
        self.retries_refused: Counter[str] = Counter()
        self.listeners: list[Callable[[Notes], None]] = []
        """Told of each generation that is over, after it was counted."""
        self.prediction_error_s = Histogram(PHASE_S)
        """By how much prefill ended earlier or later than the queue had expected."""
        self.expected_s = self.true_s = 0.0
        """Sums of what was expected and of what it took, of the same requests."""
        self.n_retries = 0
        self.n_bootstrapped = 0

    def request_ended(self, notes: Notes, method: str, route: str) -> None:
        """Counts a request that is over.

        Args:
            notes: Of the request.
            method: Its method.
            route: One of few labels, not its path.
        """
        self.http[route, method if method in _METHODS else OTHER, notes.status] += 1
        duration_s = notes.ended_s - notes.arrived_s
        if not notes.route:
            http_s = self.http_s.get(route)
            if http_s is None:
                http_s = self.http_s[route] = Histogram(DURATION_S)
            http_s.add(duration_s)
        else:
            self._count_generation(notes, duration_s)
            for listener in self.listeners:
                listener(notes)

    def forget_worker(self, worker_id: str) -> None:
        """Drops the series of a worker that is gone."""
        self.workers.pop(worker_id, None)

    def _count_generation(self, notes: Notes, duration_s: float) -> None:
        name = self._label_of(notes)
        outcome = notes.outcome or OK
        self.requests[name, notes.route, outcome, notes.leg or ""] += 1
        model = self.models.get(name)
        if model is None:
            model = self.models[name] = ModelMeters()
        model.whole_s[notes.is_stream].add(duration_s)
        phase_s, n_answer = model.phase_s, notes.n_answer_tokens
        for phase, spent_s in phases(notes):
            # Histogram.add, eight times a request.
            found = phase_s[phase]
            found.counts[bisect_left(PHASE_S, spent_s)] += 1
            found.total += spent_s
        if notes.is_stream and notes.first_s:
            model.ttft_s.add(notes.first_s - notes.arrived_s)
            n_after_first = n_answer - 1
            if n_after_first > 0 and outcome is OK:
                model.tpot_s.add((notes.last_s - notes.first_s) / n_after_first)
        model.n_prompt += notes.n_prompt or 0
        model.n_cached += notes.n_cached or 0
        model.n_completion += n_answer
        if notes.no_retry:
            self.retries_refused[notes.no_retry] += 1
        if notes.n_attempts:
            self.n_retries += notes.n_attempts - 1
        if notes.prefill is not None and notes.decode is not None:
            self._count_legs(notes, notes.prefill, notes.decode, outcome)
        elif notes.alone is not None:
            meters = self._of(notes.alone[0])
            is_failed = outcome is not OK and outcome not in _LEFT
            meters.n_by_outcome["failed" if is_failed else "ok" if outcome is OK else "ended"] += 1
            meters.n_tokens += notes.n_answer_tokens
            meters.n_cached += notes.n_cached or 0

    def _count_legs(self, notes: Notes, prefill: Worker, decode: Worker, outcome: str) -> None:
        if outcome is OK and prefill.spec.engine is Engine.SGLANG:
            self.n_bootstrapped += 1
        if outcome is OK and notes.reason is not None and notes.reason.expected_s:
            self._judge(notes, notes.reason.expected_s)
        is_ok, leg, n_cached = outcome is OK, notes.leg, notes.n_cached or 0
        meters = self.workers.get(prefill.id) or self._of(prefill)
        meters.n_by_outcome["ok" if is_ok else "failed" if leg == "prefill" else "ended"] += 1
        meters.n_tokens += (notes.n_prompt or 0) - n_cached
        meters.n_cached += n_cached
        meters = self.workers.get(decode.id) or self._of(decode)
        meters.n_by_outcome["ok" if is_ok else "failed" if leg == "decode" else "ended"] += 1
        meters.n_tokens += notes.n_answer_tokens

    def _judge(self, notes: Notes, expected_s: float) -> None:
        true_s = notes.prefill_ended_s - notes.granted_s
        self.prediction_error_s.add(abs(true_s - expected_s))
        self.expected_s += expected_s
        self.true_s += true_s

    def _of(self, worker: Worker) -> WorkerMeters:
        meters = self.workers.get(worker.id)
        if meters is None:
            meters = self.workers[worker.id] = WorkerMeters()
        return meters

    def _label_of(self, notes: Notes) -> str:
        name = notes.model or ""
        if name in self.models:
            return name
        if len(self.models) >= MAX_MODELS or (name and not self._knows_model(name)):
            return OTHER
        return name

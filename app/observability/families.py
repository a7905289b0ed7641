"""Prometheus families of what :mod:`app.observability.meters` counts, made when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from app.observability.histogram import Histogram
from app.observability.meters import Meters
from app.observability.process_watch import ProcessWatch

Labels = tuple[str, ...]


def counter(
    name: str, text: str, labels: Labels = (), rows: Iterable[tuple[Labels, float]] = ()
) -> Metric:
    """Makes a counter; ``name`` without ``tandem_`` and ``_total``."""
    family = CounterMetricFamily(f"tandem_{name}", text, labels=labels)
    for values, n in rows:
        family.add_metric(values, n)
    return family


def gauge(
    name: str, text: str, labels: Labels = (), rows: Iterable[tuple[Labels, float]] = ()
) -> Metric:
    """Makes a gauge; ``name`` without ``tandem_``."""
    family = GaugeMetricFamily(f"tandem_{name}", text, labels=labels)
    for values, n in rows:
        family.add_metric(values, n)
    return family


def histogram(name: str, text: str, labels: Labels, rows: Mapping[Labels, Histogram]) -> Metric:
    """Makes a histogram of seconds; ``name`` without ``tandem_`` and ``_seconds``."""
    family = HistogramMetricFamily(f"tandem_{name}_seconds", text, labels=labels)
    for values, found in rows.items():
        family.add_metric(values, found.buckets(), found.total)
    return family


def request_families(meters: Meters) -> Iterator[Metric]:
    """Yields what is counted by request."""
    yield counter(
        "http_requests",
        "Requests to any route that are over, by the status the client saw (499: it left before)",
        ("route", "method", "status"),
        [((r, m, str(s)), n) for (r, m, s), n in meters.http.copy().items()],
    )
    yield histogram(
        "http_request_duration",
        "From a request's head to its end, on routes that generate nothing",
        ("route",),
        {(route,): found for route, found in meters.http_s.copy().items()},
    )
    yield counter(
        "requests",
        "Generations that are over; leg is the one that failed, if one did",
        ("model", "route", "outcome", "leg"),
        list(meters.requests.copy().items()),
    )
    yield counter("retries", "Further attempts on another pair", (), [((), meters.n_retries)])
    yield counter(
        "retries_refused",
        "Safe retries that did not follow: number of attempts, deadline or budget",
        ("reason",),
        [((reason,), meters.retries_refused[reason]) for reason in ("limit", "deadline", "budget")],
    )


def prediction_families(meters: Meters, first_error_s: Histogram) -> Iterator[Metric]:
    """Yields how well the queue foretold the end of prefill and the first token."""
    yield histogram(
        "prediction_error",
        "By how much a phase ended earlier or later than the queue had expected at the grant",
        ("phase",),
        {("prefill",): meters.prediction_error_s, ("first_token",): first_error_s},
    )
    yield counter(
        "prefill_seconds",
        "From the grant to prefill's end: as expected, and as it was, of the same requests",
        ("source",),
        [(("expected",), meters.expected_s), (("true",), meters.true_s)],
    )


def model_families(meters: Meters) -> Iterator[Metric]:
    """Yields what is measured by model."""
    models = meters.models.copy()
    yield histogram(
        "request_duration",
        "From a generation's head to its end",
        ("model", "stream"),
        {
            (name, str(is_stream).lower()): found
            for name, model in models.items()
            for is_stream, found in model.whole_s.items()
        },
    )
    yield histogram(
        "time_to_first_token",
        "From a streamed request's head to its first event, as the client sees it",
        ("model",),
        {(name,): model.ttft_s for name, model in models.items()},
    )
    yield histogram(
        "time_per_output_token",
        "Mean time between two tokens of one stream, as the client sees it",
        ("model",),
        {(name,): model.tpot_s for name, model in models.items()},
    )
    yield histogram(
        "phase_duration",
        "What the time of generations went into; the phases of one add up to its duration",
        ("model", "phase"),
        {
            (name, phase): found
            for name, model in models.items()
            for phase, found in model.phase_s.items()
        },
    )
    yield counter(
        "tokens",
        "Prompt tokens, those of them from a prefill worker's cache, and tokens of answers",
        ("model", "kind"),
        [
            ((name, kind), n)
            for name, model in models.items()
            for kind, n in (
                ("prompt", model.n_prompt),
                ("cached", model.n_cached),
                ("completion", model.n_completion),
            )
        ],
    )


def process_families(watch: ProcessWatch) -> Iterator[Metric]:
    """Yields how the process fares."""
    yield histogram("loop_lag", "How late the event loop woke up", (), {(): watch.lag_s})
    yield histogram("gc_pause", "Pauses of the garbage collector", (), {(): watch.pause_s})

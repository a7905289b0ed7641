"""One page of metrics from those of several processes."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from app.cluster.merging import PageMerger
from app.observability.families import counter, gauge


def page(n_requests: int, n_in_flight: int, worker: str = "w") -> list[Metric]:
    """What a pipe shows."""
    started = Metric("process_start_time_seconds", "since", "gauge")
    started.add_sample("process_start_time_seconds", {}, 100.0 + n_requests)
    return [
        counter("requests", "all", ("outcome",), [(("ok",), n_requests)]),
        counter("worker_requests", "by worker", ("worker",), [((worker,), n_requests)]),
        gauge("in_flight", "now", (), [((), n_in_flight)]),
        gauge("worker_load", "now", ("worker",), [((worker,), n_in_flight)]),
        started,
    ]


def figures(families: Iterable[Metric]) -> dict[str, float]:
    """The samples by name and label values."""
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_pipes_add_up_and_the_fleet_is_the_brains() -> None:
    merger = PageMerger()
    seen = figures(merger.merge(page(0, 7), [(1, 11, page(5, 1)), (2, 12, page(3, 2))]))
    assert seen["tandem_requests_total ok"] == 8
    assert seen["tandem_in_flight"] == 3
    assert seen["tandem_worker_load w"] == 7
    assert seen["process_start_time_seconds"] == 100.0
    assert seen["tandem_processes pipe"] == 2
    # A pipe that is too busy to answer is there with what it said last.
    seen = figures(merger.merge(page(0, 7), [(2, 12, page(4, 2))]))
    assert seen["tandem_requests_total ok"] == 9
    assert seen["tandem_processes pipe"] == 1


def test_what_a_dead_pipe_had_counted_stays() -> None:
    """Twice in a row; gauges and series of workers end with it."""
    merger = PageMerger()
    list(merger.merge(page(0, 0), [(1, 11, page(5, 1, worker="old"))]))
    list(merger.merge(page(0, 0), [(1, 12, page(2, 1))]))
    seen = figures(merger.merge(page(0, 0), [(1, 13, page(1, 1))]))
    assert seen["tandem_requests_total ok"] == 8
    assert seen["tandem_in_flight"] == 1
    assert seen["tandem_worker_requests_total w"] == 1
    assert "tandem_worker_requests_total old" not in seen

"""One page of metrics from those of all processes.

Counters and histograms add up. What a figure is of tells what becomes of a gauge: the fleet's and
the queue's are the brain's alone, those of the operating system add up over all processes, and
what pipes say of themselves adds up over the pipes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Page = list[Metric]

_OF_BRAIN = (
    *("tandem_build_info", "tandem_workers", "tandem_worker_ready", "tandem_worker_load"),
    *("tandem_worker_kv_held", "tandem_worker_breaker", "tandem_worker_failures"),
    *("tandem_queue_", "tandem_capacity_tokens", "tandem_prefix_index", "tandem_fed_tokens"),
    *("tandem_early_bound", "tandem_kv_event", "tandem_prefix_view"),
    *("tandem_state_store", "tandem_replicas_"),
)
_OF_EACH = ("process_", "tandem_loop_lag", "tandem_gc_pause")
_FIRST = "process_start_time_seconds"
_ADDED_UP = frozenset({"counter", "histogram"})


class PageMerger:
    """Adds up pages, so that no counter goes back when a process ends and another takes its place.

    What an ended process had counted by its last page is kept; of workers it is not, as their
    series end with them.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, Page]] = {}
        self._ended: Page = []

    def merge(self, brain: Page, pipes: Iterable[tuple[int, int, Page]]) -> Iterator[Metric]:
        """Yields the families of all.

        Args:
            brain: The brain's own.
            pipes: Number, process id and page of each pipe that gave one; of one that did not
                its last page counts.
        """
        fresh = {number for number, pid, page in pipes if self._take(number, pid, page)}
        sums = _Sums()
        for family in brain:
            if family.name.startswith(_OF_BRAIN) or family.name.startswith(_OF_EACH):
                sums.add(family)
        for page in (self._ended, *(page for _, page in self._last.values())):
            for family in page:
                if not family.name.startswith(_OF_BRAIN):
                    sums.add(family)
        yield from sums.families()
        running = GaugeMetricFamily(
            "tandem_processes", "Processes of this gateway that answered", labels=("kind",)
        )
        running.add_metric(("pipe",), len(fresh))
        running.add_metric(("brain",), 1)
        yield running

    def _take(self, number: int, pid: int, page: Page) -> bool:
        before = self._last.get(number)
        if before is not None and before[0] != pid:
            sums = _Sums()
            for family in (*self._ended, *map(_lasting, before[1])):
                if family.type in _ADDED_UP:
                    sums.add(family)
            self._ended = list(sums.families())
        self._last[number] = pid, page
        return True


def _lasting(family: Metric) -> Metric:
    kept = Metric(family.name, family.documentation, family.type, family.unit)
    kept.samples = [sample for sample in family.samples if "worker" not in sample.labels]
    return kept


class _Sums:
    """Families by name, their samples by labels."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._places: dict[tuple[str, frozenset[tuple[str, str]]], tuple[Metric, int]] = {}

    def add(self, family: Metric) -> None:
        """Adds a family's samples to those of the same name and labels."""
        total = self._families.get(family.name)
        if total is None:
            total = Metric(family.name, family.documentation, family.type, family.unit)
            self._families[family.name] = total
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            place = self._places.get(key)
            if place is None:
                self._places[key] = total, len(total.samples)
                total.samples.append(sample)
                continue
            samples, i = place[0].samples, place[1]
            value = samples[i].value
            both = (value, sample.value)
            samples[i] = samples[i]._replace(
                value=min(both) if sample.name == _FIRST else sum(both), exemplar=None
            )

    def families(self) -> Iterable[Metric]:
        """Returns the sums."""
        return self._families.values()

"""What ``/metrics`` shows of the workers' KV events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric

from app.observability.families import counter, gauge
from app.scheduling.kv_watch import KvCounts, KvWatch
from app.workers.worker import Role, Worker

_STATES = ("exact", "partial", "predicted")


def kv_event_families(
    watch: KvWatch, workers: Iterable[tuple[tuple[str, str], Worker]]
) -> Iterator[Metric]:
    """Yields the families of the prefill workers; of those that tell nothing with zeros."""
    known, nothing = watch.counts.copy(), KvCounts()
    found = [
        (names, worker, known.get(worker.id, nothing))
        for names, worker in workers
        if worker.spec.role is Role.PREFILL
    ]
    labels = ("worker", "role")
    yield gauge(
        "prefix_view",
        "1 for how well a worker's prefix caches are known, else 0",
        (*labels, "view"),
        [
            ((*names, state), (worker.prefix_view or "predicted") == state)
            for names, worker, _ in found
            for state in _STATES
        ],
    )
    yield counter(
        "kv_event_batches",
        "Batches of KV events that were heard",
        labels,
        [(names, counts.n_batches) for names, _, counts in found],
    )
    yield counter(
        "kv_event_blocks",
        "Blocks of a prefix cache that a worker told of",
        (*labels, "kind"),
        [
            ((*names, kind), n)
            for names, _, counts in found
            for kind, n in (("stored", counts.n_stored), ("removed", counts.n_removed))
        ],
    )
    yield counter(
        "kv_event_resyncs",
        "What was known of a worker's caches was dropped, or the stream of its events ended",
        (*labels, "why"),
        [
            ((*names, why), n)
            for names, _, counts in found
            for why, n in (
                ("gap", counts.n_gaps),
                ("restart", counts.n_restarts),
                ("cleared", counts.n_cleared),
                ("stream_ended", counts.n_losses),
            )
        ],
    )
    yield gauge(
        "kv_event_blocks_held",
        "Blocks that are known to be cached, by all ranks together",
        (),
        [((), watch.intake.n_blocks)],
    )
    yield counter(
        "kv_event_blocks_unused",
        "Blocks that were told of and left out: what they follow is not known, or more than "
        "their tokens decides about them",
        (),
        [((), watch.intake.n_orphans)],
    )

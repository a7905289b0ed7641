"""Everything that ``/metrics`` shows, gathered from the gateway's parts when somebody asks.

It runs in the asking thread, beside the loop: it reads snapshots and plain numbers and changes
nothing. Only workers of the registry have series, so those of a removed one end with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app import __version__
from app.dispatch.handoff_counts import HandoffCounts
from app.gateway.kv_metrics import kv_event_families
from app.gateway.state_metrics import state_families
from app.middleware.door import Door
from app.observability.families import (
    counter,
    gauge,
    model_families,
    prediction_families,
    process_families,
    request_families,
)
from app.observability.flight_judge import FlightJudge
from app.observability.live_view import worker_row
from app.observability.meters import Meters
from app.observability.process_watch import ProcessWatch
from app.scheduling.decision_counts import DecisionCounts
from app.scheduling.kv_watch import KvWatch
from app.scheduling.queue_parts import RankState
from app.scheduling.queue_view import QueueView
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.worker import Role, Worker

if TYPE_CHECKING:
    from app.gateway.state import SharedState

_BREAKER = {"closed": 0, "open": 1, "half_open": 2}
HANDOFFS = (
    *("bootstrap", "nixl", "mooncake", "unknown", "missing", "no_connector", "no_engine_id"),
    *("prompt_logprobs", "stale", "moved", "released"),
)
"""Kinds that are shown as 0 before the first one."""


class GatewayMetrics(Collector):
    """The gateway as Prometheus families.

    Args:
        registry: The workers.
        meters: What is counted by request.
        watch: How the process fares.
        handoffs: How often KV caches changed hands.
        door: Who is inside.
        queue: A look at the prefill queue; None if there is none.
        judge: Who judges recorded requests.
    """

    def __init__(
        self,
        registry: Registry,
        meters: Meters,
        watch: ProcessWatch,
        handoffs: HandoffCounts,
        door: Door,
        queue: QueueView | None,
        judge: FlightJudge,
    ) -> None:
        self._registry = registry
        self.meters = meters
        self.watch = watch
        self._handoffs = handoffs
        self._door = door
        self._queue = queue
        self.kv_watch: KvWatch | None = None
        self.state: SharedState | None = None
        self._judge = judge
        self.decisions = DecisionCounts()
        meters.listeners.append(self.decisions.add)
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        # Its figures have the names that every process has: process_open_fds and the like.
        ProcessCollector(registry=self.registry)
        registry.subscribe(self._on_event)

    def timing(self) -> AbstractContextManager[None]:
        """While it lasts the collector of garbage is timed."""
        return self.watch.timing_collector()

    def collect(self) -> Iterator[Metric]:
        """Yields every family."""
        yield gauge("build_info", "1, with the version", ("version",), [((__version__,), 1)])
        yield from request_families(self.meters)
        yield from model_families(self.meters)
        yield from self._worker_families()
        yield from self._leg_families()
        yield from self._admission_families()
        yield from self._decision_families()
        self._judge.judge()
        yield from self._judge.families()
        yield from self._queue_families()
        if self.kv_watch is not None:
            yield from kv_event_families(self.kv_watch, self._workers())
        if self.state is not None:
            yield from state_families(self.state)
        yield from process_families(self.watch)

    def fleet(self) -> dict[str, Any]:
        """Returns the workers and the queue as JSON-able objects; from any thread."""
        rows = [worker_row(worker) for worker in self._registry.workers()]
        if self._queue is None:
            return {"workers": rows, "queue": None}
        _add_ranks(rows, self._queue.rank_states())
        return {"workers": rows, "queue": asdict(self._queue.figures())}

    def carried(self) -> dict[str, Any]:
        """Returns what this process has carried and carries now; from any thread."""
        counted = self.meters.workers.copy()
        return {
            "legs": {
                worker_id: {
                    "requests": legs.n_by_outcome.copy(),
                    "tokens": legs.n_tokens,
                    "cached_tokens": legs.n_cached,
                }
                for worker_id, legs in counted.items()
            },
            "in_flight": self._door.n_in_flight,
            "in_flight_limit": self._door.max_in_flight,
        }

    def _workers(self) -> list[tuple[tuple[str, str], Worker]]:
        return [((w.spec.url, str(w.spec.role)), w) for w in self._registry.workers()]

    def _worker_families(self) -> Iterator[Metric]:
        workers, labels = self._workers(), ("worker", "role")
        yield gauge(
            "workers",
            "Workers by role and state",
            ("role", "state"),
            [
                ((str(role), str(state)), n)
                for role in Role
                for state in State
                if state is not State.GONE
                for n in [sum(w.spec.role is role and w.state is state for _, w in workers)]
            ],
        )
        yield gauge(
            "worker_ready",
            "1 while a worker takes requests",
            labels,
            [(names, w.state is State.READY) for names, w in workers],
        )
        yield gauge(
            "worker_load", "Requests on a worker now", labels, [(n, w.n_leases) for n, w in workers]
        )
        yield gauge(
            "worker_kv_held",
            "Prefills that are computed and whose KV cache decode has yet to fetch",
            labels,
            [(names, w.n_held) for names, w in workers],
        )
        yield gauge(
            "worker_breaker",
            "Circuit breaker: 0 closed, 1 open, 2 half open",
            labels,
            [(names, _BREAKER[w.breaker.state]) for names, w in workers],
        )
        yield counter(
            "worker_failures",
            "Requests that a worker failed by its own fault",
            labels,
            [(names, w.n_charged) for names, w in workers],
        )

    def _leg_families(self) -> Iterator[Metric]:
        known = self.meters.workers.copy()
        found = [(names, known[w.id]) for names, w in self._workers() if w.id in known]
        yield counter(
            "worker_requests",
            "Last attempts by how the leg on a worker ended: ok, failed, or ended with the other",
            ("worker", "role", "outcome"),
            [((*n, word), i) for n, m in found for word, i in m.n_by_outcome.items()],
        )
        yield counter(
            "worker_tokens",
            "Prompt tokens that a prefill worker computed; tokens that any other worker made",
            ("worker", "role"),
            [(names, m.n_tokens) for names, m in found],
        )
        yield counter(
            "worker_cached_tokens",
            "Prompt tokens that a worker had in its cache; of decode workers not told",
            ("worker", "role"),
            [(names, m.n_cached) for names, m in found if names[1] != Role.DECODE],
        )
        by_kind = dict.fromkeys(HANDOFFS, 0) | dict(self._handoffs.by_kind.copy())
        by_kind["bootstrap"] += self.meters.n_bootstrapped
        yield counter(
            "handoffs",
            "KV caches handed over (bootstrap: SGLang), left out, or handled otherwise",
            ("kind",),
            [((kind,), n) for kind, n in by_kind.items()],
        )

    def _admission_families(self) -> Iterator[Metric]:
        door = self._door
        yield gauge("in_flight", "Answers that are being made", (), [((), door.n_in_flight)])
        yield gauge("in_flight_limit", "Most of them; 0: none", (), [((), door.max_in_flight)])
        yield gauge("body_bytes", "Bodies held now", (), [((), door.n_body_bytes)])
        refused = dict.fromkeys(("gateway_full", "rate_limit_exceeded"), 0) | dict(
            door.refused.copy()
        )
        yield counter(
            "refused",
            "Requests refused at the door",
            ("code",),
            [((c,), n) for c, n in refused.items()],
        )

    def _decision_families(self) -> Iterator[Metric]:
        decisions = self.decisions
        yield counter(
            "decisions",
            "Workers chosen for the last attempts of requests, by the policy and its own reason",
            ("role", "policy", "why"),
            list(decisions.chosen.copy().items()),
        )
        yield counter(
            "shadow_decisions",
            "Choices that a shadow policy was asked about as well",
            ("role", "agrees"),
            [((r, str(same).lower()), n) for (r, same), n in decisions.shadows.copy().items()],
        )
        yield counter(
            "alone",
            "Requests that one worker served without a pair",
            ("why",),
            [((why,), n) for why, n in decisions.alone.copy().items()],
        )

    def _queue_families(self) -> Iterator[Metric]:
        figures = self._queue.figures() if self._queue is not None else None
        if figures is None:
            return
        yield from prediction_families(self.meters, self._judge.first_error_s)
        role = ("role",)
        yield gauge("queue_waiting", "Requests in the prefill queue", (), [((), figures.n_waiting)])
        yield gauge(
            "queue_work_seconds",
            "How long what waits, and what was sent and is not finished, keeps a role's ranks busy",
            role,
            [(("prefill",), figures.queue_s)],
        )
        yield gauge(
            "queue_uncached_tokens",
            "Uncached prompt tokens that wait here, or were sent and are not finished",
            ("where",),
            [(("queue",), figures.n_waiting_tokens), (("workers",), figures.n_backlog_tokens)],
        )
        yield gauge(
            "capacity_tokens_per_second",
            "Uncached tokens a second that a role's ranks compute, as learned",
            role,
            [(("prefill",), figures.rate_tokens_per_s)],
        )
        yield counter(
            "fed_tokens",
            "Prompt tokens sent to prefill by the queue: all, and those the index expected cached",
            ("kind",),
            [(("prompt",), figures.n_fed_tokens), (("cached",), figures.n_fed_cached_tokens)],
        )
        yield gauge("prefix_index_bytes", "Size of the index", (), [((), figures.index_bytes)])
        yield counter(
            "early_bound", "Requests sent at once, past the queue", (), [((), figures.n_early)]
        )

    def _on_event(self, event: str, worker: Worker) -> None:
        if event == "removed":
            self.meters.forget_worker(worker.id)


def _add_ranks(rows: list[dict[str, Any]], ranks: Iterable[RankState]) -> None:
    by_id = {row["id"]: row for row in rows}
    for rank in ranks:
        row = by_id.get(rank.worker_id)
        if row is not None:
            row["queued_tokens"] = row.get("queued_tokens", 0.0) + rank.n_unstarted_tokens
            row["capacity_tokens_per_s"] = row.get("capacity_tokens_per_s", 0.0) + rank.tokens_per_s

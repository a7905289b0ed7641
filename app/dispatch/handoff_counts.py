"""How often KV caches changed hands, and how often not."""

from __future__ import annotations

from collections import Counter

from app.observability.log import get_logger
from app.workers.worker import Worker


class HandoffCounts:
    """Counts by kind; the first missing handoff of each worker is warned of.

    Attributes:
        by_kind: ``nixl``, ``mooncake``, ``unknown``; ``missing``, ``no_connector``,
            ``no_engine_id``, ``prompt_logprobs`` (computed by decode alone); ``stale`` (prefill
            ran again), ``moved`` (another decode worker took the handoff), ``released``.
        max_gap_s: Longest time from prefill's end to decode's dispatch.
    """

    def __init__(self) -> None:
        self.by_kind: Counter[str] = Counter()
        self.max_gap_s = 0.0
        self._warned: set[str] = set()
        self._log = get_logger("handoff")

    def add(self, kind: str) -> None:
        """Counts one."""
        self.by_kind[kind] += 1

    def add_missing(self, why: str, worker: Worker, fault: str, *, is_warned: bool) -> None:
        """Counts one that decode computes alone."""
        self.by_kind[why] += 1
        if is_warned and worker.spec.id not in self._warned:
            self._warned.add(worker.spec.id)
            self._log.warning(
                "no KV handoff: decode computes the prompt itself",
                worker=worker.spec.url,
                reason=fault,
            )

    def note_gap(self, gap_s: float) -> None:
        """Notes the time from prefill's end to decode's dispatch."""
        self.max_gap_s = max(self.max_gap_s, gap_s)

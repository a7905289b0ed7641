"""Tells other gateways what was changed over REST, where there are any."""

from __future__ import annotations

from app.api.parts import Parts
from app.workers.worker import Worker


def tell_changed(gateway: Parts, worker_id: str) -> None:
    """A worker was added or changed."""
    worker = gateway.registry.get(worker_id)
    if gateway.state is not None and gateway.state.workers is not None and worker is not None:
        gateway.state.workers.changed(worker)


def tell_removed(
    gateway: Parts, worker: Worker, timeout_s: float | None, *, is_forced: bool
) -> None:
    """A worker is to go."""
    if gateway.state is not None and gateway.state.workers is not None:
        gateway.state.workers.removed(worker, timeout_s, is_forced=is_forced)

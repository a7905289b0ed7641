"""What listens to the workers' KV events, if anything shall."""

from __future__ import annotations

from app.observability.log import get_logger
from app.scheduling.kv_watch import KvWatch
from app.scheduling.queue_scheduler import QueueScheduler
from app.scheduling.scheduler import Scheduler
from app.settings import Settings
from app.upstream.clients import WorkerClients
from app.upstream.kv_streams import kv_streams
from app.workers.registry import Registry


def kv_bytes(settings: Settings) -> int:
    """Returns the memory of what is heard; 0: nobody listens."""
    return settings.kv_events_mib * 1024 * 1024 if settings.kv_events == "auto" else 0


def build_kv_watch(
    scheduler: Scheduler, registry: Registry, clients: WorkerClients
) -> KvWatch | None:
    """Builds the watch; None without a prefill queue, as nobody else asks what is cached."""
    if not isinstance(scheduler, QueueScheduler) or scheduler.kv is None:
        return None
    log = get_logger("scheduling")
    return KvWatch(
        registry,
        scheduler.kv,
        streams=lambda worker: kv_streams(clients, worker),
        on_trouble=lambda worker, reason: log.info(
            "the worker's prefix cache is guessed", worker=worker.spec.url, reason=reason
        ),
    )

"""The scheduler that the settings ask for, and what has to run beside it."""

from __future__ import annotations

from app.clock import Clock
from app.observability.log import get_logger
from app.policies.base import Policy
from app.policies.catalog import POLICIES
from app.scheduling.load_watch import LoadWatch
from app.scheduling.queue_parts import QueueLimits
from app.scheduling.queue_scheduler import QueueScheduler
from app.scheduling.scheduler import LocalScheduler, Scheduler
from app.settings import Settings
from app.upstream.clients import WorkerClients
from app.upstream.loads import load_rows
from app.upstream.sglang_worker import WorkerRefused
from app.workers.registry import Registry


def build_scheduler(
    settings: Settings, registry: Registry, clients: WorkerClients, now_s: Clock
) -> tuple[Scheduler, LoadWatch | None]:
    """Builds the scheduler and, for a prefill queue, the watch over the workers' loads."""
    early = LocalScheduler(
        registry,
        prefill_policy=_policy(settings.prefill_policy_name, settings),
        decode_policy=_policy(settings.decode_policy_name, settings),
        now_s=now_s,
    )
    if settings.prefill_queue == "off":
        return early, None
    log = get_logger("scheduling")
    poll_s = settings.prefill_poll_ms / 1000
    limits = QueueLimits(
        settings.prefill_queue_size,
        settings.prefill_queue_timeout_secs,
        settings.prefix_index_mib * 1024 * 1024,
        poll_s,
    )
    queue = QueueScheduler(early, registry, now_s, limits)
    watch = LoadWatch(
        registry,
        read=lambda worker: load_rows(clients, worker),
        take=queue.take,
        n_waiting=lambda: queue.n_waiting,
        now_s=now_s,
        interval_s=poll_s,
        on_trouble=lambda worker, reason: log.warning(
            "prefill is fed without its load", worker=worker.spec.url, reason=reason
        ),
        errors=(WorkerRefused,),
    )
    return queue, watch


def _policy(name: str, settings: Settings) -> Policy:
    return POLICIES[name](
        cache_threshold=settings.cache_threshold,
        balance_abs_threshold=settings.balance_abs_threshold,
        balance_rel_threshold=settings.balance_rel_threshold,
    )

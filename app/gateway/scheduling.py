"""The scheduler that the settings ask for, its policies, and what has to run beside it."""

from __future__ import annotations

from app.clock import Clock
from app.cluster.brain_seat import BrainSeat
from app.cluster.pipe_seat import PipeSeat
from app.gateway.kv_events import kv_bytes
from app.observability.log import get_logger
from app.policies.base import Policy
from app.policies.catalog import POLICIES
from app.scheduling.load_watch import LoadWatch
from app.scheduling.queue_parts import QueueLimits
from app.scheduling.queue_scheduler import QueueScheduler
from app.scheduling.running_policies import NamedPolicy, RunningPolicies
from app.scheduling.scheduler import LocalScheduler, Scheduler
from app.scheduling.skip_rule import SkipRule
from app.scheduling.solo import SoloCounts
from app.scheduling.solo_chooser import SoloChooser
from app.settings import Settings
from app.upstream.clients import WorkerClients
from app.upstream.loads import load_rows
from app.upstream.sglang_worker import WorkerRefused
from app.workers.registry import Registry


def build_scheduler(
    settings: Settings,
    registry: Registry,
    clients: WorkerClients,
    counts: SoloCounts,
    now_s: Clock,
    seat: BrainSeat | PipeSeat | None = None,
) -> tuple[Scheduler, LoadWatch | None, RunningPolicies]:
    """Builds the scheduler, for a prefill queue the watch over the workers' loads, the policies."""
    if isinstance(seat, PipeSeat):
        far = seat.scheduler(solo_chooser(settings, counts, now_s), now_s)
        return far, None, _policies(settings, far.early, now_s)
    early = LocalScheduler(
        registry,
        prefill_policy=_policy(settings.prefill_policy_name, settings, now_s),
        decode_policy=_policy(settings.decode_policy_name, settings, now_s),
        now_s=now_s,
        solos=solo_chooser(settings, counts, now_s),
    )
    policies = _policies(settings, early, now_s)
    if settings.prefill_queue == "off":
        return early, None, policies
    log = get_logger("scheduling")
    poll_s = settings.prefill_poll_ms / 1000
    limits = QueueLimits(
        settings.prefill_queue_size,
        settings.prefill_queue_timeout_secs,
        settings.prefix_index_mib * 1024 * 1024,
        poll_s,
        settings.prefix_index_ranks,
        kv_bytes(settings),
    )
    queue = QueueScheduler(early, registry, now_s, limits)
    watch = LoadWatch(
        registry,
        read=lambda worker: load_rows(clients, worker),
        take=queue.take,
        take_used=queue.take_used,
        n_waiting=lambda: queue.n_waiting,
        now_s=now_s,
        interval_s=poll_s,
        on_trouble=lambda worker, reason: log.warning(
            "prefill is fed without its load", worker=worker.spec.url, reason=reason
        ),
        errors=(WorkerRefused,),
    )
    return queue, watch, policies


def solo_chooser(settings: Settings, counts: SoloCounts, now_s: Clock) -> SoloChooser:
    """Builds what chooses who serves without prefill."""
    return SoloChooser(
        _policy(settings.policy, settings, now_s),
        now_s,
        SkipRule(
            settings.skip_prefill_below_tokens,
            settings.skip_prefill_cached_below_tokens,
            settings.skip_prefill_uncached_share,
            settings.skip_prefill_max_load,
        ),
        decodes_alone=settings.on_missing_prefill == "decode_only",
        counts=counts,
    )


def _policies(settings: Settings, early: LocalScheduler, now_s: Clock) -> RunningPolicies:
    """Builds what knows the policies by name, and begins with the shadows of the settings."""
    log = get_logger("scheduling")
    parameters = settings.policy_parameters
    policies = RunningPolicies(
        early.slots,
        {
            role: NamedPolicy(slot.policy.name, POLICIES[slot.policy.name].read({}, parameters))
            for role, slot in early.slots.items()
        },
        parameters,
        now_s,
        on_trouble=lambda name, error: log.error(
            "a shadow policy failed and is taken out", policy=name, exc_info=error
        ),
        has_queue=settings.prefill_queue == "on",
    )
    for role in early.slots:
        shadow = settings.shadow_of(role)
        if shadow is not None:
            policies.watch(role, policies.check(shadow, {}))
    return policies


def _policy(name: str, settings: Settings, now_s: Clock) -> Policy:
    return POLICIES[name](now_s=now_s, **settings.policy_parameters)

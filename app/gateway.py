"""The gateway's parts and how they hang together; nothing is started here."""

from __future__ import annotations

import time
from dataclasses import dataclass

from app.api.parts import Life
from app.clock import Clock
from app.dispatch.abort import LegReaper
from app.dispatch.blame import Blame
from app.dispatch.pd_router import PDRouter
from app.dispatch.sglang import LegTools
from app.policies.base import Policy
from app.policies.catalog import POLICIES
from app.scheduling.scheduler import LocalScheduler, Scheduler
from app.settings import Settings
from app.upstream.clients import WorkerClients
from app.workers.breaker import Breaker
from app.workers.drain import Drain
from app.workers.health import HealthLoop
from app.workers.registry import Registry

RETRY_DEADLINE_S = 30.0
"""No further attempt at a request starts after this long: its client has waited enough."""

DRAIN_LIMIT_S = 600.0
"""As SMG 1.13: a removed worker's requests may go on for this long."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that lives as long as the application."""

    settings: Settings
    life: Life
    registry: Registry
    clients: WorkerClients
    health: HealthLoop
    drain: Drain
    scheduler: Scheduler
    reaper: LegReaper
    router: PDRouter


def build_gateway(settings: Settings, now_s: Clock = time.monotonic) -> Gateway:
    """Builds every part from the settings.

    Args:
        settings: What the operator chose.
        now_s: Clock of breakers, probes and deadlines.
    """
    registry = Registry(now_s=now_s, make_breaker=lambda: _breaker(settings, now_s))
    clients = WorkerClients(
        connect_timeout_s=settings.connect_timeout_secs,
        idle_expiry_s=settings.upstream_pool_idle_timeout_secs,
        health_path=settings.health_check_endpoint,
        control_timeout_s=settings.health_check_timeout_secs,
        now_s=now_s,
    )
    health = HealthLoop(
        registry,
        probe=lambda worker: clients.get(worker).probe(),
        register=lambda worker: clients.get(worker).register(),
        interval_s=settings.health_check_interval_secs,
        timeout_s=settings.health_check_timeout_secs,
        failure_threshold=settings.health_failure_threshold,
        success_threshold=settings.health_success_threshold,
        now_s=now_s,
        is_disabled=settings.disable_health_check,
    )
    scheduler = LocalScheduler(
        registry,
        prefill_policy=_policy(settings.prefill_policy_name, settings),
        decode_policy=_policy(settings.decode_policy_name, settings),
        now_s=now_s,
    )
    reaper = LegReaper(clients)
    tools = LegTools(
        clients=clients,
        scheduler=scheduler,
        reaper=reaper,
        hold_decode_s=settings.hold_decode_ms / 1000,
        silence_timeout_s=settings.request_timeout_secs,
    )
    router = PDRouter(
        tools=tools,
        blame=Blame(clients, health, now_s),
        max_attempts=settings.max_attempts,
        retry_deadline_s=RETRY_DEADLINE_S,
        now_s=now_s,
    )
    drain = Drain(registry, close=clients.drop, limit_s=DRAIN_LIMIT_S, now_s=now_s)
    return Gateway(
        settings=settings,
        life=Life(),
        registry=registry,
        clients=clients,
        health=health,
        drain=drain,
        scheduler=scheduler,
        reaper=reaper,
        router=router,
    )


def _policy(name: str, settings: Settings) -> Policy:
    return POLICIES[name](
        cache_threshold=settings.cache_threshold,
        balance_abs_threshold=settings.balance_abs_threshold,
        balance_rel_threshold=settings.balance_rel_threshold,
    )


def _breaker(settings: Settings, now_s: Clock) -> Breaker:
    return Breaker(
        now_s,
        settings.cb_failure_threshold,
        settings.cb_success_threshold,
        settings.cb_timeout_duration_secs,
        settings.cb_window_duration_secs,
        is_disabled=settings.disable_circuit_breaker,
    )

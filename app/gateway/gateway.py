"""The gateway's parts and how they hang together; nothing is started here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from app.api.parts import Clocks, Life
from app.clock import Clock
from app.cluster.brain_seat import BrainSeat
from app.cluster.pipe_seat import PipeSeat
from app.dispatch.abort import LegReaper
from app.dispatch.blame import Blame
from app.dispatch.handoff_counts import HandoffCounts
from app.dispatch.kv_transfer import MissingHandoff
from app.dispatch.leg_tools import LegTools
from app.dispatch.limits import LegLimits
from app.dispatch.model_texts import ModelTexts, TextSettings
from app.dispatch.pd_router import PDRouter
from app.dispatch.retry import RetryRules
from app.dispatch.retry_budget import RetryBudget
from app.dispatch.token_leg import TokenTools
from app.followed_files import FollowedFiles
from app.gateway.discovery import PodDiscovery, build_discovery
from app.gateway.entrance import Entrance, build_entrance
from app.gateway.kv_events import build_kv_watch
from app.gateway.metrics import GatewayMetrics
from app.gateway.observing import build_flight_file, build_metrics
from app.gateway.registry import build_registry
from app.gateway.scheduling import build_scheduler
from app.gateway.sight import Sight
from app.gateway.state import SharedState, build_state
from app.gateway.tls import worker_tls
from app.gateway.tracing import build_tracing
from app.observability.flight_file import FlightFile
from app.observability.flight_recorder import FlightRecorder
from app.scheduling.kv_watch import KvWatch
from app.scheduling.load_watch import LoadWatch
from app.scheduling.lost_workers import LostWorkers
from app.scheduling.running_policies import RunningPolicies
from app.scheduling.scheduler import Scheduler
from app.scheduling.solo import SoloCounts
from app.settings import Settings, SettingsError, flag_name, worker_specs
from app.upstream.clients import WorkerClients
from app.workers.checks import Checks
from app.workers.drain import Drain
from app.workers.health import HealthLoop
from app.workers.probe_rules import ProbeRules
from app.workers.registry import Registry
from app.workers.url_guard import UrlGuard

if TYPE_CHECKING:
    from app.observability.tracing import RequestTracing


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that lives as long as the application."""

    settings: Settings
    clocks: Clocks
    life: Life
    registry: Registry
    clients: WorkerClients
    health: HealthLoop
    drain: Drain
    scheduler: Scheduler
    policies: RunningPolicies
    load_watch: LoadWatch | None
    kv_watch: KvWatch | None
    reaper: LegReaper
    router: PDRouter
    texts: ModelTexts
    handoffs: HandoffCounts
    solo_counts: SoloCounts
    entrance: Entrance
    aliases: Mapping[str, str]
    metrics: GatewayMetrics
    recorder: FlightRecorder
    sight: Sight
    flight_file: FlightFile | None
    tracing: RequestTracing | None
    url_guard: UrlGuard
    discovery: PodDiscovery | None
    followed: list[FollowedFiles]
    """Keys and certificates that are read again when they change; the server adds its own."""
    seat: BrainSeat | PipeSeat | None
    state: SharedState | None

    @property
    def decodes_alone(self) -> bool:
        """Decode workers that can do so serve where no prefill worker can be used."""
        return self.settings.on_missing_prefill == "decode_only"


def build_gateway(
    settings: Settings,
    now_s: Clock = time.monotonic,
    unix_s: Clock = lambda: datetime.now(UTC).timestamp(),
    seat: BrainSeat | PipeSeat | None = None,
) -> Gateway:
    """Builds every part from the settings.

    Args:
        settings: What the operator chose.
        now_s: Clock of breakers, probes and deadlines.
        unix_s: The time of day.
        seat: Which of several processes this is; None: there is one.

    Raises:
        SettingsError: A certificate, the key file or the tokenizer cannot be read.
    """
    tls = worker_tls(settings)
    registry = build_registry(settings, now_s, seat)
    clients = WorkerClients(
        connect_timeout_s=settings.connect_timeout_secs,
        idle_expiry_s=settings.upstream_pool_idle_timeout_secs,
        health_path=settings.health_check_endpoint,
        control_timeout_s=settings.health_check_timeout_secs,
        ssl_context=tls.http,
        grpc_tls=tls.grpc,
        grpc_client=settings.grpc_client,
        on_info=registry.set_info,
        now_s=now_s,
    )
    connections = clients if seat is None else seat.connections(clients)
    drain = Drain(registry, connections, limit_s=settings.drain_timeout_secs, now_s=now_s)
    health = _health(settings, registry, clients, drain, now_s, seat)
    solo_counts = SoloCounts()
    scheduler, load_watch, policies = build_scheduler(
        settings, registry, clients, solo_counts, now_s, seat
    )
    reaper = LegReaper(clients)
    limits = _limits(settings)
    tools = LegTools(
        clients=clients,
        scheduler=scheduler,
        reaper=reaper,
        hold_decode_s=settings.hold_decode_ms / 1000,
        limits=limits,
        dp_aware=settings.dp_aware,
    )
    blame = Blame(clients, health, now_s, exposes_addresses=settings.expose_worker_addresses)
    counts = HandoffCounts()
    texts = _texts(settings, registry, clients)
    token_tools = TokenTools(
        clients=clients,
        scheduler=scheduler,
        reaper=reaper,
        blame=blame,
        counts=counts,
        missing_handoff=MissingHandoff(settings.missing_handoff),
        lease_s=settings.kv_lease_secs,
        limits=limits,
        now_s=now_s,
        unix_s=unix_s,
    )
    tracing = build_tracing(settings, unix_s)
    router = PDRouter(
        tools=tools,
        token_tools=token_tools,
        texts=texts,
        blame=blame,
        rules=_retry_rules(settings),
        budget=RetryBudget(
            settings.retry_budget_percent / 100, settings.retry_budget_min_tokens, now_s
        ),
        standings=settings.standing_rules,
        now_s=now_s,
        aliases=dict(settings.model_alias),
        tracing=tracing,
    )
    guard = UrlGuard(settings.worker_url_allow)
    entrance = build_entrance(settings, now_s)
    state = build_state(settings, seat, registry, drain, health, entrance, unix_s)
    recorder = FlightRecorder(settings.recorder_mib * 1024 * 1024)
    metrics = build_metrics(registry, counts, entrance, scheduler, recorder, now_s)
    metrics.kv_watch = build_kv_watch(scheduler, registry, clients)
    metrics.state = state
    if isinstance(seat, BrainSeat):
        seat.show(metrics.registry, metrics.watch)
    if settings.recorder_mib:
        metrics.meters.listeners.append(recorder.add)
    if tracing is not None:
        metrics.meters.listeners.append(tracing.end)
    clocks = Clocks(now_s, unix_s)
    return Gateway(
        settings=settings,
        clocks=clocks,
        life=Life(),
        registry=registry,
        clients=clients,
        health=health,
        drain=drain,
        scheduler=scheduler,
        policies=policies,
        load_watch=load_watch,
        kv_watch=metrics.kv_watch,
        reaper=reaper,
        router=router,
        texts=texts,
        handoffs=counts,
        solo_counts=solo_counts,
        entrance=entrance,
        metrics=metrics,
        recorder=recorder,
        sight=Sight(metrics, recorder, clocks, seat),
        flight_file=build_flight_file(settings, recorder, now_s, unix_s),
        tracing=tracing,
        aliases=dict(settings.model_alias),
        url_guard=guard,
        discovery=build_discovery(settings, registry, drain, guard),
        followed=[file for file in (entrance.key_file, tls.files) if file is not None],
        seat=seat,
        state=state,
    )


def _health(
    settings: Settings,
    registry: Registry,
    clients: WorkerClients,
    drain: Drain,
    now_s: Clock,
    seat: BrainSeat | PipeSeat | None,
) -> HealthLoop:
    checks = Checks(
        registry,
        probe=lambda worker: clients.control(worker).probe(),
        register=lambda worker: clients.control(worker).register(),
        has_heard=seat.has_heard if isinstance(seat, BrainSeat) else clients.take_heard,
        now_s=now_s,
    )
    rules = ProbeRules(
        interval_s=settings.health_check_interval_secs,
        timeout_s=settings.health_check_timeout_secs,
        failure_threshold=settings.health_failure_threshold,
        success_threshold=settings.health_success_threshold,
        is_disabled=settings.disable_health_check,
    )
    lost = LostWorkers(registry, drain, settings.remove_unhealthy_after_secs, now_s)
    make = seat.health if isinstance(seat, PipeSeat) else HealthLoop
    return make(
        registry,
        checks,
        rules,
        join_limit_s=settings.worker_startup_timeout_secs,
        on_failure=lost.look if settings.remove_unhealthy_workers else None,
        now_s=now_s,
    )


def _texts(settings: Settings, registry: Registry, clients: WorkerClients) -> ModelTexts:
    field = "tokenizer_path" if settings.tokenizer_path else "model_path"
    asked = TextSettings(
        settings.tokenizer_path or settings.model_path,
        settings.chat_template,
        settings.tool_call_parser,
        settings.reasoning_parser,
        settings.trust_request_chat_template,
        settings.tokenizer_processes,
        settings.tokenizer_cache_l1_max_memory,
    )
    texts = ModelTexts(registry, clients, asked)
    urls = [spec.url for spec in worker_specs(settings)]
    if urls and all(url.startswith("http") for url in urls):
        # SGLang has its own tokenizer; the flag may stand in a command line written for SMG.
        return texts
    try:
        texts.preload()
    except ValueError as error:
        texts.close()
        raise SettingsError(f"{flag_name(field)}: {error}") from None
    return texts


def _limits(settings: Settings) -> LegLimits:
    whole_s = settings.request_timeout_secs
    return LegLimits(
        prefill_s=settings.prefill_timeout_secs or whole_s,
        first_token_s=settings.first_token_timeout_secs or whole_s,
        gap_s=settings.token_gap_timeout_secs or whole_s,
        whole_s=whole_s,
        total_s=settings.total_timeout_secs,
    )


def _retry_rules(settings: Settings) -> RetryRules:
    return RetryRules(
        max_attempts=settings.max_attempts,
        deadline_s=settings.retry_deadline_secs,
        is_after_5xx=settings.retry_on_5xx,
        initial_backoff_s=settings.retry_initial_backoff_ms / 1000,
        max_backoff_s=settings.retry_max_backoff_ms / 1000,
        backoff_multiplier=settings.retry_backoff_multiplier,
        jitter=settings.retry_jitter_factor,
    )

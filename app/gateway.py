"""The gateway's parts and how they hang together; nothing is started here."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.api.parts import Life
from app.clock import Clock
from app.dispatch.abort import LegReaper
from app.dispatch.blame import Blame
from app.dispatch.handoff_counts import HandoffCounts
from app.dispatch.kv_transfer import MissingHandoff
from app.dispatch.model_texts import ModelTexts, TextSettings
from app.dispatch.pd_router import PDRouter
from app.dispatch.sglang import LegTools
from app.dispatch.token_leg import TokenTools
from app.observability.log import get_logger
from app.policies.base import Policy
from app.policies.catalog import POLICIES
from app.scheduling.load_watch import LoadWatch
from app.scheduling.queue_scheduler import QueueLimits, QueueScheduler
from app.scheduling.scheduler import LocalScheduler, Scheduler
from app.settings import Settings, SettingsError, flag_name, worker_specs
from app.upstream.clients import WorkerClients
from app.upstream.grpc_tls import GrpcTls
from app.upstream.loads import load_rows
from app.upstream.sglang_worker import WorkerRefused
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
    load_watch: LoadWatch | None
    reaper: LegReaper
    router: PDRouter
    texts: ModelTexts
    handoffs: HandoffCounts


def build_gateway(
    settings: Settings,
    now_s: Clock = time.monotonic,
    unix_s: Clock = lambda: datetime.now(UTC).timestamp(),
) -> Gateway:
    """Builds every part from the settings.

    Args:
        settings: What the operator chose.
        now_s: Clock of breakers, probes and deadlines.
        unix_s: The time of day.

    Raises:
        SettingsError: A certificate or the tokenizer cannot be read.
    """
    registry = Registry(now_s=now_s, make_breaker=lambda: _breaker(settings, now_s))
    clients = WorkerClients(
        connect_timeout_s=settings.connect_timeout_secs,
        idle_expiry_s=settings.upstream_pool_idle_timeout_secs,
        health_path=settings.health_check_endpoint,
        control_timeout_s=settings.health_check_timeout_secs,
        grpc_tls=_grpc_tls(settings),
        on_info=registry.set_info,
        now_s=now_s,
    )
    health = HealthLoop(
        registry,
        probe=lambda worker: clients.control(worker).probe(),
        register=lambda worker: clients.control(worker).register(),
        interval_s=settings.health_check_interval_secs,
        timeout_s=settings.health_check_timeout_secs,
        failure_threshold=settings.health_failure_threshold,
        success_threshold=settings.health_success_threshold,
        now_s=now_s,
        is_disabled=settings.disable_health_check,
    )
    scheduler, load_watch = _scheduler(settings, registry, clients, now_s)
    reaper = LegReaper(clients)
    tools = LegTools(
        clients=clients,
        scheduler=scheduler,
        reaper=reaper,
        hold_decode_s=settings.hold_decode_ms / 1000,
        silence_timeout_s=settings.request_timeout_secs,
    )
    blame = Blame(clients, health, now_s)
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
        silence_timeout_s=settings.request_timeout_secs,
        now_s=now_s,
    )
    router = PDRouter(
        tools=tools,
        token_tools=token_tools,
        texts=texts,
        blame=blame,
        max_attempts=settings.max_attempts,
        retry_deadline_s=RETRY_DEADLINE_S,
        now_s=now_s,
        unix_s=unix_s,
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
        load_watch=load_watch,
        reaper=reaper,
        router=router,
        texts=texts,
        handoffs=counts,
    )


def _scheduler(
    settings: Settings, registry: Registry, clients: WorkerClients, now_s: Clock
) -> tuple[Scheduler, LoadWatch | None]:
    early = LocalScheduler(
        registry,
        prefill_policy=_policy(settings.prefill_policy_name, settings),
        decode_policy=_policy(settings.decode_policy_name, settings),
        now_s=now_s,
    )
    if settings.prefill_queue == "off":
        return early, None
    log = get_logger("scheduling")
    limits = QueueLimits(
        settings.prefill_queue_size,
        settings.prefill_queue_timeout_secs,
        settings.prefix_index_mib * 1024 * 1024,
        settings.prefill_poll_ms / 1000,
    )
    queue = QueueScheduler(early, registry, now_s, limits)
    watch = LoadWatch(
        registry,
        read=lambda worker: load_rows(clients, worker),
        take=queue.take,
        n_waiting=lambda: queue.n_waiting,
        now_s=now_s,
        interval_s=settings.prefill_poll_ms / 1000,
        on_trouble=lambda worker, reason: log.warning(
            "prefill is fed without its load", worker=worker.spec.url, reason=reason
        ),
        errors=(WorkerRefused,),
    )
    return queue, watch


def _texts(settings: Settings, registry: Registry, clients: WorkerClients) -> ModelTexts:
    field = "tokenizer_path" if settings.tokenizer_path else "model_path"
    asked = TextSettings(
        settings.tokenizer_path or settings.model_path,
        settings.chat_template,
        settings.tool_call_parser,
        settings.reasoning_parser,
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


def _grpc_tls(settings: Settings) -> GrpcTls:
    certificate, key = settings.client_cert_path, settings.client_key_path
    ca = _read("ca_cert_path", settings.ca_cert_path)
    parts = (_read("client_cert_path", certificate), _read("client_key_path", key))
    # gRPC takes anything here and then never gets a connection.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca is not None:
            context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
    except ssl.SSLError:
        raise SettingsError(
            f"{flag_name('ca_cert_path')} {settings.ca_cert_path}: no certificates in PEM form."
        ) from None
    try:
        if certificate is not None:
            # A password is never asked for on the terminal: gRPC takes no encrypted keys.
            context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        raise SettingsError(
            f"{flag_name('client_cert_path')} {certificate}: the certificate and the key {key} "
            "are not in PEM form, do not fit each other, or the key is encrypted."
        ) from None
    return GrpcTls(ca, *parts)


def _read(field: str, path: str | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag_name(field)} {path}: {error.strerror}.") from None


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

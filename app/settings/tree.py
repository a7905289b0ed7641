"""The one tree of settings: every setting is one field.

Its flag (``cli``), its environment name (``TANDEM_`` and the name in capitals), ``.env.example``
and the table in ``docs/configuration.md`` are all made from the field. Names and meanings are
SMG's (release 1.13.0) where SMG has the same setting.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from app.settings.admission import AdmissionSettings
from app.settings.cluster import ClusterSettings
from app.settings.discovery import DiscoverySettings
from app.settings.edge import EdgeSettings
from app.settings.fleet import FleetSettings
from app.settings.kv_events import KvEventSettings
from app.settings.limits import LimitSettings
from app.settings.observing import ObservingSettings
from app.settings.policies import PolicySettings
from app.settings.pools import PoolSettings
from app.settings.scheduling import SchedulingSettings
from app.settings.security import SecuritySettings
from app.settings.standing import StandingSettings
from app.settings.state import StateSettings
from app.settings.tokens import TokenSettings
from app.settings.values import (
    Knob,
    PrefillUrl,
    check_workers,
    read_log_level,
    read_optional_port,
    read_policy,
    read_prefill,
    read_urls,
)
from app.settings.workers import WorkerSettings

_LISTENING, _WORKERS, _ROUTING = "Listening", "Workers", "Routing"
_FAILURES, _HEALTH = "Failures and time limits", "Health checks"
_OBSERVING = "Logs and metrics"

_Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
_Count = Annotated[int, Field(ge=1, le=1_000_000)]
_Port = Annotated[int, Field(ge=1, le=65535)]
_Policy = Annotated[str, BeforeValidator(read_policy)]
_Urls = Annotated[tuple[str, ...], BeforeValidator(read_urls)]


class Settings(
    AdmissionSettings,
    ClusterSettings,
    DiscoverySettings,
    EdgeSettings,
    FleetSettings,
    KvEventSettings,
    LimitSettings,
    ObservingSettings,
    PoolSettings,
    PolicySettings,
    SchedulingSettings,
    SecuritySettings,
    StandingSettings,
    StateSettings,
    TokenSettings,
    WorkerSettings,
):
    """What the operator can choose.

    ``Settings(...)`` in code takes nothing from outside; ``load`` reads all sources.
    """

    host: Annotated[
        str, Knob(_LISTENING, "Address to listen on; :: means IPv6 too", metavar="ADDRESS")
    ] = Field("0.0.0.0", min_length=1)  # noqa: S104 - a gateway is there to be reached
    port: Annotated[_Port, Knob(_LISTENING, "Port to listen on", metavar="PORT")] = 30000

    pd_disaggregation: Annotated[
        bool,
        Knob(_WORKERS, "Serve prefill/decode pairs; workers or selectors of these mean it too"),
    ] = False
    prefill: Annotated[
        tuple[PrefillUrl, ...],
        BeforeValidator(read_prefill),
        Knob(
            _WORKERS,
            "A prefill worker and its bootstrap port (left out: the worker is asked); repeatable",
            metavar="URL [PORT|none]",
        ),
    ] = ()
    decode: Annotated[_Urls, Knob(_WORKERS, "A decode worker; repeatable", metavar="URL")] = ()
    worker_urls: Annotated[
        _Urls, Knob(_WORKERS, "Workers that do both phases themselves", metavar="URL")
    ] = ()
    connect_timeout_secs: Annotated[
        _Seconds, Knob(_WORKERS, "Longest wait for a connection", unit="seconds")
    ] = 5.0
    upstream_pool_idle_timeout_secs: Annotated[
        _Seconds,
        Knob(
            _WORKERS,
            "How long an idle connection is kept; below the worker's keep-alive (5 s)",
            unit="seconds",
        ),
    ] = 3.0

    policy: Annotated[
        _Policy,
        Knob(
            _ROUTING,
            "Policy of both phases; unless given, decode uses power_of_two",
            metavar="NAME",
        ),
    ] = "cache_aware"
    prefill_policy: Annotated[
        _Policy | None, Knob(_ROUTING, "Policy of prefill, before --policy", metavar="NAME")
    ] = None
    decode_policy: Annotated[
        _Policy | None, Knob(_ROUTING, "Policy of decode, before --policy", metavar="NAME")
    ] = None
    cache_threshold: Annotated[
        float,
        Knob(
            _ROUTING,
            "cache_aware: least share of the prompt known to a worker that counts as a hit",
            unit="share, 0 to 1",
            aliases=("--cache-match-threshold",),
        ),
    ] = Field(0.3, ge=0, le=1)
    balance_abs_threshold: Annotated[
        int,
        Knob(
            _ROUTING,
            "cache_aware: difference of loads above which load decides",
            unit="requests",
            aliases=("--spill-abs-threshold",),
        ),
    ] = Field(64, ge=0)
    balance_rel_threshold: Annotated[
        float,
        Knob(
            _ROUTING,
            "cache_aware: ratio of loads above which load decides",
            unit="ratio, 1 or more",
            aliases=("--spill-rel-threshold",),
        ),
    ] = Field(1.5, ge=1)
    hold_decode_ms: Annotated[
        float,
        Knob(
            _ROUTING,
            "How long a good answer of decode waits for a refusal of prefill",
            unit="milliseconds",
        ),
    ] = Field(10.0, ge=0, le=60_000)

    cb_failure_threshold: Annotated[
        _Count,
        Knob(_FAILURES, "Failures within the window that open a worker's circuit breaker"),
    ] = 10
    cb_success_threshold: Annotated[
        _Count, Knob(_FAILURES, "Good answers that close a half-open breaker")
    ] = 3
    cb_timeout_duration_secs: Annotated[
        _Seconds, Knob(_FAILURES, "How long a breaker stays open", unit="seconds")
    ] = 60.0
    cb_window_duration_secs: Annotated[
        _Seconds, Knob(_FAILURES, "How long a failure counts", unit="seconds")
    ] = 120.0
    disable_circuit_breaker: Annotated[bool, Knob(_FAILURES, "Never open a breaker")] = False
    shutdown_grace_period_secs: Annotated[
        float,
        Knob(
            _FAILURES,
            "How long running requests may go on after a stop signal",
            unit="seconds",
        ),
    ] = Field(180.0, ge=0, le=31_536_000)

    health_check_interval_secs: Annotated[
        _Seconds, Knob(_HEALTH, "Time between two probes", unit="seconds")
    ] = 5.0
    health_check_timeout_secs: Annotated[
        _Seconds, Knob(_HEALTH, "Longest wait for a probe", unit="seconds")
    ] = 5.0
    health_failure_threshold: Annotated[
        _Count, Knob(_HEALTH, "Failed probes in a row that make a worker unhealthy")
    ] = 3
    health_success_threshold: Annotated[
        _Count, Knob(_HEALTH, "Good probes in a row that make it ready again")
    ] = 2
    health_check_endpoint: Annotated[str, Knob(_HEALTH, "Path that is probed", metavar="PATH")] = (
        Field("/health", pattern=r"^/[!-~]*$")
    )
    disable_health_check: Annotated[
        bool, Knob(_HEALTH, "Never probe: a registered worker stays ready")
    ] = False

    log_level: Annotated[
        str,
        BeforeValidator(read_log_level),
        Knob(_OBSERVING, "debug, info, warn or error", metavar="LEVEL"),
    ] = "info"
    log_json: Annotated[bool, Knob(_OBSERVING, "Log one JSON object a line")] = False
    prometheus_host: Annotated[
        str,
        Knob(_OBSERVING, "Address of the metrics listener", metavar="ADDRESS"),
    ] = Field("0.0.0.0", min_length=1)  # noqa: S104 - scraped from outside
    prometheus_port: Annotated[
        _Port | None,
        BeforeValidator(read_optional_port),
        Knob(
            _OBSERVING,
            "Port of the metrics listener; none: no listener. Unless it is set here, a port in "
            "use is no error",
            metavar="PORT",
        ),
    ] = 29000

    @model_validator(mode="before")
    @classmethod
    def _workers_mean_pairs(cls, data: dict[str, Any]) -> dict[str, Any]:
        if any(data.get(f) for f in ("prefill", "decode", "prefill_selector", "decode_selector")):
            return {**data, "pd_disaggregation": True}
        return data

    @model_validator(mode="after")
    def _check_fleet(self) -> Self:
        prefill_urls = [worker.url for worker in self.prefill]
        check_workers(
            {"prefill": prefill_urls, "decode": self.decode, "worker_urls": self.worker_urls}
        )
        return self

    @property
    def prefill_policy_name(self) -> str:
        """The policy that chooses prefill workers."""
        return self.prefill_policy or self.policy

    @property
    def decode_policy_name(self) -> str:
        """The policy that chooses decode workers: ``--policy`` counts only if it was given."""
        given = self.policy if "policy" in self.model_fields_set else "power_of_two"
        return self.decode_policy or given

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: Any, **more: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what the caller gives and nothing else: sources are named in ``load``."""
        del settings_cls, sources
        return (more["init_settings"],)

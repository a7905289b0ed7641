"""What ``/workers`` answers, for ``/openapi.json``: every field with its meaning.

Names are SMG's (1.13) where SMG has the field. The answers themselves are written by
``worker_views``; a test holds the two together.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_UNIX = "Unix seconds"


class _Shown(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LastError(_Shown):
    """What went wrong with the worker last; left out when it did well since."""

    message: str
    at: float = Field(description=_UNIX)


class LastProbe(_Shown):
    """The last probe of its health endpoint; left out before the first."""

    at: float = Field(description=f"When it ended, {_UNIX}")
    ms: float = Field(description="How long it took")
    ok: bool
    error: str | None = Field(default=None, description="Why it failed; left out if it did not")
    vetoed: bool = Field(
        default=False,
        description="It timed out, but the worker sent tokens meanwhile, so it does not count",
    )


class BreakerView(_Shown):
    """The worker's circuit breaker."""

    state: Literal["closed", "open", "half_open"] = Field(
        description="open: no requests; half_open: a few trials"
    )
    failures: int = Field(description="Failures within the window, while it is closed")
    opens_at: int = Field(description="So many open it, if enough of the answers failed")
    trials_from: float | None = Field(
        default=None, description=f"When trials begin, {_UNIX}; only while it is not closed"
    )


class DrainingView(_Shown):
    """How far the removal has come; left out unless `status` is `draining`."""

    since: float = Field(description=_UNIX)
    deadline: float = Field(description=f"When what still runs is ended, {_UNIX}")
    leases_left: int = Field(description="Requests that still run on it")
    kv_held: int = Field(description="Computed prefills whose KV cache decode has yet to fetch")
    calls_open: int = Field(description="Open calls, those that no request waits for included")
    ended: int = Field(description="Calls that the deadline, or force, has ended")


class JobView(_Shown):
    """The change that is under way; left out when there is none."""

    job_type: Literal["AddWorker", "RemoveWorker"]
    worker_url: str
    status: Literal["pending", "processing", "failed"] = Field(
        description="failed: not joined within --worker-startup-timeout-secs; it is tried on"
    )
    message: str | None = Field(description="What it waits for, or why it failed so far")
    timestamp: int = Field(description=f"Of the last news, {_UNIX}")


class HealthView(_Shown):
    """The worker's own probing rules; fields that are left out are as the gateway's."""

    check_interval_secs: float | None = Field(default=None, gt=0, le=31_536_000)
    timeout_secs: float | None = Field(default=None, gt=0, le=31_536_000)
    failure_threshold: int | None = Field(default=None, ge=1, le=1_000_000)
    success_threshold: int | None = Field(default=None, ge=1, le=1_000_000)
    disable_health_check: bool | None = None


class ShownModel(_Shown):
    """A model that the worker serves."""

    id: str
    context_length: int | None = None


class WorkerView(_Shown):
    """A worker as it is now. Its API key is never shown."""

    id: str = Field(description="UUID")
    model_id: str | None = Field(default=None, description="The first of `models`")
    models: list[ShownModel] | None = Field(
        default=None, description="Left out: not known yet, or any"
    )
    url: str
    worker_type: Literal["prefill", "decode", "regular"]
    connection_mode: Literal["http", "grpc"]
    runtime_type: Literal["sglang", "vllm"]
    engine_version: str | None = Field(default=None, description="As the engine says it")
    labels: dict[str, str] | None = Field(
        default=None, description="What the worker reported, and the operator's over it"
    )
    priority: int = Field(description="Kept and shown; no policy reads it")
    cost: float = Field(description="Kept and shown; no policy reads it")
    bootstrap_port: int | None = Field(
        default=None, description="Of a prefill worker: given, or reported by itself"
    )
    dp_size: int | None = Field(default=None, description="Data-parallel ranks, if several")
    dp_base_url: str | None = Field(default=None, description="The URL without its `@rank`")
    dp_rank: int | None = Field(default=None, description="The only rank that gets requests")
    kv_connector: str | None = Field(default=None, description="Of a vLLM worker, as the next")
    kv_role: str | None = None
    kv_engine_id: str | None = None
    kv_block_size: int | None = None
    prefix_view: Literal["exact", "partial", "predicted"] | None = Field(
        default=None,
        description="How well its prefix caches are known, where its KV events are listened to",
    )
    pd_pairing: str | None = Field(
        default=None, description="Engine, KV connector and pairing label; workers pair if equal"
    )
    health: HealthView | None = None
    is_healthy: bool = Field(description="`status` is `ready`")
    status: Literal["pending", "ready", "not_ready", "failed", "draining"] = Field(
        description="pending: joins; not_ready: unhealthy, probed on; failed: joins for too long"
    )
    status_reason: str
    status_since: float = Field(description=_UNIX)
    last_error: LastError | None = None
    last_probe: LastProbe | None = None
    failed_probes: int = Field(description="In a row")
    good_probes: int = Field(description="In a row")
    breaker: BreakerView
    full_until: float | None = Field(
        default=None,
        description=f"It said that it is full (429, 503): used last until then, {_UNIX}",
    )
    load: int = Field(description="Requests of this gateway that are on it: its leases")
    rank_loads: list[int] | None = Field(default=None, description="The same for each rank")
    http2: bool = Field(description="Always false; gRPC is shown by `connection_mode`")
    draining: DrainingView | None = None
    job_status: JobView | None = None


class WorkerStats(_Shown):
    """Counts of the list."""

    prefill_count: int
    decode_count: int
    regular_count: int
    without_prefill: dict[str, int] | None = Field(
        default=None, description="Requests that one worker served alone, by reason"
    )
    handoffs: dict[str, float] | None = Field(
        default=None, description="With vLLM workers: how KV caches changed hands, by kind"
    )


class WorkerList(_Shown):
    """All workers, or those of one model."""

    workers: list[WorkerView]
    total: int
    stats: WorkerStats


class Accepted(_Shown):
    """The change is under way, or done."""

    status: Literal["accepted"]
    worker_id: str
    url: str | None = Field(default=None, description="Of an added worker")
    location: str | None = Field(default=None, description="Of an added worker: where to ask")
    message: str


EXAMPLE: dict[str, Any] = {
    "id": "5b0f7a1e-6a0e-4c8e-9a51-0d2f3e6c7b11",
    "model_id": "demo-model",
    "url": "http://10.0.0.1:30001",
    "models": [{"id": "demo-model"}],
    "worker_type": "prefill",
    "connection_mode": "http",
    "runtime_type": "sglang",
    "engine_version": "0.5.23",
    "labels": {"zone": "a"},
    "priority": 50,
    "cost": 1.0,
    "bootstrap_port": 9001,
    "pd_pairing": "sglang/?/?",
    "is_healthy": True,
    "status": "ready",
    "status_reason": "registered",
    "status_since": 1790000000.0,
    "last_probe": {"at": 1790000042.5, "ms": 3.1, "ok": True},
    "failed_probes": 0,
    "good_probes": 9,
    "breaker": {"state": "closed", "failures": 0, "opens_at": 10},
    "load": 3,
    "http2": False,
}

"""How workers are written and read by ``/workers``: SMG's field names (1.13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.dispatch.handoff_counts import HandoffCounts
from app.errors import InvalidRequest
from app.scheduling.pairing import PAIRING_LABEL
from app.workers.states import State
from app.workers.worker import Engine, Role, Worker, WorkerSpec

STATUS = {
    State.JOINING: "pending",
    State.READY: "ready",
    State.UNHEALTHY: "not_ready",
    State.DRAINING: "draining",
    State.GONE: "failed",
}
EXAMPLE = {
    "id": "5b0f7a1e-6a0e-4c8e-9a51-0d2f3e6c7b11",
    "model_id": "demo-model",
    "url": "http://10.0.0.1:30001",
    "models": [{"id": "demo-model"}],
    "worker_type": "prefill",
    "connection_mode": "http",
    "runtime_type": "sglang",
    "labels": {"zone": "a"},
    "priority": 50,
    "cost": 1.0,
    "bootstrap_port": 9001,
    "pd_pairing": "sglang/?/?",
    "is_healthy": True,
    "status": "ready",
    "status_reason": "answered its probes",
    "circuit": "closed",
    "load": 3,
    "http2": False,
}


class ModelCard(BaseModel):
    """A model that a worker serves; only the id counts."""

    model_config = ConfigDict(extra="ignore")
    id: str = Field(min_length=1)


class NewWorker(BaseModel):
    """What POST /workers takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str = Field(min_length=1, description="http(s)://host:port is SGLang, grpc(s):// is vLLM")
    worker_type: Role = Role.REGULAR
    bootstrap_port: int | None = Field(
        default=None, ge=1, le=65535, description="Of a prefill worker: SGLang's, or Mooncake's"
    )
    models: list[ModelCard] | None = Field(
        default=None, description="Models it serves; left out, the worker is asked"
    )
    model_id: str | None = Field(default=None, min_length=1, description="Short for one model")
    labels: dict[str, str] = {}
    priority: int = 50
    cost: Annotated[float, Field(gt=0, strict=False, allow_inf_nan=False)] = 1.0
    api_key: str | None = Field(default=None, min_length=1, description="The worker's own key")
    runtime_type: Literal["sglang", "vllm", "unspecified"] | None = None
    connection_mode: Literal["http", "grpc"] | None = None

    @field_validator("models", mode="before")
    @classmethod
    def _take_bare_names(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"id": entry} if isinstance(entry, str) else entry for entry in value]
        return value


def to_spec(new: NewWorker) -> WorkerSpec:
    """Returns the worker that a body asks for.

    Raises:
        InvalidRequest: The URL is wrong, or fields contradict each other.
    """
    if new.models is not None and new.model_id is not None:
        raise InvalidRequest("Give either models or model_id, not both.", param="model_id")
    names = [card.id for card in new.models or ()] or ([new.model_id] if new.model_id else [])
    try:
        spec = WorkerSpec(
            url=new.url,
            role=new.worker_type,
            bootstrap_port=new.bootstrap_port,
            model_ids=tuple(dict.fromkeys(names)),
            labels=new.labels,
            priority=new.priority,
            cost=new.cost,
            api_key=new.api_key,
        )
    except ValueError as exc:
        raise InvalidRequest(str(exc), param="url") from exc
    mode = "http" if spec.engine is Engine.SGLANG else "grpc"
    if new.runtime_type not in (None, "unspecified", spec.engine.value):
        raise InvalidRequest(
            f"A {mode}:// worker is {spec.engine.value}, not {new.runtime_type}.",
            param="runtime_type",
        )
    if new.connection_mode not in (None, mode):
        raise InvalidRequest(
            f"A {mode}:// worker is not reached by {new.connection_mode}.", param="connection_mode"
        )
    return spec


def view(worker: Worker) -> dict[str, Any]:
    """Returns a worker as clients see it; its key never is."""
    spec, info = worker.spec, worker.info
    shown: dict[str, Any] = {"id": spec.id}
    if worker.model_ids:
        shown["model_id"] = worker.model_ids[0]
        shown["models"] = [_card(worker, model) for model in worker.model_ids]
    shown |= {
        "url": spec.url,
        "worker_type": spec.role.value,
        "connection_mode": "http" if spec.engine is Engine.SGLANG else "grpc",
        "runtime_type": spec.engine.value,
    }
    if labels := {**info.labels, **spec.labels}:
        shown["labels"] = labels
    shown |= {"priority": spec.priority, "cost": spec.cost}
    if worker.bootstrap_port is not None:
        shown["bootstrap_port"] = worker.bootstrap_port
    if info.dp_size > 1:
        shown["dp_size"] = info.dp_size
    shown |= _kv_view(worker)
    if spec.role is not Role.REGULAR:
        label = spec.labels.get(PAIRING_LABEL)
        shown["pd_pairing"] = f"{spec.engine}/{shown.get('kv_connector', '?')}/{label or '?'}"
    return shown | {
        "is_healthy": worker.state is State.READY,
        "status": STATUS[worker.state],
        "status_reason": worker.state_reason,
        "circuit": str(worker.breaker.state),
        "load": worker.load,
        "http2": False,
    }


def _kv_view(worker: Worker) -> dict[str, Any]:
    """What a vLLM worker said of its KV cache; what it did not say is left out."""
    facts = worker.info.vllm
    if facts is None:
        return {}
    told = {
        "kv_connector": facts.kv_connector,
        "kv_role": facts.kv_role,
        "kv_engine_id": facts.kv_engine_id,
        "kv_block_size": worker.info.page_size,
    }
    return {name: value for name, value in told.items() if value}


def _card(worker: Worker, model: str) -> dict[str, Any]:
    card: dict[str, Any] = {"id": model}
    if worker.info.context_length is not None:
        card["context_length"] = worker.info.context_length
    return card


def list_view(workers: Sequence[Worker], handoffs: HandoffCounts) -> dict[str, Any]:
    """Returns a list of workers with the counts of its roles.

    With vLLM workers, ``stats.handoffs`` counts by kind how this gateway's requests handed their
    KV cache over; ``max_gap_ms`` is the longest time from prefill's end to decode's dispatch.
    """
    roles = [worker.spec.role for worker in workers]
    stats: dict[str, Any] = {f"{role}_count": roles.count(role) for role in Role}
    if any(worker.spec.engine is Engine.VLLM for worker in workers):
        gap_ms = round(handoffs.max_gap_s * 1000, 3)
        stats["handoffs"] = {**handoffs.by_kind, "max_gap_ms": gap_ms}
    return {
        "workers": [view(worker) for worker in workers],
        "total": len(workers),
        "stats": stats,
    }

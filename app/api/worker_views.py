"""How workers are written and read by ``/workers``: SMG's field names (1.13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.api.worker_schemas import HealthView
from app.api.worker_states import Moment, state_view
from app.dispatch.handoff_counts import HandoffCounts
from app.errors import InvalidRequest
from app.scheduling.pairing import PAIRING_LABEL
from app.scheduling.solo import SoloCounts
from app.upstream.clients import WorkerClients
from app.workers.drain import Drain
from app.workers.probe_rules import NO_OVERRIDES, ProbeOverrides
from app.workers.worker import Engine, Role, Worker, WorkerSpec

_RULES = MappingProxyType(
    {
        "check_interval_secs": "interval_s",
        "timeout_secs": "timeout_s",
        "failure_threshold": "failure_threshold",
        "success_threshold": "success_threshold",
        "disable_health_check": "is_disabled",
    }
)
"""SMG's names of a worker's own probing rules, and ours."""
ApiKey = Annotated[
    str,
    Field(pattern=r"^[!-~]+$", max_length=4096, description="The worker's own key; never shown"),
]


class ModelCard(BaseModel):
    """A model that a worker serves; only the id counts."""

    model_config = ConfigDict(extra="ignore")
    id: str = Field(min_length=1)


def bare_names_as_cards(value: Any) -> Any:
    """Returns a list of models in which names stand for cards with that id."""
    if isinstance(value, list):
        return [{"id": entry} if isinstance(entry, str) else entry for entry in value]
    return value


class NewWorker(BaseModel):
    """What POST /workers takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str = Field(
        min_length=1,
        description="http(s)://host:port is SGLang, grpc(s):// is vLLM; @rank at its end: that "
        "data-parallel rank only",
    )
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
    api_key: ApiKey | None = None
    health: HealthView | None = Field(
        default=None, description="How it is probed, where that differs from the gateway's rules"
    )
    runtime_type: Literal["sglang", "vllm", "unspecified"] | None = None
    connection_mode: Literal["http", "grpc"] | None = None

    _bare_names = field_validator("models", mode="before")(bare_names_as_cards)


def to_spec(new: NewWorker) -> WorkerSpec:
    """Returns the worker that a body asks for.

    Raises:
        InvalidRequest: The URL is wrong, or fields contradict each other.
    """
    model_ids = model_names(new.models, new.model_id)
    try:
        spec = WorkerSpec(
            url=new.url,
            role=new.worker_type,
            bootstrap_port=new.bootstrap_port,
            model_ids=model_ids,
            labels=new.labels,
            priority=new.priority,
            cost=new.cost,
            probes=overrides(new.health, NO_OVERRIDES),
            api_key=new.api_key,
        )
    except ValueError as exc:
        raise InvalidRequest(str(exc), param="url") from exc
    check_engine(spec, new.runtime_type, new.connection_mode)
    return spec


def model_names(models: Sequence[ModelCard] | None, model_id: str | None) -> tuple[str, ...]:
    """Returns the models that a body names; none: the worker is asked.

    Raises:
        InvalidRequest: It names them in both ways.
    """
    if models is not None and model_id is not None:
        raise InvalidRequest("Give either models or model_id, not both.", param="model_id")
    names = [card.id for card in models or ()] or ([model_id] if model_id else [])
    return tuple(dict.fromkeys(names))


def check_engine(spec: WorkerSpec, runtime_type: str | None, connection_mode: str | None) -> None:
    """Lets what a body says of the engine pass if the URL says the same.

    Raises:
        InvalidRequest: It contradicts the URL.
    """
    mode = _mode(spec)
    if runtime_type not in (None, "unspecified", spec.engine.value):
        raise InvalidRequest(
            f"A {mode}:// worker is {spec.engine.value}, not {runtime_type}.",
            param="runtime_type",
        )
    if connection_mode not in (None, mode):
        raise InvalidRequest(
            f"A {mode}:// worker is not reached by {connection_mode}.", param="connection_mode"
        )


def overrides(health: HealthView | None, known: ProbeOverrides) -> ProbeOverrides:
    """Returns a worker's own probing rules, with those that a body gives put over the known."""
    if health is None:
        return known
    given = {name: getattr(health, name) for name in health.model_fields_set}
    return replace(known, **{_RULES[name]: value for name, value in given.items()})


def _mode(spec: WorkerSpec) -> str:
    return "http" if spec.engine is Engine.SGLANG else "grpc"


def view(worker: Worker, moment: Moment, drain: Drain, clients: WorkerClients) -> dict[str, Any]:
    """Returns a worker as clients see it; its key never is.

    Args:
        worker: The worker.
        moment: Now.
        drain: Tells how far its removal has come.
        clients: Tells what is open on it.
    """
    spec, info = worker.spec, worker.info
    shown: dict[str, Any] = {"id": spec.id}
    if worker.model_ids:
        shown["model_id"] = worker.model_ids[0]
        shown["models"] = [_card(worker, model) for model in worker.model_ids]
    shown |= {
        "url": spec.address,
        "worker_type": spec.role.value,
        "connection_mode": _mode(spec),
        "runtime_type": spec.engine.value,
    }
    if info.version is not None:
        shown["engine_version"] = info.version
    if labels := {**info.labels, **spec.labels}:
        shown["labels"] = labels
    shown |= {"priority": spec.priority, "cost": spec.cost}
    if worker.bootstrap_port is not None:
        shown["bootstrap_port"] = worker.bootstrap_port
    if info.dp_size > 1:
        shown["dp_size"] = info.dp_size
    if spec.dp_rank is not None:
        shown |= {"dp_base_url": spec.url, "dp_rank": spec.dp_rank}
    shown |= _kv_view(worker)
    if worker.prefix_view:
        shown["prefix_view"] = worker.prefix_view
    if spec.role is not Role.REGULAR:
        label = spec.labels.get(PAIRING_LABEL)
        shown["pd_pairing"] = f"{spec.engine}/{shown.get('kv_connector', '?')}/{label or '?'}"
    own = {name: getattr(spec.probes, rule) for name, rule in _RULES.items()}
    if own := {name: value for name, value in own.items() if value is not None}:
        shown["health"] = own
    shown |= state_view(worker, moment, drain.progress(worker), clients.n_running(worker))
    return shown | {"http2": False}


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


def list_view(
    workers: Sequence[dict[str, Any]], handoffs: HandoffCounts, solos: SoloCounts
) -> dict[str, Any]:
    """Returns a list of views of workers with the counts of its roles.

    With vLLM workers, ``stats.handoffs`` counts by kind how this gateway's requests handed their
    KV cache over; ``max_gap_ms`` is the longest time from prefill's end to decode's dispatch.
    ``stats.without_prefill`` counts requests that one worker served alone, by reason.
    """
    roles = [worker["worker_type"] for worker in workers]
    stats: dict[str, Any] = {f"{role}_count": roles.count(role) for role in Role}
    if any(worker["runtime_type"] == Engine.VLLM for worker in workers):
        gap_ms = round(handoffs.max_gap_s * 1000, 3)
        stats["handoffs"] = {**handoffs.by_kind, "max_gap_ms": gap_ms}
    if solos.by_why:
        stats["without_prefill"] = {str(why): n for why, n in solos.by_why.items()}
    return {"workers": list(workers), "total": len(workers), "stats": stats}

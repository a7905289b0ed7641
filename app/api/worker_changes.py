"""What PATCH and PUT of a worker take, and what they make of its spec."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from app.api.problem import invalid_request
from app.api.worker_schemas import HealthView
from app.api.worker_views import (
    ApiKey,
    ModelCard,
    bare_names_as_cards,
    check_engine,
    model_names,
    overrides,
)
from app.errors import InvalidRequest
from app.workers.probe_rules import NO_OVERRIDES
from app.workers.urls import url_identity
from app.workers.worker import Role, WorkerSpec

_FIXED = frozenset({"id", "url", "worker_type", "runtime_type", "connection_mode"})


class _Change(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    priority: int = 50
    cost: Annotated[float, Field(gt=0, strict=False, allow_inf_nan=False)] = 1.0
    api_key: ApiKey | None = Field(default=None, description="null: it needs none")
    bootstrap_port: int | None = Field(
        default=None, ge=1, le=65535, description="Of a prefill worker; null: ask it"
    )
    models: list[ModelCard] | None = Field(default=None, description="null: ask the worker")
    model_id: str | None = Field(default=None, min_length=1, description="Short for one model")

    _bare_names = field_validator("models", mode="before")(bare_names_as_cards)


class WorkerPatch(_Change):
    """What PATCH /workers/{id} takes: the given fields change, at once, and nothing else."""

    labels: dict[str, str | None] | None = Field(
        default=None, description="Put over the labels it has; null takes one, or all, away"
    )
    health: HealthView | None = Field(
        default=None, description="Put over its own probing rules; null: as the gateway's"
    )


class WorkerPut(_Change):
    """What PUT /workers/{id} takes: given fields are replaced whole, others keep their values."""

    url: str | None = Field(default=None, description="As it is: a worker keeps its URL")
    worker_type: Role | None = Field(default=None, description="As it is")
    runtime_type: str | None = Field(default=None, description="As it is")
    connection_mode: str | None = Field(default=None, description="As it is")
    labels: dict[str, str] = {}
    health: HealthView | None = None


def patched(spec: WorkerSpec, body: bytes) -> WorkerSpec:
    """Returns the spec that a PATCH asks for.

    Raises:
        InvalidRequest: A field is unknown, wrong, or cannot be changed; it is named.
    """
    try:
        patch = WorkerPatch.model_validate_json(body)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        for error in errors:
            if error["type"] == "extra_forbidden" and error["loc"][0] in _FIXED:
                raise _not_to_be_changed(str(error["loc"][0])) from None
        raise invalid_request(errors) from exc
    given = patch.model_fields_set
    changes = _changes(spec, patch)
    if "labels" in given:
        merged = {**spec.labels, **patch.labels} if patch.labels is not None else {}
        changes["labels"] = {name: value for name, value in merged.items() if value is not None}
    if "health" in given:
        own = NO_OVERRIDES if patch.health is None else spec.probes
        changes["probes"] = overrides(patch.health, own)
    return replace(spec, **changes)


def replaced(spec: WorkerSpec, body: bytes) -> WorkerSpec:
    """Returns the spec that a PUT asks for.

    Raises:
        InvalidRequest: A field is unknown or wrong, or names another worker; it is named.
    """
    try:
        put = WorkerPut.model_validate_json(body)
    except ValidationError as exc:
        raise invalid_request(exc.errors(include_url=False)) from exc
    given = put.model_fields_set
    if put.url is not None and not _is_same_url(put.url, spec.address):
        raise _not_to_be_changed("url")
    if put.worker_type is not None and put.worker_type is not spec.role:
        raise _not_to_be_changed("worker_type")
    check_engine(spec, put.runtime_type, put.connection_mode)
    changes = _changes(spec, put)
    if "labels" in given:
        changes["labels"] = put.labels
    if "health" in given:
        changes["probes"] = overrides(put.health, NO_OVERRIDES)
    return replace(spec, **changes)


def _changes(spec: WorkerSpec, change: _Change) -> dict[str, Any]:
    """The fields that PATCH and PUT treat alike."""
    given = change.model_fields_set
    found: dict[str, Any] = {
        name: getattr(change, name) for name in ("priority", "cost", "api_key") if name in given
    }
    if "bootstrap_port" in given:
        if change.bootstrap_port is not None and spec.role is not Role.PREFILL:
            raise InvalidRequest(
                f"A {spec.role} worker has no bootstrap port.", param="bootstrap_port"
            )
        found["bootstrap_port"] = change.bootstrap_port
    if not given.isdisjoint({"models", "model_id"}):
        found["model_ids"] = model_names(change.models, change.model_id)
    return found


def _is_same_url(one: str, other: str) -> bool:
    try:
        return url_identity(one) == url_identity(other)
    except ValueError as exc:
        raise InvalidRequest(str(exc), param="url") from exc


def _not_to_be_changed(field: str) -> InvalidRequest:
    return InvalidRequest(
        f"The field {field!r} of a worker cannot be changed; remove the worker and add another.",
        code="unsupported_parameter",
        param=field,
    )

"""Workers as /workers reads and writes them."""

from __future__ import annotations

import orjson
import pytest
from pydantic import ValidationError

from app.api.problem import invalid_request
from app.api.worker_views import NewWorker, list_view, to_spec, view
from app.dispatch.handoff_counts import HandoffCounts
from app.errors import InvalidRequest, RequestError
from app.workers.registry import Registry
from app.workers.states import State
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Engine, Role, WorkerInfo, WorkerSpec


def _read(**fields: object) -> NewWorker:
    return NewWorker.model_validate_json(orjson.dumps(fields))


def _failure(**fields: object) -> RequestError:
    try:
        to_spec(_read(**fields))
    except ValidationError as exc:
        return invalid_request(exc.errors(include_url=False))
    except RequestError as exc:
        return exc
    raise AssertionError("accepted")


def test_full_body_becomes_a_spec() -> None:
    """Every field of the body is in the spec, the URL normalised."""
    spec = to_spec(
        _read(
            url="HTTP://P1:8000/",
            worker_type="prefill",
            bootstrap_port=9001,
            models=[{"id": "m", "model_type": ["chat"]}, "n"],
            labels={"zone": "a"},
            priority=7,
            cost=2,
            api_key="secret",
            runtime_type="sglang",
        )
    )
    assert (spec.url, spec.role, spec.bootstrap_port) == ("http://p1:8000", Role.PREFILL, 9001)
    assert (spec.model_ids, dict(spec.labels)) == (("m", "n"), {"zone": "a"})
    assert (spec.priority, spec.cost, spec.api_key) == (7, 2.0, "secret")


def test_only_the_url_is_needed() -> None:
    """A regular worker of default priority and cost comes from a bare URL."""
    spec = to_spec(_read(url="http://w:1"))
    assert (spec.role, spec.priority, spec.cost, spec.model_ids) == (Role.REGULAR, 50, 1.0, ())


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "url", "missing_required_parameter"),
        ({"url": "w:1"}, "url", "invalid_request"),
        ({"url": "ftp://w"}, "url", "invalid_request"),
        ({"url": 5}, "url", "invalid_request"),
        ({"url": "http://w", "role": "prefill"}, "role", "unknown_parameter"),
        ({"url": "http://w", "worker_type": "encode"}, "worker_type", "invalid_request"),
        ({"url": "http://w", "bootstrap_port": 0}, "bootstrap_port", "invalid_request"),
        ({"url": "http://w", "bootstrap_port": "9"}, "bootstrap_port", "invalid_request"),
        ({"url": "http://w", "labels": {"a": 1}}, "labels.a", "invalid_request"),
        ({"url": "http://w", "cost": 0}, "cost", "invalid_request"),
        ({"url": "http://w", "models": [{}]}, "models.0.id", "missing_required_parameter"),
        ({"url": "http://w", "runtime_type": "vllm"}, "runtime_type", "invalid_request"),
        ({"url": "http://w", "connection_mode": "grpc"}, "connection_mode", "invalid_request"),
        ({"url": "http://w", "models": ["a"], "model_id": "a"}, "model_id", "invalid_request"),
    ],
)
def test_wrong_field_is_named(fields: dict[str, object], param: str, code: str) -> None:
    """400 with the field at fault as param."""
    failure = _failure(**fields)
    assert isinstance(failure, InvalidRequest)
    assert (failure.param, failure.code) == (param, code)


def test_vllm_worker_is_told_by_its_url() -> None:
    """A grpc URL is a vLLM worker, with the bootstrap port of Mooncake; sglang it cannot be."""
    spec = to_spec(
        _read(
            url="grpc://w:1",
            worker_type="prefill",
            bootstrap_port=8998,
            runtime_type="vllm",
            connection_mode="grpc",
        )
    )
    assert (spec.engine, spec.url, spec.bootstrap_port) == (Engine.VLLM, "grpc://w:1", 8998)
    failure = _failure(url="grpcs://w:1", runtime_type="sglang")
    assert (failure.param, failure.status) == ("runtime_type", 400)


def test_vllm_worker_shows_its_kv_connector() -> None:
    """Connector, role, engine id and block size under SMG's names, and the count of handoffs."""
    registry = Registry()
    spec = WorkerSpec(url="grpc://p:1", role=Role.PREFILL, labels={"pairing": "blue"})
    worker = registry.add(spec)
    shown = view(worker)
    assert not [name for name in shown if name.startswith("kv_")]
    assert shown["pd_pairing"] == "vllm/?/blue"
    facts = VllmFacts(kv_connector="NixlConnector", kv_role="kv_producer", kv_engine_id="e1")
    registry.set_info(worker, WorkerInfo(model_ids=("m",), dp_size=2, page_size=16, vllm=facts))
    shown = view(worker)
    told = [shown[f"kv_{name}"] for name in ("connector", "role", "engine_id", "block_size")]
    assert told == ["NixlConnector", "kv_producer", "e1", 16]
    assert (shown["connection_mode"], shown["runtime_type"], shown["dp_size"]) == (
        "grpc",
        "vllm",
        2,
    )
    assert shown["pd_pairing"] == "vllm/NixlConnector/blue"
    counts = HandoffCounts()
    counts.add("nixl")
    counts.add("nixl")
    counts.note_gap(0.0015)
    stats = list_view(registry.workers(), counts)["stats"]
    assert stats["handoffs"] == {"nixl": 2, "max_gap_ms": 1.5}


def test_view_has_smg_names_and_no_key() -> None:
    """A ready prefill worker shows what it reported, and never its key."""
    registry = Registry()
    spec = WorkerSpec(
        url="http://p:1", role=Role.PREFILL, labels={"zone": "a"}, api_key="top-secret"
    )
    worker = registry.add(spec)
    registry.set_info(
        worker,
        WorkerInfo(model_ids=("m",), dp_size=2, bootstrap_port=9001, labels={"version": "0.5.23"}),
    )
    registry.set_state(worker, State.READY, "registered")
    shown = view(worker)
    assert (shown["model_id"], shown["models"]) == ("m", [{"id": "m"}])
    assert (shown["worker_type"], shown["connection_mode"]) == ("prefill", "http")
    assert (shown["runtime_type"], shown["pd_pairing"]) == ("sglang", "sglang/?/?")
    assert (shown["bootstrap_port"], shown["dp_size"]) == (9001, 2)
    assert shown["labels"] == {"version": "0.5.23", "zone": "a"}
    assert (shown["is_healthy"], shown["status"], shown["load"]) == (True, "ready", 0)
    assert shown["circuit"] == "closed"
    assert "top-secret" not in orjson.dumps(shown).decode()


def test_pending_worker_leaves_out_what_is_unknown() -> None:
    """No model, labels or bootstrap port before the worker was asked."""
    worker = Registry().add(WorkerSpec(url="http://d:1", role=Role.DECODE))
    shown = view(worker)
    assert shown["status"] == "pending"
    assert not {"model_id", "models", "labels", "bootstrap_port", "dp_size"} & shown.keys()


def test_list_counts_roles() -> None:
    """One prefill, two decode, no regular worker in stats."""
    registry = Registry()
    registry.add(WorkerSpec(url="http://p:1", role=Role.PREFILL))
    registry.add(WorkerSpec(url="http://d:1", role=Role.DECODE))
    registry.add(WorkerSpec(url="http://d:2", role=Role.DECODE))
    shown = list_view(registry.workers(), HandoffCounts())
    assert shown["stats"] == {"prefill_count": 1, "decode_count": 2, "regular_count": 0}
    assert shown["total"] == 3

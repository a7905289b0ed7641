"""Workers as /workers reads and writes them."""

from __future__ import annotations

import orjson
import pytest
from pydantic import ValidationError

from app.api.problem import invalid_request
from app.api.worker_views import NewWorker, to_spec
from app.errors import InvalidRequest, RequestError
from app.workers.probe_rules import ProbeOverrides
from app.workers.worker import Engine, Role


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
            health={"check_interval_secs": 2, "disable_health_check": True},
            runtime_type="sglang",
        )
    )
    assert (spec.url, spec.role, spec.bootstrap_port) == ("http://p1:8000", Role.PREFILL, 9001)
    assert (spec.model_ids, dict(spec.labels)) == (("m", "n"), {"zone": "a"})
    assert (spec.priority, spec.cost, spec.api_key) == (7, 2.0, "secret")
    assert spec.probes == ProbeOverrides(interval_s=2, is_disabled=True)


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
        ({"url": "http://w", "api_key": "a\r\nb"}, "api_key", "invalid_request"),
        ({"url": "http://w", "api_key": "k\u00e9y"}, "api_key", "invalid_request"),
        (
            {"url": "http://w", "health": {"timeout_secs": 0}},
            "health.timeout_secs",
            "invalid_request",
        ),
        (
            {"url": "http://w", "health": {"drain_settle_secs": 1}},
            "health.drain_settle_secs",
            "unknown_parameter",
        ),
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

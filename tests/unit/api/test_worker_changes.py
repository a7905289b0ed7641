"""What PATCH and PUT make of a worker."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.api.worker_changes import patched, replaced
from app.errors import InvalidRequest
from app.workers.probe_rules import NO_OVERRIDES, ProbeOverrides
from app.workers.worker import Role, WorkerSpec

SPEC = WorkerSpec(
    "http://p:8000",
    Role.PREFILL,
    bootstrap_port=9001,
    model_ids=("m",),
    labels={"zone": "a", "old": "1"},
    priority=7,
    cost=2.0,
    probes=ProbeOverrides(interval_s=1.0, failure_threshold=9),
    api_key="secret",
)
DECODE = WorkerSpec("grpc://d:8000", Role.DECODE)


def _differs(spec: WorkerSpec, new: WorkerSpec) -> dict[str, Any]:
    names = WorkerSpec.__dataclass_fields__
    return {n: getattr(new, n) for n in names if getattr(new, n) != getattr(spec, n)}


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({}, {}),
        ({"priority": 1, "cost": 3}, {"priority": 1, "cost": 3.0}),
        ({"labels": {"zone": "b", "old": None}}, {"labels": {"zone": "b"}}),
        ({"labels": {"new": "x"}}, {"labels": {"zone": "a", "old": "1", "new": "x"}}),
        ({"labels": None}, {"labels": {}}),
        ({"api_key": "other"}, {"api_key": "other"}),
        ({"api_key": None}, {"api_key": None}),
        ({"bootstrap_port": 9002}, {"bootstrap_port": 9002}),
        ({"bootstrap_port": None}, {"bootstrap_port": None}),
        ({"models": ["x", {"id": "y"}, "x"]}, {"model_ids": ("x", "y")}),
        ({"models": None}, {"model_ids": ()}),
        ({"model_id": "x"}, {"model_ids": ("x",)}),
        ({"health": None}, {"probes": NO_OVERRIDES}),
        (
            {"health": {"timeout_secs": 2, "failure_threshold": None}},
            {"probes": ProbeOverrides(interval_s=1.0, timeout_s=2.0)},
        ),
        (
            {"health": {"disable_health_check": True}},
            {"probes": ProbeOverrides(1.0, None, 9, None, True)},
        ),
    ],
)
def test_patch_changes_what_is_given(fields: dict[str, Any], changed: dict[str, Any]) -> None:
    """The given fields and no others."""
    assert _differs(SPEC, patched(SPEC, orjson.dumps(fields))) == changed


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({}, {}),
        ({"url": "HTTP://P:8000/", "worker_type": "prefill", "runtime_type": "sglang"}, {}),
        ({"labels": {"zone": "b"}}, {"labels": {"zone": "b"}}),
        ({"priority": 1}, {"priority": 1}),
        ({"api_key": None, "models": None}, {"api_key": None, "model_ids": ()}),
        ({"health": {"timeout_secs": 2}}, {"probes": ProbeOverrides(timeout_s=2.0)}),
        ({"health": None}, {"probes": NO_OVERRIDES}),
    ],
)
def test_put_replaces_what_is_given(fields: dict[str, Any], changed: dict[str, Any]) -> None:
    """Given fields are replaced whole; what is left out stays, the role above all."""
    assert _differs(SPEC, replaced(SPEC, orjson.dumps(fields))) == changed


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"typo": 1}, "typo", "unknown_parameter"),
        ({"resilience": {}}, "resilience", "unknown_parameter"),
        ({"health": {"drain_settle_secs": 1}}, "health.drain_settle_secs", "unknown_parameter"),
        ({"health": {"timeout_secs": 0}}, "health.timeout_secs", "invalid_request"),
        ({"priority": "high"}, "priority", "invalid_request"),
        ({"priority": None}, "priority", "invalid_request"),
        ({"cost": 0}, "cost", "invalid_request"),
        ({"labels": {"a": 1}}, "labels.a", "invalid_request"),
        ({"api_key": ""}, "api_key", "invalid_request"),
        ({"api_key": "a\r\nb: c"}, "api_key", "invalid_request"),
        ({"bootstrap_port": 0}, "bootstrap_port", "invalid_request"),
        ({"models": ["a"], "model_id": "a"}, "model_id", "invalid_request"),
    ],
)
def test_wrong_field_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    """By PATCH and PUT alike, and without the value, which may be a key."""
    for change in (patched, replaced):
        with pytest.raises(InvalidRequest) as caught:
            change(SPEC, orjson.dumps(fields))
        assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize("field", ["id", "url", "worker_type", "runtime_type", "connection_mode"])
def test_patch_does_not_make_another_worker(field: str) -> None:
    """Refused by name, as what it is."""
    with pytest.raises(InvalidRequest, match="cannot be changed") as caught:
        patched(SPEC, orjson.dumps({field: "x"}))
    assert (caught.value.param, caught.value.code) == (field, "unsupported_parameter")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"url": "http://p:8001"}, "url"),
        ({"url": "nothing"}, "url"),
        ({"worker_type": "decode"}, "worker_type"),
        ({"runtime_type": "vllm"}, "runtime_type"),
        ({"connection_mode": "grpc"}, "connection_mode"),
    ],
)
def test_put_does_not_make_another_worker(fields: dict[str, Any], param: str) -> None:
    """Refused if it says anything but what the worker is."""
    with pytest.raises(InvalidRequest) as caught:
        replaced(SPEC, orjson.dumps(fields))
    assert caught.value.param == param


def test_decode_has_no_bootstrap_port() -> None:
    """It would have no effect, so it is refused; taking it away is not."""
    for change in (patched, replaced):
        with pytest.raises(InvalidRequest, match="decode worker has no bootstrap port"):
            change(DECODE, b'{"bootstrap_port": 1}')
        assert change(DECODE, b'{"bootstrap_port": null}') == DECODE


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null"])
def test_body_is_an_object(body: bytes) -> None:
    """400 for anything else."""
    for change in (patched, replaced):
        with pytest.raises(InvalidRequest):
            change(SPEC, body)

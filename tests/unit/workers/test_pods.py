"""What a pod makes: roles, ports, models, places."""

from __future__ import annotations

from typing import Any

import pytest

from app.workers.pods import PodRules, read_pod, role_of, workers_of
from app.workers.worker import Role
from tests.flow.pod_api import pod

RULES = PodRules(
    {Role.PREFILL: {"app": "llm", "role": "p"}, Role.DECODE: {"app": "llm", "role": "d"}}, 8000
)


def made(rules: PodRules = RULES, role: str = "p", **more: Any) -> list[tuple[str, int | None]]:
    """Place and bootstrap port of each worker of a pod."""
    ip = more.pop("ip", "10.0.0.7")
    found = pod("one", ip, labels={"app": "llm", "role": role}, **more)
    return [(w.place, w.bootstrap_port) for w in workers_of(read_pod(found), rules)]


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, [("10.0.0.7:8000", None)]),
        ({"sglang.ai/bootstrap-port": "9001"}, [("10.0.0.7:8000", 9001)]),
        ({"vllm.ai/bootstrap-port": "9002"}, [("10.0.0.7:8000", 9002)]),
        (
            {"vllm.ai/bootstrap-port": "9002", "tandem-gateway/bootstrap-port": "9003"},
            [("10.0.0.7:8000", 9003)],
        ),
        ({"sglang.ai/bootstrap-port": "many"}, [("10.0.0.7:8000", None)]),
        (
            {"smg.ai/worker-ports": "81, 82", "sglang.ai/bootstrap-port": "91,92"},
            [("10.0.0.7:81", 91), ("10.0.0.7:82", 92)],
        ),
        (
            {"tandem-gateway/worker-ports": "81,82", "sglang.ai/bootstrap-port": "91"},
            [("10.0.0.7:81", 91), ("10.0.0.7:82", 91)],
        ),
        (
            {"smg.ai/worker-ports": "81,82", "sglang.ai/bootstrap-port": "91,92,93"},
            [("10.0.0.7:81", None), ("10.0.0.7:82", None)],
        ),
        ({"smg.ai/worker-ports": "81,high"}, [("10.0.0.7:8000", None)]),
        ({"smg.ai/worker-ports": "81,70000"}, [("10.0.0.7:8000", None)]),
    ],
)
def test_ports(annotations: dict[str, str], expected: list[tuple[str, int | None]]) -> None:
    assert made(annotations=annotations) == expected


def test_decode_pods_have_no_bootstrap_port() -> None:
    annotations = {"sglang.ai/bootstrap-port": "9001"}
    assert made(role="d", annotations=annotations) == [("10.0.0.7:8000", None)]


@pytest.mark.parametrize("ip", ["fd00::7", "FD00:0::7"])
def test_ipv6(ip: str) -> None:
    assert made(ip=ip) == [("[fd00::7]:8000", None)]


@pytest.mark.parametrize(
    "more", [{"role": "other"}, {"ip": ""}, {"phase": "Succeeded"}, {"phase": "Failed"}]
)
def test_pods_that_make_no_worker(more: dict[str, Any]) -> None:
    assert made(**more) == []


def test_a_pod_that_is_being_deleted_makes_no_worker() -> None:
    found = pod("one", "10.0.0.7", labels={"app": "llm", "role": "p"})
    found["metadata"] |= {"deletionTimestamp": "now", "deletionGracePeriodSeconds": 30}
    read = read_pod(found)
    assert (read.grace_s, workers_of(read, RULES)) == (30.0, ())


@pytest.mark.parametrize(
    ("ready", "phase", "expected"),
    [(True, "Running", True), (False, "Running", False), (True, "Pending", False)],
)
def test_ready(ready: bool, phase: str, expected: bool) -> None:
    assert read_pod(pod("one", ready=ready, phase=phase)).is_ready is expected


def test_the_first_role_that_matches_counts() -> None:
    rules = PodRules({Role.PREFILL: {"app": "llm"}, Role.DECODE: {"app": "llm", "role": "d"}}, 80)
    assert role_of(read_pod(pod("one", labels={"app": "llm", "role": "d"})), rules) is Role.PREFILL


def test_what_selectors_have_in_common_is_asked_of_the_server() -> None:
    assert RULES.common_selector() == "app=llm"
    alone = PodRules({Role.PREFILL: {"role": "p", "app": "llm"}}, 80)
    assert alone.common_selector() == "app=llm,role=p"
    apart = PodRules({Role.PREFILL: {"role": "p"}, Role.DECODE: {"role": "d"}}, 80)
    assert apart.common_selector() == ""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", ()),
        ("namespace", ("llm",)),
        ("label:model", ("from-label",)),
        ("annotation:model", ("from-annotation",)),
        ("label:missing", ()),
    ],
)
def test_model(source: str, expected: tuple[str, ...]) -> None:
    found = pod(
        "one",
        labels={"app": "llm", "role": "p", "model": "from-label"},
        annotations={"model": "from-annotation"},
    )
    rules = PodRules(RULES.selectors, 80, source)
    (worker,) = workers_of(read_pod(found), rules)
    assert worker.model_ids == expected

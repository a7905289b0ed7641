"""What the doctor finds wrong with one worker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.doctor.finding import merged
from app.doctor.reading import Premises, Reading
from app.doctor.worker_checks import check_worker
from app.upstream.get_json import JsonAnswer
from app.upstream.keep_alive import KeepAlive
from app.workers.probe_rules import ProbeResult
from app.workers.worker import Role
from tests.unit.doctor.patients import PREMISES, codes, sglang, vllm, with_info, with_spec

DOWN = ProbeResult(False, "No connection: refused.", is_connect_failure=True)
LATE = ProbeResult(False, "/health gave no answer in 5 s.", is_silence=True)


def found(reading: Reading, premises: Premises = PREMISES) -> list[tuple[str, str]]:
    """What is found wrong with it."""
    return codes(merged(check_worker(reading, premises)))


@pytest.mark.parametrize(
    "reading",
    [
        sglang(),
        sglang(Role.DECODE),
        sglang(Role.DECODE, disable_radix_cache=True, enable_cache_report=False),
        with_spec(sglang(), bootstrap_port=9001),
        vllm(),
        vllm(Role.DECODE),
        vllm(connector="MooncakeConnector"),
        vllm(Role.DECODE, "MooncakeConnector"),
    ],
)
def test_healthy_workers(reading: Reading) -> None:
    """Nothing; decode needs no prefix cache and reports no cached tokens."""
    assert found(reading) == []


SAID: list[tuple[dict[str, Any], str, str]] = [
    ({"disaggregation_transfer_backend": "fake"}, "error", "fake_transfer"),
    ({"is_embedding": True}, "error", "generates_nothing"),
    ({"skip_tokenizer_init": True}, "error", "no_tokenizer"),
    ({"schedule_policy": "lof"}, "note", "schedule_policy"),
    ({"disable_overlap_schedule": True}, "note", "no_overlap_schedule"),
    ({"disable_radix_cache": True}, "warning", "no_prefix_cache"),
    ({"enable_cache_report": False}, "note", "no_cache_report"),
    ({"dp_size": 2, "load_balance_method": "round_robin"}, "warning", "rank_not_by_room"),
    ({"disaggregation_bootstrap_port": None}, "error", "no_bootstrap_port"),
    ({"disaggregation_mode": "decode"}, "error", "wrong_role"),
    ({"disaggregation_mode": "null"}, "error", "wrong_role"),
    ({"max_total_num_tokens": 99_999}, "warning", "kv_cache_below_context"),
]


@pytest.mark.parametrize(("said", "severity", "code"), SAID)
def test_what_sglang_says(said: dict[str, Any], severity: str, code: str) -> None:
    """One thing wrong, one finding."""
    reading = sglang(**said)
    if code == "wrong_role":
        # A worker of another role reports no bootstrap port of its own.
        reading = with_info(reading, bootstrap_port=9001)
    assert found(reading) == [(severity, code)]


def test_a_dp_worker_with_one_rank_may_balance_as_it_likes() -> None:
    """With one rank there is nothing to choose."""
    assert found(sglang(load_balance_method="round_robin")) == []


@pytest.mark.parametrize(
    ("answer", "severity", "code"),
    [
        (JsonAnswer(error="refused", is_reachable=False), "error", "bootstrap_unreachable"),
        (JsonAnswer(503), "warning", "bootstrap_not_ready"),
        (JsonAnswer(404, {}), "error", "bootstrap_strange"),
        (JsonAnswer(200, None), "error", "bootstrap_strange"),
        (JsonAnswer(200, {"name": "another server"}), "error", "bootstrap_strange"),
        (JsonAnswer(error="The worker sent nothing."), "error", "bootstrap_strange"),
        (
            JsonAnswer(200, {"attn_tp_size": 8, "prefill_http_port": 8002}),
            "error",
            "bootstrap_of_another",
        ),
    ],
)
def test_bootstrap_server_of_sglang(answer: JsonAnswer, severity: str, code: str) -> None:
    """Nobody there, not ready, something else, another worker's."""
    assert found(replace(sglang(), bootstrap=answer)) == [(severity, code)]


def test_bootstrap_port_of_another_name() -> None:
    """What the gateway was told is not where the worker listens."""
    reading = with_spec(sglang(), bootstrap_port=9002)
    assert found(reading) == [("error", "bootstrap_port_differs")]


@pytest.mark.parametrize(
    ("seen", "premises", "expected"),
    [
        (KeepAlive(2.96, is_closed=True), PREMISES, [("error", "keep_alive_too_short")]),
        (KeepAlive(3.5, is_closed=True), PREMISES, [("warning", "keep_alive_close")]),
        (KeepAlive(4.0, is_closed=False), PREMISES, []),
        (KeepAlive(20.0, is_closed=False), Premises(idle_s=60), [("note", "keep_alive_not_seen")]),
        (KeepAlive(5.0, is_closed=True), Premises(idle_s=60), [("error", "keep_alive_too_short")]),
        (None, PREMISES, []),
    ],
)
def test_keep_alive(seen: KeepAlive | None, premises: Premises, expected: list[Any]) -> None:
    """Against the gateway's own idle time, with a second between."""
    assert found(replace(sglang(Role.DECODE), keep_alive=seen), premises) == expected


@pytest.mark.parametrize(
    ("facts", "severity", "code"),
    [
        ({"kv_connector": ""}, "error", "no_connector"),
        ({"kv_connector": "LMCacheConnector"}, "warning", "unknown_connector"),
        ({"kv_connector": "MooncakeConnector", "kv_engine_id": ""}, "error", "no_engine_id"),
        ({"kv_role": "kv_both"}, "note", "kv_both"),
        ({"kv_role": "kv_consumer"}, "error", "wrong_role"),
        ({"is_generation": False}, "error", "wrong_role"),
    ],
)
def test_what_vllm_says(facts: dict[str, Any], severity: str, code: str) -> None:
    """One thing wrong, one finding."""
    assert found(vllm(**facts)) == [(severity, code)]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (JsonAnswer(200, {"0": {"engine_id": "e1_dp0"}}), []),
        (JsonAnswer(error="refused", is_reachable=False), "bootstrap_unreachable"),
        (JsonAnswer(404, {}), "bootstrap_strange"),
        (JsonAnswer(200, {"0": {"engine_id": "e10"}}), "bootstrap_of_another"),
    ],
)
def test_bootstrap_server_of_mooncake(answer: JsonAnswer, expected: Any) -> None:
    """Decode looks the engine up there, so it must be known there."""
    reading = replace(vllm(connector="MooncakeConnector"), bootstrap=answer)
    assert found(reading) == ([("error", expected)] if expected else [])


def test_capacity_of_ranks() -> None:
    """The counters of vLLM are of all ranks together; a request lives on one."""
    reading = with_info(vllm(), dp_size=4, max_total_tokens=399_999)
    assert found(reading) == [("warning", "kv_cache_below_context")]
    assert found(with_info(vllm(), dp_size=4, max_total_tokens=400_000)) == []


def test_tokenizer_that_is_not_sent() -> None:
    """The gateway has to be told where it is."""
    reading = replace(vllm(tokenizer_path="org/m"), faults={"tokenizer": "No files."})
    assert found(reading) == [("warning", "no_tokenizer")]
    (finding,) = check_worker(reading, PREMISES)
    assert "No files. The gateway would look for org/m on its own disk" in finding.problem


@pytest.mark.parametrize(
    "change",
    [
        {"loads": ()},
        {"loads": ({"num_running_reqs": 1},)},
        {"loads": (dict.fromkeys(vllm().loads[0], 0),)},
        {"loads": (), "faults": {"loads": "It has none."}},
    ],
)
def test_load_counters(change: dict[str, Any]) -> None:
    """Missing, half there, or all zero."""
    assert found(replace(vllm(), **change)) == [("warning", "no_load_counters")]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"probe": DOWN, "info": None}, [("error", "unreachable")]),
        ({"probe": LATE}, [("error", "silent")]),
        ({"probe": ProbeResult(False, "/health answered 503.")}, [("error", "not_ready")]),
        (
            {
                "probe": LATE,
                "info": None,
                "faults": {"info": "late", "server": "later", "time": "x"},
            },
            [("error", "silent"), ("error", "does_not_say_what_it_is")],
        ),
        ({"faults": {"server": "late"}}, [("error", "does_not_say_what_it_is")]),
        (
            {"probe": DOWN, "info": None, "gateway": {"status": "ready"}},
            [("warning", "unreachable_from_here")],
        ),
        (
            {"probe": DOWN, "info": None, "gateway": {"status": "not_ready"}},
            [("error", "gateway_has_it_not_ready"), ("error", "unreachable")],
        ),
    ],
)
def test_presence(change: dict[str, Any], expected: list[Any]) -> None:
    """Gone, silent, half silent; and reached by the gateway though not from here."""
    assert found(replace(sglang(Role.DECODE), **change)) == expected


@pytest.mark.parametrize(
    ("gateway", "expected"),
    [
        ({"status": "ready", "breaker": {"state": "closed"}, "labels": {"version": "0.5.23"}}, []),
        ({"status": "draining"}, [("note", "draining")]),
        ({"status": "pending"}, [("error", "gateway_has_it_not_ready")]),
        ({"status": "ready", "breaker": {"state": "open"}}, [("warning", "circuit_not_closed")]),
        (
            {"status": "ready", "labels": {"version": "0.5.22"}},
            [("warning", "gateway_knows_an_older_one")],
        ),
        ({"status": "ready", "labels": "odd", "breaker": "odd"}, []),
    ],
)
def test_what_a_running_gateway_says(gateway: dict[str, Any], expected: list[Any]) -> None:
    """Its own view, compared with what the worker says now."""
    assert found(replace(sglang(), gateway=gateway)) == expected


def test_key() -> None:
    """A worker that wants another key is no riddle."""
    fault = {"info": "/v1/models answered 401: the worker wants another API key."}
    (finding,) = check_worker(replace(sglang(), info=None, faults=fault), PREMISES)
    assert finding.remedy.startswith("Give the worker's key: --api-key")


def test_a_worker_of_no_model() -> None:
    """Allowed, and worth knowing."""
    assert found(with_info(sglang(), model_ids=())) == [("note", "names_no_model")]


def test_remedy_for_a_wrong_role() -> None:
    """Both ways out are told."""
    reading = with_info(sglang(disaggregation_mode="decode"), bootstrap_port=9001)
    (finding,) = check_worker(reading, PREMISES)
    assert finding.remedy == "Give it as --decode, or start it with --disaggregation-mode prefill."
    (finding,) = check_worker(vllm(is_generation=False, kv_role=""), PREMISES)
    assert finding.remedy.startswith("Start it with ")

"""What is read from an SGLang worker's answers; values as sent by SGLang 0.5.23."""

from __future__ import annotations

import pytest

from app.upstream.sglang_info import role_conflict, worker_info
from app.workers.sglang_facts import SglangFacts
from app.workers.worker import Role, WorkerInfo

MODELS = {"data": [{"id": "smollm2", "owned_by": "sglang", "max_model_len": 8192}]}
SERVER = {
    "model_path": "/m",
    "served_model_name": "smollm2",
    "tp_size": 1,
    "dp_size": 2,
    "page_size": 64,
    "load_balance_method": "follow_bootstrap_room",
    "max_running_requests": 16,
    "max_total_tokens": None,
    "max_total_num_tokens": 8192,
    "chunked_prefill_size": 4096,
    "schedule_policy": "fcfs",
    "disaggregation_mode": "prefill",
    "disaggregation_bootstrap_port": 32310,
    "context_length": None,
    "version": "0.5.23",
    "api_key": "secret",
    "dtype": "bfloat16",
    "kv_cache_dtype": "auto",
    "revision": None,
    "pp_size": 1,
    "attn_cp_size": 1,
    "attn_dp_size": 1,
    "disaggregation_transfer_backend": "mooncake",
    "disaggregation_decode_allocation_policy": "early",
}
MODEL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "is_generation": True}


def test_everything_is_read() -> None:
    """Models, numbers and SMG's labels; no key among them."""
    labels = {
        "served_model_name": "smollm2",
        "model_path": "/m",
        "tp_size": "1",
        "dp_size": "2",
        "version": "0.5.23",
        "disaggregation_mode": "prefill",
        "load_balance_method": "follow_bootstrap_room",
        "max_running_requests": "16",
        "model_type": "llama",
        "architectures": '["LlamaForCausalLM"]',
        "is_generation": "true",
        "max_model_len": "8192",
    }
    assert WorkerInfo(
        model_ids=("smollm2",),
        version="0.5.23",
        page_size=64,
        dp_size=2,
        bootstrap_port=32310,
        schedule_policy="fcfs",
        chunked_prefill_size=4096,
        max_running_requests=16,
        max_total_tokens=8192,
        disaggregation_mode="prefill",
        labels=labels,
        load_balance_method="follow_bootstrap_room",
        context_length=8192,
        sglang=SglangFacts(
            transfer_backend="mooncake",
            dtype="bfloat16",
            attention_tp_size=1,
            attention_cp_size=1,
            pp_size=1,
            allocation_policy="early",
        ),
    ) == worker_info(MODELS, SERVER, MODEL)


def test_nothing_said() -> None:
    """An empty info from empty answers."""
    assert WorkerInfo() == worker_info({}, {}, {})


def test_name_stands_in_for_the_model_list() -> None:
    """The served name where /v1/models is missing, the mode from either answer."""
    info = worker_info({}, {}, {"served_model_name": "x", "disaggregation_mode": "decode"})
    assert (("x",), "decode") == (info.model_ids, info.disaggregation_mode)


def test_decode_reports_no_bootstrap_port() -> None:
    """None: a decode worker reports the default though nothing listens there."""
    server = {"disaggregation_mode": "decode", "disaggregation_bootstrap_port": 8998}
    assert worker_info({}, server, {}).bootstrap_port is None


def test_odd_values_are_passed_over() -> None:
    """Wrong kinds count as not said."""
    server = {
        "dp_size": "2",
        "page_size": True,
        "version": 5,
        "disaggregation_bootstrap_port": 70000,
    }
    info = worker_info({"data": [7, {"id": 7}, {"id": ""}]}, server, {})
    assert ((), 1, None, None, None) == (
        info.model_ids,
        info.dp_size,
        info.page_size,
        info.version,
        info.bootstrap_port,
    )
    assert () == worker_info({"data": "x"}, {}, {}).model_ids


@pytest.mark.parametrize(
    ("role", "mode"),
    [
        (Role.PREFILL, "prefill"),
        (Role.DECODE, "decode"),
        (Role.REGULAR, "null"),
        *((r, None) for r in Role),
    ],
)
def test_fitting_mode(role: Role, mode: str | None) -> None:
    """No conflict; who does not say its mode is believed."""
    assert role_conflict(role, mode) == ""

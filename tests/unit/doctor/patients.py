"""Healthy workers, as the doctor reads them; tests change what they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.doctor.finding import Finding
from app.doctor.reading import Premises, Reading
from app.upstream.get_json import JsonAnswer
from app.upstream.keep_alive import KeepAlive
from app.upstream.sglang_info import worker_info
from app.workers.probe_rules import ProbeResult
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Role, WorkerInfo, WorkerSpec

PREMISES = Premises()
LOADS = (
    {
        "num_running_reqs": 0,
        "num_waiting_reqs": 0,
        "num_used_tokens": 0,
        "max_total_num_tokens": 200_000,
        "num_waiting_uncached_tokens": 0,
    },
)
SERVER: Mapping[str, Any] = {
    "port": 8000,
    "version": "0.5.23",
    "dtype": "bfloat16",
    "kv_cache_dtype": "auto",
    "page_size": 16,
    "tp_size": 8,
    "dp_size": 1,
    "max_total_num_tokens": 200_000,
    "schedule_policy": "fcfs",
    "load_balance_method": "follow_bootstrap_room",
    "disable_radix_cache": False,
    "disable_overlap_schedule": False,
    "enable_cache_report": True,
    "disaggregation_transfer_backend": "mooncake",
    "disaggregation_bootstrap_port": 9001,
    "weight_version": "default",
    "chat_template": None,
    "quantization": None,
    "speculative_algorithm": None,
    "model_path": "/models/m",
}
ROUTE = {"attn_tp_size": 8, "kv_cache_dtype": "auto", "page_size": 16, "prefill_http_port": 8000}


def sglang(role: Role = Role.PREFILL, host: str = "", **said: Any) -> Reading:
    """An SGLang worker that says something else in its server info.

    Args:
        role: Prefill or decode.
        host: Of its URL; by its role if left out.
        **said: Members of ``/server_info``.
    """
    server = {**SERVER, "disaggregation_mode": str(role), **said}
    models = {"data": [{"id": "m", "max_model_len": 100_000}]}
    is_prefill = role is Role.PREFILL
    return Reading(
        WorkerSpec(f"http://{host or str(role)}:8000", role),
        ProbeResult(True),
        info=worker_info(models, server, {}),
        server=server,
        loads=LOADS,
        bootstrap=JsonAnswer(200, ROUTE) if is_prefill else None,
        bootstrap_port=9001 if is_prefill else None,
        keep_alive=KeepAlive(4.0, is_closed=False),
    )


def vllm(role: Role = Role.PREFILL, connector: str = "NixlConnector", **facts: Any) -> Reading:
    """A vLLM worker with these facts."""
    is_prefill = role is Role.PREFILL
    own = {
        "kv_connector": connector,
        "kv_role": "kv_producer" if is_prefill else "kv_consumer",
        "kv_engine_id": "e1" if is_prefill else "e2",
        "kv_cache_dtype": "auto",
        "model_dtype": "torch.bfloat16",
        "model_path": "/models/m",
        "n_vocab": 32_000,
        **facts,
    }
    has_port = is_prefill and connector == "MooncakeConnector"
    return Reading(
        WorkerSpec(f"grpc://{role}:50051", role),
        ProbeResult(True),
        info=WorkerInfo(
            model_ids=("m",),
            version="0.32.0",
            page_size=16,
            max_total_tokens=200_000,
            context_length=100_000,
            disaggregation_mode={"kv_producer": "prefill", "kv_consumer": "decode"}.get(
                own["kv_role"]
            ),
            vllm=VllmFacts(**own),
        ),
        loads=LOADS,
        bootstrap=JsonAnswer(200, {"0": {"engine_id": "e1"}}) if has_port else None,
        bootstrap_port=8998 if has_port else None,
    )


def with_info(reading: Reading, **changes: Any) -> Reading:
    """The same worker, saying something else of itself."""
    assert reading.info is not None
    return replace(reading, info=replace(reading.info, **changes))


def with_spec(reading: Reading, **changes: Any) -> Reading:
    """The same worker, given in another way."""
    return replace(reading, spec=replace(reading.spec, **changes))


def codes(findings: tuple[Finding, ...]) -> list[tuple[str, str]]:
    """Severities and codes, in order."""
    return [(str(found.severity), found.code) for found in findings]

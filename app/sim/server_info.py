"""What a worker says about itself, in SGLang 0.5.23's words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from app.sim.config import SimConfig
from app.sim.engine import Engine

VERSION = "0.5.23"
MODES = {"prefill": "prefill", "decode": "decode", "regular": "null"}


def models(config: SimConfig) -> dict[str, Any]:
    """``GET /v1/models``."""
    name = config.model_id
    return {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": int(datetime.now(UTC).timestamp()),
                "owned_by": "sglang",
                "root": name,
                "parent": None,
                "max_model_len": config.context_length,
            }
        ],
    }


def model_info(config: SimConfig) -> dict[str, Any]:
    """``GET /model_info``."""
    return {
        "model_path": config.model_id,
        "served_model_name": config.model_id,
        "tokenizer_path": config.model_id,
        "is_generation": True,
        "preferred_sampling_params": None,
        "weight_version": "default",
        "load_format": "auto",
        "reasoning_parser": None,
        "tool_call_parser": None,
        "disaggregation_mode": MODES[config.role],
        "has_image_understanding": False,
        "has_audio_understanding": False,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
    }


def server_info(
    config: SimConfig, port: int, bootstrap_port: int, kv_events: dict[str, Any] | None = None
) -> dict[str, Any]:
    """``GET /server_info``: the members a gateway may want, not all 556."""
    return {
        "model_path": config.model_id,
        "tokenizer_path": config.model_id,
        "served_model_name": config.model_id,
        "host": config.host,
        "port": port,
        "context_length": config.context_length,
        "dtype": "float32",
        "kv_cache_dtype": "auto",
        "max_running_requests": config.max_running_requests,
        "max_queued_requests": config.max_queued_requests,
        "max_total_tokens": config.max_total_tokens,
        "chunked_prefill_size": config.chunk_tokens,
        "max_prefill_tokens": 16_384,
        "schedule_policy": config.schedule_policy,
        "page_size": config.page_size,
        "disable_radix_cache": config.role == "decode",
        "disable_overlap_schedule": False,
        "tp_size": 1,
        "pp_size": 1,
        "dp_size": config.dp_size,
        "load_balance_method": (
            "follow_bootstrap_room" if config.role == "prefill" else "round_robin"
        ),
        "enable_dp_attention": config.dp_size > 1,
        "enable_metrics": False,
        "enable_cache_report": config.enable_cache_report,
        "api_key": "<redacted>" if config.api_key else None,
        "disaggregation_mode": MODES[config.role],
        "disaggregation_transfer_backend": "mooncake",
        "disaggregation_bootstrap_port": bootstrap_port,
        "disaggregation_ib_device": None,
        "status": "ready",
        "max_total_num_tokens": config.max_total_tokens,
        "max_req_input_len": config.max_input_tokens,
        "kv_events": kv_events,
        "internal_states": [
            {
                "last_gen_throughput": 0.0,
                "effective_max_running_requests_per_dp": config.max_running_requests,
                "memory_usage": {"token_capacity": config.max_total_tokens},
            }
        ],
        "version": VERSION,
        "frontend": "python",
        **config.said,
    }


def loads(config: SimConfig, engine: Engine) -> dict[str, Any]:
    """``GET /v1/loads``: one entry a DP rank."""
    return {
        "timestamp": datetime.now(UTC).isoformat(),
        "version": VERSION,
        "accelerator": None,
        "num_accelerators": 1,
        "loads": [_load(config, engine.load(rank), rank) for rank in range(config.dp_size)],
    }


def _load(config: SimConfig, counts: dict[str, Any], rank: int) -> dict[str, Any]:
    queues = {
        name: counts.pop(name, 0)
        for name in (
            "prefill_bootstrap_queue_reqs",
            "prefill_inflight_queue_reqs",
            "decode_prealloc_queue_reqs",
            "decode_transfer_queue_reqs",
            "decode_retracted_queue_reqs",
        )
    }
    n_used = counts["num_used_tokens"]
    usage = n_used / config.max_total_tokens
    return {
        "timestamp": datetime.now(UTC).timestamp(),
        "dp_rank": rank,
        "num_waiting_uncached_tokens": 0,
        "num_total_tokens": n_used,
        "num_active_tokens": n_used,
        "num_prealloc_ready_tokens": 0,
        "max_total_num_tokens": config.max_total_tokens,
        "max_running_requests": config.max_running_requests,
        "token_usage": usage,
        "gen_throughput": 0.0,
        "cache_hit_rate": 0.0,
        "utilization": usage,
        "total_prefill_uncached_tokens": 0,
        "total_prefill_busy_us": 0,
        "decode_moments": None,
        **counts,
        "memory": {
            "weight_gb": 0.0,
            "kv_cache_gb": 0.0,
            "graph_gb": 0.0,
            "token_capacity": config.max_total_tokens,
        },
        "disaggregation": {
            "mode": MODES[config.role],
            **queues,
            "kv_transfer_speed_gb_s": 0.0,
            "kv_transfer_latency_ms": 0.0,
        },
        "queues": {
            "waiting": counts["num_waiting_reqs"],
            "grammar": 0,
            "paused": 0,
            "retracted": 0,
            "prealloc_ready": 0,
        },
    }

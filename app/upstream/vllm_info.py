"""Reads what a vLLM worker says of itself. Pure; field names as in smg-grpc-proto 0.4.28."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeGuard

import orjson
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from app.upstream.generated import vllm_engine_pb2 as pb
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Role, WorkerInfo

_SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_MODES = MappingProxyType({"kv_producer": "prefill", "kv_consumer": "decode"})
_TRANSIENT = frozenset(
    {"active_requests", "is_paused", "last_receive_timestamp", "uptime_seconds", "server_type"}
)
_RENAMED = MappingProxyType({"data_parallel_size": "dp_size"})


def worker_info(
    model: pb.GetModelInfoResponse,
    server: pb.GetServerInfoResponse,
    loads: pb.GetLoadsResponse,
) -> WorkerInfo:
    """Put the three answers together; an answer that could not be had is an empty message."""
    name = model.served_model_name or model.model_path
    capacity = sum(load.max_total_num_tokens for load in loads.loads)
    return WorkerInfo(
        model_ids=(name,) if name else (),
        version=loads.version or None,
        page_size=_count(server.block_size),
        dp_size=_count(server.data_parallel_size) or 1,
        max_running_requests=_count(server.max_num_seqs),
        max_total_tokens=_count(capacity),
        disaggregation_mode=_MODES.get(server.kv_role),
        labels=_labels(model) | _labels(server),
        context_length=_count(model.max_context_length),
        vllm=VllmFacts(
            kv_connector=server.kv_connector,
            kv_role=server.kv_role,
            kv_engine_id=server.kv_engine_id,
            kv_cache_dtype=server.kv_cache_dtype,
            attention_backend=server.attention_backend,
            model_dtype=server.model_dtype,
            pairing_protocol=server.pairing_protocol,
            model_path=model.model_path,
            tokenizer_path=model.tokenizer_path,
            default_sampling=default_sampling(model.default_sampling_params_json),
            eos_token_ids=tuple(model.eos_token_ids),
            n_vocab=model.vocab_size,
            is_generation=model.is_generation,
            reasoning_parser=server.engine_reasoning_parser,
            constrained_decoding_start=server.constrained_decoding_start,
        ),
    )


def conflict(role: Role, info: WorkerInfo) -> str:
    """Return why a worker cannot take requests in this role, or nothing.

    A producer that is handed KV, and a consumer that is asked to keep some, end as a crash of
    the engine (vLLM 0.32 asserts it). ``kv_both`` and a worker that names no role are believed.
    """
    facts = info.vllm or VllmFacts()
    if not facts.is_generation:
        return "serves a model that generates nothing; it gets no requests."
    mode = info.disaggregation_mode
    if role is Role.REGULAR or mode is None or mode == str(role):
        return ""
    return f"is registered as a {role} worker but runs as {facts.kv_role}; it gets no requests."


def default_sampling(text: str) -> dict[str, float]:
    """Read ``default_sampling_params_json``; what is not a finite number is left out."""
    try:
        found = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(found, dict):
        return {}
    said = {key: found.get(key) for key in _SAMPLING_KEYS}
    return {key: value for key, value in said.items() if _is_number(value)}


def as_dict(message: Message, *, is_full: bool = False) -> dict[str, Any]:
    """Write a message under its own field names.

    Args:
        message: Any message.
        is_full: Zeros and empty texts too, which may also mean: not said.
    """
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=is_full
    )


def _labels(message: Message) -> dict[str, str]:
    """SMG's labels: every scalar that says something; lists as JSON text."""
    labels = {}
    for name, value in as_dict(message).items():
        if name in _TRANSIENT:
            continue
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        labels[_RENAMED.get(name, name)] = text
    return labels


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: int) -> int | None:
    return value if value > 0 else None


def same_engine(one: WorkerInfo, other: WorkerInfo) -> bool:
    """Tell whether two registrations of a worker describe the same engine, as far as KV goes."""
    return _identity(one) == _identity(other)


def _identity(info: WorkerInfo) -> Mapping[str, Any]:
    return {"vllm": info.vllm, "dp": info.dp_size, "page": info.page_size, "version": info.version}

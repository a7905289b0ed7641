"""Reads what an SGLang worker says of itself. Pure; shapes as seen with SGLang 0.5.23."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from app.workers.kv_events import KvSource
from app.workers.sglang_facts import SglangFacts
from app.workers.worker import Role, WorkerInfo

_SERVER_LABELS = (
    "served_model_name",
    "model_path",
    "tokenizer_path",
    "tp_size",
    "dp_size",
    "version",
    "disaggregation_mode",
    "load_balance_method",
    "max_total_tokens",
    "max_running_requests",
)
_MODEL_LABELS = (
    "served_model_name",
    "model_path",
    "tokenizer_path",
    "is_generation",
    "model_type",
    "architectures",
)
MAX_RANKS = 4096
"""More data-parallel ranks than any worker has; a ledger is kept for each."""
_DTYPES = {"auto": "", "half": "float16", "float": "float32"}
_BACKENDS = {"mooncake_tcp": "mooncake"}
"""SGLang's own other names for the same thing."""
_MODES = {Role.PREFILL: "prefill", Role.DECODE: "decode", Role.REGULAR: "null"}


def worker_info(
    models: Mapping[str, Any], server: Mapping[str, Any], model: Mapping[str, Any]
) -> WorkerInfo:
    """Put the answers of ``/v1/models``, ``/server_info`` and ``/model_info`` together.

    What is missing or of the wrong kind is taken as not said. Labels are those of SMG 1.13.
    """
    cards = models.get("data")
    cards = [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else []
    ids = tuple(
        dict.fromkeys(
            card["id"] for card in cards if isinstance(card.get("id"), str) and card["id"]
        )
    )
    name = server.get("served_model_name") or model.get("served_model_name")
    if not ids and isinstance(name, str):
        ids = (name,)
    context_length = next(
        (length for card in cards if (length := _count(card.get("max_model_len"))) is not None),
        _count(server.get("context_length")),
    )
    mode = _text(server.get("disaggregation_mode")) or _text(model.get("disaggregation_mode"))
    labels = _labels(model, _MODEL_LABELS) | _labels(server, _SERVER_LABELS)
    if context_length is not None:
        labels["max_model_len"] = str(context_length)
    if mode is not None:
        labels["disaggregation_mode"] = mode
    port = _count(server.get("disaggregation_bootstrap_port"))
    return WorkerInfo(
        model_ids=ids,
        version=_text(server.get("version")),
        page_size=_count(server.get("page_size")),
        dp_size=min(_count(server.get("dp_size")) or 1, MAX_RANKS),
        # A decode worker reports the default 8998 without listening there.
        bootstrap_port=port if mode != "decode" and port and port <= 65535 else None,
        schedule_policy=_text(server.get("schedule_policy")),
        chunked_prefill_size=_count(server.get("chunked_prefill_size")),
        max_running_requests=_count(server.get("max_running_requests")),
        max_total_tokens=(
            _count(server.get("max_total_num_tokens")) or _count(server.get("max_total_tokens"))
        ),
        disaggregation_mode=mode,
        labels=labels,
        load_balance_method=_text(server.get("load_balance_method")),
        context_length=context_length,
        sglang=sglang_facts(server),
        kv_source=kv_source(server.get("kv_events")),
    )


def kv_source(said: object) -> KvSource | None:
    """Read where the worker publishes its KV events; None: nowhere that can be reached.

    Ports are those of its first rank. The host is the worker's own: SGLang binds all addresses,
    and one that it names would be where it connects to.
    """
    if not isinstance(said, dict) or said.get("publisher") != "zmq":
        return None
    port, replay = (_port(said.get(f"{name}endpoint_port_base")) for name in ("", "replay_"))
    if port is None:
        return None
    return KvSource(port, replay_port=replay, topic=_text(said.get("topic")) or "")


def sglang_facts(server: Mapping[str, Any]) -> SglangFacts | None:
    """Read what a pair has to agree on; None if the answer names nothing of it.

    Sizes of attention as SGLang 0.5.23 has them: data parallelism splits the tensor-parallel
    workers only where attention does so too (``enable_dp_attention``).
    """
    tp_size, cp_size = _count(server.get("tp_size")), _count(server.get("attn_cp_size"))
    n_replicas = _count(server.get("attn_dp_size"))
    if n_replicas is None:
        n_replicas = _count(server.get("dp_size")) if server.get("enable_dp_attention") else 1
    backend = _text(server.get("disaggregation_transfer_backend")) or ""
    facts = SglangFacts(
        transfer_backend=_BACKENDS.get(backend, backend),
        dtype=_dtype(server.get("dtype")),
        kv_cache_dtype=_dtype(server.get("kv_cache_dtype")),
        revision=_text(server.get("revision")) or "",
        attention_tp_size=tp_size and max(1, tp_size // ((n_replicas or 1) * (cp_size or 1))),
        attention_cp_size=cp_size,
        pp_size=_count(server.get("pp_size")),
        allocation_policy=_text(server.get("disaggregation_decode_allocation_policy")) or "",
    )
    return None if facts == SglangFacts() else facts


def role_conflict(role: Role, mode: str | None) -> str:
    """Return what is wrong with a worker of this role running in this mode, or nothing.

    SGLang calls a worker without disaggregation ``null`` (the word); a worker that does not
    say its mode is believed.
    """
    if mode is None or mode == _MODES[role]:
        return ""
    runs_as = "without disaggregation" if mode == "null" else f"in disaggregation mode '{mode}'"
    return f"is registered as a {role} worker but runs {runs_as}; it gets no requests."


def _labels(answer: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name in names
        if (value := answer.get(name)) is not None
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _dtype(value: object) -> str:
    name = _text(value) or ""
    return _DTYPES.get(name, name)


def _port(value: object) -> int | None:
    port = _count(value)
    return port if port is not None and port <= 65535 else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

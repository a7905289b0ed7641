"""Which facts of two workers keep them apart, and how it is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.scheduling.pair_fit import PairFacts, misfit, pair_facts
from app.upstream.sglang_info import worker_info
from app.workers.vllm_facts import VllmFacts
from app.workers.worker import Engine, Role, WorkerInfo, WorkerSpec

SGLANG = PairFacts(
    Engine.SGLANG,
    connector="mooncake",
    revision="r1",
    dtype="bfloat16",
    kv_dtype="fp8_e4m3",
    page_size=16,
    allocation_policy="early",
    tp_size=4,
    cp_size=1,
    pp_size=2,
)
NIXL = PairFacts(
    Engine.VLLM,
    connector="NixlConnector",
    dtype="bfloat16",
    kv_dtype="auto",
    page_size=16,
    attention_backend="FLASH_ATTN",
    version="0.32.0",
    model_path="/m",
)
MOONCAKE = replace(NIXL, connector="MooncakeConnector", kv_dtype="")
SPEC = WorkerSpec("http://p:1", Role.PREFILL)
VLLM_SPEC = WorkerSpec("grpc://p:1", Role.PREFILL)


@pytest.mark.parametrize(
    ("prefill", "change", "reason"),
    [
        (SGLANG, {"engine": Engine.VLLM}, "engine sglang against vllm"),
        (SGLANG, {"label": "b"}, "pairing label none against 'b'"),
        (SGLANG, {"connector": "nixl"}, "KV connector mooncake against nixl"),
        (SGLANG, {"revision": "r2"}, "model revision r1 against r2"),
        (SGLANG, {"dtype": "float16"}, "dtype bfloat16 against float16"),
        (SGLANG, {"kv_dtype": "bfloat16"}, "KV cache dtype fp8_e4m3 against bfloat16"),
        (SGLANG, {"page_size": 32}, "page size 16 against 32"),
        (
            SGLANG,
            {"allocation_policy": "prefill_complete"},
            "decode allocation policy early against prefill_complete",
        ),
        (
            SGLANG,
            {"tp_size": 6},
            "tensor parallelism 4 against 6: one must be a multiple of the other",
        ),
        (
            SGLANG,
            {"pp_size": 4},
            "pipeline parallelism 2 against 4: decode's must be 1 or the same",
        ),
        (SGLANG, {"cp_size": 2}, "context parallelism 2 of decode, which must be 1"),
        (NIXL, {"version": "0.31.0"}, "engine version 0.32.0 against 0.31.0"),
        (NIXL, {"model_path": "/n"}, "model path /m against /n"),
        (NIXL, {"attention_backend": "TRITON"}, "attention backend FLASH_ATTN against TRITON"),
        (NIXL, {"connector": ""}, "KV connector NixlConnector against none"),
        (
            NIXL,
            {"connector": "NixlPushConnector"},
            "KV connector NixlConnector against NixlPushConnector",
        ),
        (NIXL, {"kv_dtype": "bfloat16"}, "KV cache dtype auto against bfloat16"),
    ],
)
def test_what_keeps_two_apart(prefill: PairFacts, change: dict[str, Any], reason: str) -> None:
    """One difference is enough, and it is named with both values, prefill's first."""
    assert misfit(prefill, prefill) == ""
    assert misfit(prefill, replace(prefill, **change)) == reason


@pytest.mark.parametrize(
    ("prefill", "change"),
    [
        (SGLANG, {"tp_size": 2}),
        (SGLANG, {"tp_size": 8}),
        (SGLANG, {"pp_size": 1}),
        (SGLANG, {"version": "0.6.0", "model_path": "/elsewhere"}),
        (NIXL, {"connector": "NixlPullConnector"}),
        (MOONCAKE, {"version": "0.31.0", "model_path": "/elsewhere"}),
        (replace(NIXL, protocol="x"), {"page_size": 32, "connector": "Other"}),
    ],
)
def test_what_does_not(prefill: PairFacts, change: dict[str, Any]) -> None:
    """Splits that map onto each other, two names of one thing, and the operator's own word."""
    assert misfit(prefill, replace(prefill, **change)) == ""


def test_pairing_protocols() -> None:
    """Two that are named must be equal; with one alone the other rules hold."""
    one, other = replace(NIXL, protocol="a"), replace(NIXL, protocol="b")
    assert misfit(one, other) == "pairing protocol a against b"
    assert misfit(one, NIXL) == ""
    assert misfit(one, replace(NIXL, page_size=32)) == "page size 16 against 32"


def test_facts_of_an_sglang_worker() -> None:
    """Taken from what the worker said; the words for "decide yourself" say nothing."""
    server = {
        "dtype": "half",
        "kv_cache_dtype": "auto",
        "page_size": 64,
        "tp_size": 8,
        "dp_size": 4,
        "attn_dp_size": 4,
        "attn_cp_size": 2,
        "pp_size": 1,
        "revision": "main",
        "disaggregation_transfer_backend": "mooncake_tcp",
        "disaggregation_decode_allocation_policy": "early",
    }
    spec = replace(SPEC, labels={"pairing": "a"})
    assert pair_facts(spec, worker_info({}, server, {})) == PairFacts(
        Engine.SGLANG,
        "a",
        connector="mooncake",
        revision="main",
        dtype="float16",
        page_size=64,
        allocation_policy="early",
        tp_size=1,
        cp_size=2,
        pp_size=1,
    )


@pytest.mark.parametrize(
    ("server", "size"),
    [
        ({"tp_size": 8}, 8),
        ({"tp_size": 8, "dp_size": 2}, 8),
        ({"tp_size": 8, "dp_size": 2, "enable_dp_attention": True}, 4),
        ({"tp_size": 8, "dp_size": 2, "enable_dp_attention": True, "attn_dp_size": 1}, 8),
        ({"dp_size": 2}, None),
    ],
)
def test_tensor_parallel_size_of_attention(server: dict[str, Any], size: int | None) -> None:
    """Data parallelism splits it only where attention is data-parallel."""
    server = {"pp_size": 1, **server}
    assert pair_facts(SPEC, worker_info({}, server, {})).tp_size == size


def test_facts_of_a_vllm_worker() -> None:
    """The word auto counts with NIXL, whose workers compare it, and says nothing elsewhere."""
    facts = VllmFacts(
        kv_connector="NixlConnector",
        kv_cache_dtype="auto",
        model_dtype="torch.bfloat16",
        attention_backend="FLASH_ATTN",
        model_path="/m",
    )
    info = WorkerInfo(version="0.32.0", page_size=16, vllm=facts)
    assert pair_facts(VLLM_SPEC, info) == NIXL
    info = replace(info, vllm=replace(facts, kv_connector="MooncakeConnector"))
    assert pair_facts(VLLM_SPEC, info) == MOONCAKE


def test_who_says_nothing_fits() -> None:
    """A worker that was not asked yet, or names nothing, keeps nobody away."""
    for spec, facts in ((SPEC, SGLANG), (VLLM_SPEC, NIXL), (VLLM_SPEC, MOONCAKE)):
        silent = pair_facts(spec, WorkerInfo())
        assert misfit(silent, facts) == misfit(facts, silent) == ""

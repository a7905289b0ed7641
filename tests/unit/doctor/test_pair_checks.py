"""What the doctor finds wrong between two workers that the gateway would pair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.doctor.finding import merged
from app.doctor.pair_checks import check_pair, pairs_of
from app.doctor.reading import Reading
from app.upstream.get_json import JsonAnswer
from app.workers.worker import Role
from tests.unit.doctor.patients import ROUTE, codes, sglang, vllm, with_info, with_spec


def found(one: Reading, other: Reading) -> list[tuple[str, str]]:
    """What is found wrong between them."""
    (pair,) = pairs_of([one, other])
    assert pair.reasons == ()
    return codes(merged(check_pair(pair)))


def test_healthy_pairs() -> None:
    """Nothing."""
    assert found(sglang(), sglang(Role.DECODE)) == []
    assert found(vllm(), vllm(Role.DECODE)) == []


@pytest.mark.parametrize(
    ("said", "severity", "code"),
    [
        ({"weight_version": "v2"}, "error", "weight_version_differs"),
        ({"chat_template": "/t.jinja"}, "error", "chat_template_differs"),
        ({"quantization": "fp8"}, "warning", "quantization_differs"),
        ({"speculative_algorithm": "EAGLE"}, "warning", "speculative_algorithm_differs"),
        ({"model_path": "/models/n"}, "note", "model_path_differs"),
        ({"version": "0.5.22"}, "warning", "versions_differ"),
        ({"tp_size": 4}, "note", "tensor_parallelism_differs"),
        ({"dp_size": 2}, "note", "data_parallelism_differs"),
        ({"kv_cache_dtype": "fp8_e4m3"}, "error", "kv_cache_dtype_differs"),
    ],
)
def test_what_sglang_says_on_decode(said: dict[str, Any], severity: str, code: str) -> None:
    """One difference, one finding."""
    assert found(sglang(), sglang(Role.DECODE, **said)) == [(severity, code)]


def test_members_that_one_does_not_have() -> None:
    """An older engine that lacks a setting is not blamed for it."""
    decode = sglang(Role.DECODE)
    server = {
        k: v for k, v in decode.server.items() if k not in ("weight_version", "chat_template")
    }
    assert found(sglang(), replace(decode, server=server)) == []


def test_kv_cache_dtype_is_prefills_real_one() -> None:
    """Its bootstrap server tells what "auto" came to; without it nobody can know."""
    real = JsonAnswer(200, {**ROUTE, "kv_cache_dtype": "fp8_e4m3"})
    decode = sglang(Role.DECODE, kv_cache_dtype="fp8_e4m3")
    assert found(replace(sglang(), bootstrap=real), decode) == []
    assert found(replace(sglang(), bootstrap=None), decode) == [
        ("warning", "kv_cache_dtype_unclear")
    ]
    assert found(replace(sglang(), bootstrap=real), sglang(Role.DECODE)) == [
        ("warning", "kv_cache_dtype_unclear")
    ]


@pytest.mark.parametrize(
    ("change", "severity", "code"),
    [
        ({"n_vocab": 151_936}, "error", "vocabularies_differ"),
        ({"model_path": "/models/n"}, "note", "model_path_differs"),
    ],
)
def test_what_vllm_says_on_decode(change: dict[str, Any], severity: str, code: str) -> None:
    """With Mooncake, which compares neither; NIXL would not pair them for the second."""
    pair = vllm(connector="MooncakeConnector"), vllm(Role.DECODE, "MooncakeConnector", **change)
    assert found(*pair) == [(severity, code)]


def test_context_lengths() -> None:
    """The shorter one counts."""
    decode = with_info(vllm(Role.DECODE), context_length=8192)
    assert found(vllm(), decode) == [("warning", "context_lengths_differ")]


@pytest.mark.parametrize(
    ("host", "other", "is_wrong"),
    [
        ("127.0.0.1", "10.0.0.2", True),
        ("localhost", "decode", True),
        ("[::1]", "10.0.0.2", True),
        ("127.0.0.1", "localhost", False),
        ("10.0.0.1", "127.0.0.1", False),
    ],
)
def test_prefill_by_loopback(host: str, other: str, is_wrong: bool) -> None:
    """Decode is told prefill's host and would find itself there; NIXL tells its own."""
    one, two = sglang(host=host), sglang(Role.DECODE, host=other)
    expected = [("error", "prefill_by_loopback")] if is_wrong else []
    assert found(one, two) == expected
    for connector, wrong in (("NixlConnector", []), ("MooncakeConnector", expected)):
        pair = vllm(connector=connector), vllm(Role.DECODE, connector)
        urls = [f"grpc://{place}:1" for place in (host, other)]
        assert found(*(with_spec(w, url=url) for w, url in zip(pair, urls, strict=True))) == wrong


def test_pairs_have_a_model_in_common() -> None:
    """Workers of another model are no pair; those that take any are one with everybody."""
    other = with_info(sglang(Role.DECODE, host="d2"), model_ids=("n",))
    anything = with_info(sglang(Role.DECODE, host="d3"), model_ids=())
    silent = replace(sglang(Role.DECODE, host="d4"), info=None)
    pairs = pairs_of([sglang(), sglang(Role.DECODE), other, anything, silent])
    assert [pair.place for pair in pairs] == [
        "http://prefill:8000 -> http://decode:8000",
        "http://prefill:8000 -> http://d3:8000",
    ]


def test_long_values_are_cut() -> None:
    """A whole template is no sentence."""
    (pair,) = pairs_of([sglang(chat_template="a" * 5000), sglang(Role.DECODE)])
    (finding,) = check_pair(pair)
    assert "aaa... (5000 characters) on prefill, none on decode" in finding.problem
    assert len(finding.problem) < 300

"""What a worker says of itself, read."""

from __future__ import annotations

import pytest

from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.vllm_info import conflict, default_sampling, same_engine, worker_info
from app.workers.worker import Role, WorkerInfo

NOTHING = (pb.GetModelInfoResponse(is_generation=True), pb.GetServerInfoResponse())


def info(kv_role: str = "", **model: object) -> WorkerInfo:
    """The info of a worker with this KV role."""
    model = {"is_generation": True, **model}
    return worker_info(
        pb.GetModelInfoResponse(**model),  # type: ignore[arg-type]
        pb.GetServerInfoResponse(kv_role=kv_role),
        pb.GetLoadsResponse(),
    )


def test_everything_that_is_said() -> None:
    """Each fact in its place, and as one of SMG's labels."""
    model = pb.GetModelInfoResponse(
        model_path="/models/m",
        is_generation=True,
        max_context_length=8192,
        vocab_size=500,
        served_model_name="m",
        tokenizer_path="/models/t",
        architectures=["Llama"],
        eos_token_ids=[2, 3],
        default_sampling_params_json='{"temperature":0.6,"top_k":20}',
    )
    server = pb.GetServerInfoResponse(
        active_requests=4,
        uptime_seconds=5.0,
        server_type="vllm-grpc",
        kv_connector="NixlConnector",
        kv_role="kv_producer",
        kv_engine_id="e1",
        data_parallel_size=2,
        kv_cache_dtype="auto",
        block_size=16,
        attention_backend="FLASH",
        model_dtype="torch.bfloat16",
        pairing_protocol="p1",
        max_num_seqs=256,
        engine_reasoning_parser="qwen3",
        constrained_decoding_start="after_reasoning",
    )
    loads = pb.GetLoadsResponse(version="0.32.0")
    for rank in range(2):
        loads.loads.add(dp_rank=rank, max_total_num_tokens=1000)
    found = worker_info(model, server, loads)
    assert (found.model_ids, found.version, found.page_size) == (("m",), "0.32.0", 16)
    assert (found.dp_size, found.max_running_requests, found.max_total_tokens) == (2, 256, 2000)
    assert (found.context_length, found.disaggregation_mode) == (8192, "prefill")
    facts = found.vllm
    assert facts is not None
    assert (facts.kv_connector, facts.kv_role, facts.kv_engine_id) == (
        "NixlConnector",
        "kv_producer",
        "e1",
    )
    assert (facts.kv_cache_dtype, facts.attention_backend) == ("auto", "FLASH")
    assert (facts.model_dtype, facts.pairing_protocol) == ("torch.bfloat16", "p1")
    assert (facts.model_path, facts.tokenizer_path) == ("/models/m", "/models/t")
    assert (facts.default_sampling, facts.eos_token_ids) == (
        {"temperature": 0.6, "top_k": 20},
        (2, 3),
    )
    assert (facts.n_vocab, facts.is_generation, facts.reasoning_parser) == (500, True, "qwen3")
    assert facts.constrained_decoding_start == "after_reasoning"
    labels = found.labels
    assert (labels["dp_size"], labels["kv_engine_id"]) == ("2", "e1")
    assert labels["eos_token_ids"] == "[2,3]"
    transient = {"active_requests", "uptime_seconds", "server_type", "data_parallel_size"}
    assert not transient & set(labels)


def test_nothing_said_is_nothing_known() -> None:
    """Zeros of the wire are no values."""
    found = worker_info(*NOTHING, pb.GetLoadsResponse())
    assert (found.model_ids, found.version, found.page_size) == ((), None, None)
    assert (found.dp_size, found.context_length, found.max_total_tokens) == (1, None, None)
    assert found.max_running_requests is None
    assert found.disaggregation_mode is None


def test_the_path_names_a_model_without_a_served_name() -> None:
    """As SMG does."""
    assert info(model_path="/m").model_ids == ("/m",)


@pytest.mark.parametrize(
    ("role", "kv_role", "is_wrong"),
    [
        (Role.PREFILL, "kv_producer", False),
        (Role.PREFILL, "kv_both", False),
        (Role.PREFILL, "", False),
        (Role.PREFILL, "kv_consumer", True),
        (Role.DECODE, "kv_consumer", False),
        (Role.DECODE, "kv_both", False),
        (Role.DECODE, "kv_producer", True),
        (Role.REGULAR, "kv_producer", False),
    ],
)
def test_roles(role: Role, kv_role: str, is_wrong: bool) -> None:
    """A leg sent to the wrong role would crash the engine."""
    assert bool(conflict(role, info(kv_role))) is is_wrong


def test_an_embedding_model_gets_no_requests() -> None:
    """It generates nothing."""
    assert "generates nothing" in conflict(Role.DECODE, info(is_generation=False))


@pytest.mark.parametrize("text", ["", "no json", "[1]", '{"temperature": "hot", "top_p": true}'])
def test_default_sampling_that_says_nothing(text: str) -> None:
    """A wrong text is no reason to do without the worker."""
    assert default_sampling(text) == {}


def test_another_engine() -> None:
    """Told by what matters for KV, not by its labels."""
    one = worker_info(*NOTHING, pb.GetLoadsResponse())
    server = pb.GetServerInfoResponse(kv_engine_id="new")
    other = worker_info(NOTHING[0], server, pb.GetLoadsResponse())
    assert same_engine(one, worker_info(*NOTHING, pb.GetLoadsResponse()))
    assert not same_engine(one, other)

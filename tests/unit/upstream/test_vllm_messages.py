"""Requests and answers as messages of the contract."""

from __future__ import annotations

import pytest

from app.protocol.engine import (
    Candidate,
    Chunk,
    Complete,
    Constraint,
    EngineRequest,
    Sampling,
    TokenLogprob,
)
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.vllm_messages import from_wire, to_wire


def ask(sampling: Sampling, **named: object) -> pb.GenerateRequest:
    """A request as the worker reads it."""
    request = EngineRequest("id-1", [5, 6], "hi", sampling, stream=True, **named)  # type: ignore[arg-type]
    return pb.GenerateRequest.FromString(to_wire(request))


def test_what_is_unset_gets_neutral_values() -> None:
    """Unset optional fields stay absent; 0 would mean something else for the others."""
    wire = ask(Sampling())
    params = wire.sampling_params
    assert (params.top_p, params.top_k, params.repetition_penalty, params.n) == (1.0, 0, 1.0, 1)
    for name in ("temperature", "max_tokens", "logprobs", "prompt_logprobs", "seed"):
        assert not params.HasField(name)
    assert params.skip_special_tokens
    assert params.spaces_between_special_tokens
    assert params.WhichOneof("constraint") is None
    assert not wire.HasField("kv_transfer_params_json")
    assert not wire.HasField("data_parallel_rank")
    assert (wire.request_id, list(wire.tokenized.input_ids)) == ("id-1", [5, 6])
    assert wire.tokenized.original_text == "hi"
    assert wire.stream


def test_every_value_arrives() -> None:
    """Each field of Sampling in its own field; zeros that mean something included."""
    sampling = Sampling(
        temperature=0.0,
        top_p=0.5,
        top_k=7,
        min_p=0.25,
        frequency_penalty=-1.5,
        presence_penalty=1.5,
        repetition_penalty=1.25,
        max_tokens=9,
        min_tokens=2,
        stop=("END", "x"),
        stop_token_ids=(3, 4),
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        ignore_eos=True,
        n=4,
        logprobs=0,
        prompt_logprobs=-1,
        seed=-5,
        include_stop_str_in_output=True,
        logit_bias={11: -1.0},
        truncate_prompt_tokens=100,
    )
    params = ask(sampling).sampling_params
    assert params.HasField("temperature")
    assert params.temperature == 0.0
    assert params.HasField("logprobs")
    got = (params.top_p, params.top_k, params.min_p, params.repetition_penalty)
    assert got == (0.5, 7, 0.25, 1.25)
    assert (params.frequency_penalty, params.presence_penalty) == (-1.5, 1.5)
    assert (params.max_tokens, params.min_tokens, params.n) == (9, 2, 1)
    assert (list(params.stop), list(params.stop_token_ids)) == (["END", "x"], [3, 4])
    assert (params.logprobs, params.prompt_logprobs, params.seed) == (0, -1, -5)
    assert not params.skip_special_tokens
    assert not params.spaces_between_special_tokens
    assert params.ignore_eos
    assert params.include_stop_str_in_output
    assert dict(params.logit_bias) == {11: -1.0}
    assert params.truncate_prompt_tokens == 100


@pytest.mark.parametrize("top_k", [None, -1, 0])
def test_three_ways_to_say_no_top_k(top_k: int | None) -> None:
    """The wire knows one: 0."""
    assert ask(Sampling(top_k=top_k)).sampling_params.top_k == 0


@pytest.mark.parametrize("kind", ["json_schema", "regex", "grammar", "structural_tag"])
def test_text_constraints(kind: str) -> None:
    """The text in the field of its kind."""
    params = ask(Sampling(constraint=Constraint(kind, "abc"))).sampling_params  # type: ignore[arg-type]
    assert params.WhichOneof("constraint") == kind
    assert getattr(params, kind) == "abc"


def test_other_constraints() -> None:
    """Any JSON object, and a choice."""
    assert ask(Sampling(constraint=Constraint("json_object"))).sampling_params.json_object
    choice = ask(Sampling(constraint=Constraint("choice", ("yes", "no")))).sampling_params.choice
    assert list(choice.choices) == ["yes", "no"]


def test_handoff_and_rank_are_present_even_when_empty() -> None:
    """The text goes letter by letter; rank 0 is a rank."""
    wire = ask(Sampling(), handoff_json='{"a" : 1}', dp_rank=0)
    assert wire.kv_transfer_params_json == '{"a" : 1}'
    assert wire.HasField("data_parallel_rank")


@pytest.mark.parametrize(
    "sampling", [Sampling(seed=2**31), Sampling(stop_token_ids=(-1,)), Sampling(max_tokens=-1)]
)
def test_numbers_that_do_not_fit(sampling: Sampling) -> None:
    """They are the caller's error, not a crash of the channel."""
    with pytest.raises(ValueError, match="out of range"):
        ask(sampling)


def test_chunk() -> None:
    """Tokens, counts and logprobs; a position without its token is left out by the worker."""
    chunk = pb.GenerateStreamChunk(token_ids=[7, 8], prompt_tokens=4, cached_tokens=3, index=1)
    chunk.output_logprobs.token_ids.append(8)
    chunk.output_logprobs.token_logprobs.append(-0.5)
    chunk.output_logprobs.top_logprobs.add(values=[-0.5, -1.0], token_ids=[8, 9])
    chunk.input_logprobs.token_ids.extend([1, 2])
    chunk.input_logprobs.token_logprobs.add()
    chunk.input_logprobs.token_logprobs.add(value=-2.0)
    said = from_wire(pb.GenerateResponse(chunk=chunk))
    assert said == Chunk(
        [7, 8],
        4,
        3,
        (TokenLogprob(8, -0.5, (Candidate(8, -0.5), Candidate(9, -1.0))),),
        (TokenLogprob(1, None), TokenLogprob(2, -2.0)),
        1,
    )


@pytest.mark.parametrize(
    ("matched", "expected"),
    [({}, None), ({"matched_token_id": 0}, 0), ({"matched_stop_str": "END"}, "END")],
)
def test_complete(matched: dict[str, object], expected: int | str | None) -> None:
    """Token 0 is a match as well; the older typed handoff is not one."""
    end = pb.GenerateComplete(
        output_ids=[1],
        finish_reason="stop",
        prompt_tokens=2,
        completion_tokens=1,
        cached_tokens=1,
        kv_transfer_params=pb.KvTransferParams(remote_host="h", remote_port=1),
        **matched,  # type: ignore[arg-type]
    )
    said = from_wire(pb.GenerateResponse(complete=end))
    assert said == Complete([1], "stop", 2, 1, 1, expected, None)
    end.kv_transfer_params_json = ""
    said = from_wire(pb.GenerateResponse(complete=end))
    assert isinstance(said, Complete)
    assert said.handoff_json == ""


def test_a_message_of_a_later_contract_is_no_error() -> None:
    """An answer with neither part says nothing."""
    assert from_wire(pb.GenerateResponse.FromString(b"\x1a\x02ab")) is None

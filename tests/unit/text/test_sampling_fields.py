"""Fields of a body as sampling: ranges, defaults, what the wire cannot carry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.protocol.engine import Constraint, EngineRequest, Sampling
from app.text.chat_request import read_chat
from app.text.completion_request import read_completion
from app.text.sampling import for_choice
from app.text.served_model import ServedModel
from app.upstream.generated import vllm_engine_pb2 as pb
from app.upstream.vllm_messages import to_wire

MESSAGES = [{"role": "user", "content": "Hello"}]


async def sampling(served: ServedModel, **members: Any) -> Sampling:
    """The sampling of a chat body with these members."""
    request = await read_chat({"messages": MESSAGES, **members}, served)
    return request.prompts[0].sampling


def on_wire(made: Sampling) -> pb.SamplingParams:
    """The sampling as a worker reads it."""
    message = to_wire(EngineRequest("x", [1], "", made, stream=False))
    return pb.GenerateRequest.FromString(message).sampling_params


async def test_nothing_set(served: ServedModel) -> None:
    """Without fields and defaults the engine's own hold."""
    assert Sampling() == await sampling(served)


async def test_every_field(served: ServedModel) -> None:
    """Each field arrives, those that SMG drops too."""
    made = await sampling(
        served,
        temperature=0.5,
        top_p=0.9,
        top_k=-1,
        min_p=0.1,
        frequency_penalty=1,
        presence_penalty=-1,
        repetition_penalty=1.2,
        max_completion_tokens=20,
        max_tokens=10,
        min_tokens=2,
        stop=["a", "b"],
        stop_token_ids=[7],
        ignore_eos=True,
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        seed=11,
        logit_bias={"5": -3, "6": 100},
        include_stop_str_in_output=True,
        logprobs=True,
        top_logprobs=3,
        prompt_logprobs=1,
        response_format={"type": "json_object"},
    )
    assert made == Sampling(
        temperature=0.5,
        top_p=0.9,
        top_k=0,
        min_p=0.1,
        frequency_penalty=1.0,
        presence_penalty=-1.0,
        repetition_penalty=1.2,
        max_tokens=20,
        min_tokens=2,
        stop=("a", "b"),
        stop_token_ids=(7,),
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        ignore_eos=True,
        constraint=Constraint("json_object"),
        logprobs=3,
        prompt_logprobs=1,
        seed=11,
        include_stop_str_in_output=True,
        logit_bias={5: -3.0, 6: 100.0},
    )


async def test_worker_defaults_fill_only_what_is_left_out(served: ServedModel) -> None:
    """The five keys, and null is as good as left out."""
    model = replace(
        served, defaults={"temperature": 0.6, "top_k": 20, "top_p": 0.95, "max_new_tokens": 5}
    )
    made = await sampling(model, temperature=0, top_k=None)
    assert (0.0, 20, 0.95, None) == (made.temperature, made.top_k, made.top_p, made.max_tokens)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.1),
        ("temperature", "0.5"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", -0.1),
        ("frequency_penalty", 2.5),
        ("presence_penalty", -2.5),
        ("repetition_penalty", 0),
        ("n", 0),
        ("n", 129),
        ("max_tokens", 0),
        ("max_completion_tokens", 0),
        ("min_tokens", -1),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", [""]),
        ("stop", 5),
        ("stop_token_ids", ["a"]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [10**6]),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"1000000": 1}),
        ("seed", 2**65),
        ("seed", "x"),
        ("top_logprobs", 21),
        ("top_logprobs", 2),
        ("logprobs", 1),
        ("prompt_logprobs", -1),
        ("ignore_eos", 1),
        ("stream_options", {"include_usage": True}),
        ("truncate_prompt_tokens", 0),
    ],
)
async def test_out_of_range(served: ServedModel, field: str, value: Any) -> None:
    """What the engine would refuse is refused here, by name."""
    with pytest.raises(InvalidRequest) as refusal:
        await sampling(served, **{field: value})
    assert refusal.value.param is not None
    assert refusal.value.param.startswith(field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", 1),
        ("lora_path", "x"),
        ("bad_words", ["x"]),
        ("allowed_token_ids", [1]),
        ("logits_processors", ["x"]),
        ("cache_salt", "x"),
        ("guided_decoding_backend", "x"),
        ("use_beam_search", True),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("best_of", 2),
        ("kv_transfer_params", {"do_remote_decode": True}),
        ("thinking_token_budget", 5),
        ("chat_template", "{{ messages }}"),
    ],
)
async def test_what_the_wire_cannot_carry(served: ServedModel, field: str, value: Any) -> None:
    """Never dropped in silence."""
    with pytest.raises(InvalidRequest) as refusal:
        await sampling(served, **{field: value})
    assert ("unsupported_parameter", field) == (refusal.value.code, refusal.value.param)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", 0),
        ("bad_words", []),
        ("modalities", ["text"]),
        ("use_beam_search", False),
        ("lora_path", None),
        ("user", "me"),
        ("metadata", {"a": "b"}),
        ("store", True),
        ("service_tier", "auto"),
        ("prompt_cache_key", "k"),
    ],
)
async def test_harmless(served: ServedModel, field: str, value: Any) -> None:
    """Values that ask for nothing are taken."""
    assert Sampling() == await sampling(served, **{field: value})


async def test_unknown_fields_are_listed(served: ServedModel) -> None:
    """Ignored as vLLM does, but not unseen."""
    request = await read_chat({"messages": MESSAGES, "shiny": 1, "user": "me"}, served)
    assert ("shiny",) == request.unknown


async def test_min_tokens_above_the_budget(served: ServedModel) -> None:
    """They contradict each other."""
    with pytest.raises(InvalidRequest, match="at most 4 tokens"):
        await sampling(served, max_tokens=4, min_tokens=5)


@pytest.mark.parametrize(
    ("seed", "wire"),
    [(0, 0), (2**31 - 1, 2**31 - 1), (-1, None), (2**31 + 5, 5), (2**64 - 1, 2**31 - 1)],
)
async def test_seeds_fit_into_32_bits(served: ServedModel, seed: int, wire: int | None) -> None:
    """A large seed is folded, the same way every time."""
    assert wire == (await sampling(served, seed=seed)).seed


def test_choices_have_their_own_seeds() -> None:
    """Seed + i, and the first choice is that of n = 1."""
    base = Sampling(seed=2**31 - 1)
    assert [2**31 - 1, 0, 1] == [for_choice(base, choice).seed for choice in range(3)]
    assert for_choice(Sampling(), 2).seed is None


async def test_slots(served: ServedModel) -> None:
    """Slot = prompt * n + choice."""
    body = {"prompt": ["a", "b c"], "n": 2, "seed": 4, "max_tokens": 3}
    request = await read_completion(body, served)
    sent = [request.engine_request(slot, f"r{slot}") for slot in range(request.n_slots)]
    assert ["a", "a", "b c", "b c"] == [item.prompt_text for item in sent]
    assert [4, 5, 4, 5] == [item.sampling.seed for item in sent]
    assert [1] * 4 == [item.sampling.n for item in sent]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"logit_bias": {"0" * 5000 + "5": 1}}, "logit_bias"),
        ({"logit_bias": {"00000000005": 1}}, "logit_bias"),
        ({"repetition_penalty": 1e308}, "repetition_penalty"),
        ({"stop": "a" * 1025}, "stop"),
        ({"stop": ["a", "b" * 1025]}, "stop"),
        ({"stop_token_ids": [5, 2**32]}, "stop_token_ids"),
        ({"stop_token_ids": [5, 10_000]}, "stop_token_ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids"),
        ({"stop_token_ids": [5] * 4097}, "stop_token_ids"),
        ({"logit_bias": {"5": 1, "10000": 1}}, "logit_bias"),
    ],
)
async def test_what_hostile_clients_send(
    served: ServedModel, members: dict[str, Any], param: str
) -> None:
    """Named, whatever it would have done further on."""
    with pytest.raises(InvalidRequest) as refusal:
        await sampling(served, **members)
    assert refusal.value.param == param
    assert len(refusal.value.message) < 200


async def test_numbers_too_small_for_the_wire(served: ServedModel) -> None:
    """The servicer takes a 0 for a field that was left out: greedy would become random."""
    made = await sampling(served, top_p=1e-300, repetition_penalty=1e-300, stop="a" * 1024)
    sent = on_wire(made)
    assert 0 < sent.top_p < 1e-37
    assert 0 < sent.repetition_penalty < 1e-37
    largest = await sampling(served, repetition_penalty=3.4e38)
    sent = on_wire(largest)
    assert sent.repetition_penalty < float("inf")

"""Completions, generate and tokenize bodies."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import InvalidRequest
from app.protocol.engine import Sampling
from app.protocol.routes import Route
from app.text.served_model import ServedModel
from app.text.text_request import TextRequest
from app.text.text_route import read_request
from app.text.tokenize_routes import detokenize, tokenize
from app.text.tokenizer import Tokenizer


async def completion(served: ServedModel, prompt: Any = "Hello", **members: Any) -> TextRequest:
    """Reads a completions body."""
    return await read_request(Route.COMPLETIONS, {"prompt": prompt, **members}, served)


async def generate(served: ServedModel, **members: Any) -> TextRequest:
    """Reads a generate body."""
    return await read_request(Route.GENERATE, members, served)


@pytest.mark.parametrize(
    ("prompt", "texts", "is_batch"),
    [
        ("a b", ["a b"], False),
        (["a", "b"], ["a", "b"], True),
        ([65, 66], [None], False),
        ([[65], [66, 67]], [None, None], True),
    ],
)
async def test_prompt_forms(
    served: ServedModel, prompt: Any, texts: list[str | None], is_batch: bool
) -> None:
    """Text, token ids, and lists of either."""
    request = await completion(served, prompt)
    assert texts == [item.text for item in request.prompts]
    assert is_batch == request.is_batch
    if texts == [None]:
        assert [65, 66] == list(request.prompts[0].ids)


@pytest.mark.parametrize("prompt", [None, "", [], [[]], ["a", 1], [1, "a"], 5, [10**6], [[-1]]])
async def test_bad_prompts(served: ServedModel, prompt: Any) -> None:
    """Nothing, mixed kinds, tokens that do not exist."""
    with pytest.raises(InvalidRequest) as refusal:
        await completion(served, prompt)
    assert "prompt" == refusal.value.param


async def test_bos_as_vllm_does_it(bos_tokenizer: Tokenizer) -> None:
    """Added to text, not to token ids, and not if the client says so."""
    served = ServedModel("small", bos_tokenizer, 512)
    bos = bos_tokenizer.bos_id
    assert bos == (await completion(served)).prompts[0].ids[0]
    assert bos != (await completion(served, add_special_tokens=False)).prompts[0].ids[0]
    assert [70] == (await completion(served, [70])).prompts[0].ids
    assert bos == (await generate(served, text="Hello")).prompts[0].ids[0]


async def test_default_budget(served: ServedModel) -> None:
    """16 as in OpenAI's, shrunk to the room there is; null is unlimited."""
    assert 16 == (await completion(served)).prompts[0].sampling.max_tokens
    assert (await completion(served, max_tokens=None)).prompts[0].sampling.max_tokens is None
    tight = await completion(served, [65] * 510)
    assert 2 == tight.prompts[0].sampling.max_tokens
    with pytest.raises(InvalidRequest) as refusal:
        await completion(served, [65] * 510, max_tokens=16)
    assert "context_length_exceeded" == refusal.value.code


async def test_echo_asks_for_the_prompts_logprobs(served: ServedModel) -> None:
    """With logprobs the echoed tokens need theirs."""
    request = await completion(served, [65, 66], echo=True, logprobs=2)
    sampling = request.prompts[0].sampling
    assert (2, 2) == (sampling.logprobs, sampling.prompt_logprobs)
    assert (served.tokenizer.decode([65, 66], False),) == request.shown.echo
    only = await completion(served, echo=True, max_tokens=0)
    assert (True, 1) == (only.shown.is_echo_only, only.prompts[0].sampling.max_tokens)


@pytest.mark.parametrize(
    "members",
    [{"suffix": "x"}, {"best_of": 2}, {"max_tokens": 0}, {"logprobs": True}, {"logprobs": 21}],
)
async def test_refused(served: ServedModel, members: dict[str, Any]) -> None:
    """By name."""
    with pytest.raises(InvalidRequest) as refusal:
        await completion(served, **members)
    assert refusal.value.param in members


async def test_answers_of_one_request_are_bounded(served: ServedModel) -> None:
    """Choices times prompts: each takes two calls."""
    assert (await completion(served, ["a"] * 8, n=128)).n_slots == 1024
    with pytest.raises(InvalidRequest, match="128 for 9 prompts; at most 1024") as refusal:
        await completion(served, ["a"] * 9, n=128)
    assert refusal.value.param == "n"
    with pytest.raises(InvalidRequest) as refusal:
        await generate(served, text=["a"] * 9, sampling_params={"n": 128})
    assert refusal.value.param == "sampling_params.n"


async def test_best_of_n(served: ServedModel) -> None:
    """best_of = n asks for nothing."""
    assert 2 == (await completion(served, best_of=2, n=2)).n


async def test_generate_fields(served: ServedModel) -> None:
    """SGLang's names, and its default budget."""
    params = {
        "max_new_tokens": 5,
        "min_new_tokens": 2,
        "temperature": 0,
        "sampling_seed": 3,
        "stop": "x",
        "no_stop_trim": True,
        "top_k": -1,
        "regex": "a+",
        "n": 2,
    }
    request = await generate(served, text="Hello", sampling_params=params)
    sampling = request.prompts[0].sampling
    assert (5, 2, 3, ("x",), True, 0, 0.0, 2) == (
        sampling.max_tokens,
        sampling.min_tokens,
        sampling.seed,
        sampling.stop,
        sampling.include_stop_str_in_output,
        sampling.top_k,
        sampling.temperature,
        request.n,
    )
    assert Sampling(max_tokens=128) == (await generate(served, input_ids=[65])).prompts[0].sampling


async def test_generate_logprobs(served: ServedModel) -> None:
    """From a prompt token on, or the answer's only."""
    request = await generate(
        served, text="Hello", return_logprob=True, top_logprobs_num=2, logprob_start_len=1
    )
    sampling = request.prompts[0].sampling
    assert (2, 2, 1) == (
        sampling.logprobs,
        sampling.prompt_logprobs,
        request.shown.prompt_logprobs_from,
    )
    plain = await generate(served, text=["a", "b"], return_logprob=[True, True])
    assert (0, None) == (
        plain.prompts[1].sampling.logprobs,
        plain.prompts[1].sampling.prompt_logprobs,
    )


async def test_generate_batch(served: ServedModel) -> None:
    """Each prompt may have its own sampling."""
    params = [{"max_new_tokens": 1}, {"max_new_tokens": 2}]
    request = await generate(served, input_ids=[[65], [66]], sampling_params=params)
    assert [1, 2] == [prompt.sampling.max_tokens for prompt in request.prompts]
    assert request.is_batch


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({}, "text"),
        ({"text": 5}, "text"),
        ({"text": [65]}, "text"),
        ({"input_ids": "x"}, "input_ids"),
        ({"text": "a", "image_data": "x"}, "image_data"),
        ({"text": "a", "sampling_params": []}, "sampling_params"),
        ({"text": "a", "sampling_params": {"top_p": 2}}, "sampling_params.top_p"),
        ({"text": "a", "sampling_params": {"stop_regex": "x"}}, "sampling_params.stop_regex"),
        (
            {"text": "a", "sampling_params": {"max_new_tokens": 1, "min_new_tokens": 2}},
            "sampling_params.min_new_tokens",
        ),
        (
            {"text": ["a", "b"], "sampling_params": [{"n": 1}, {"n": 2}]},
            "sampling_params.n",
        ),
        ({"text": ["a", "b"], "return_logprob": [True, False]}, "return_logprob"),
    ],
)
async def test_generate_refuses(served: ServedModel, members: dict[str, Any], param: str) -> None:
    """By name."""
    with pytest.raises(InvalidRequest) as refusal:
        await generate(served, **members)
    assert param == refusal.value.param


async def test_tokenize(served: ServedModel) -> None:
    """A prompt, a list of them, or messages."""
    ids = served.tokenizer.encode("Hello world", True)
    assert await tokenize({"prompt": "Hello world"}, served) == {
        "count": len(ids),
        "max_model_len": 512,
        "tokens": ids,
        "token_strs": None,
    }
    named = await tokenize({"prompt": "Hello world", "return_token_strs": True}, served)
    assert "Hello world" == "".join(named["token_strs"])
    listed = await tokenize({"prompt": ["Hello world", ""]}, served)
    assert ([ids, []], [len(ids), 0]) == (listed["tokens"], listed["count"])
    chat = await tokenize({"messages": [{"role": "user", "content": "Hi"}]}, served)
    text = served.tokenizer.decode(chat["tokens"], False)
    assert text.endswith("<|im_start|>assistant\n")


async def test_detokenize(served: ServedModel) -> None:
    """There and back; special tokens are shown unless they are to be skipped."""
    ids = served.tokenizer.encode("Hello<|im_end|>", False)
    assert {"prompt": "Hello<|im_end|>"} == detokenize({"tokens": ids}, served)
    skipped = detokenize({"tokens": [ids, []], "skip_special_tokens": True}, served)
    assert {"prompt": ["Hello", ""]} == skipped


@pytest.mark.parametrize("tokens", [None, "x", [-1], [10**6], ["a"], [[1], 2]])
async def test_detokenize_refuses(served: ServedModel, tokens: Any) -> None:
    """What are no tokens of this model."""
    with pytest.raises(InvalidRequest):
        detokenize({"tokens": tokens}, served)


async def test_tokenize_refuses(served: ServedModel) -> None:
    """A body with neither prompt nor messages."""
    with pytest.raises(InvalidRequest):
        await tokenize({}, served)

"""What ``peek`` reads, and what it refuses."""

from __future__ import annotations

import struct
from typing import Any

import orjson
import pytest

from app.errors import InvalidRequest
from app.protocol.facts import RequestFacts, peek
from app.protocol.routes import Route

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
RID = "chatcmpl-" + "0" * 32
OTHER_RID = "chatcmpl-" + "1" * 32


def chat(**members: Any) -> RequestFacts:
    """Peeks at a chat body with these members."""
    return peek(Route.CHAT, orjson.dumps({"messages": MESSAGES, **members}))


def completions(**members: Any) -> RequestFacts:
    """Peeks at a completions body with these members."""
    return peek(Route.COMPLETIONS, orjson.dumps(members))


def generate(**members: Any) -> RequestFacts:
    """Peeks at a generate body with these members."""
    return peek(Route.GENERATE, orjson.dumps(members))


def test_chat_facts() -> None:
    """A plain chat body gives its model, budget and stream wish."""
    facts = chat(
        model="m", stream=True, max_completion_tokens=7, stream_options={"include_usage": True}
    )
    assert ("m", True, 1, None, 7, True) == (
        facts.model,
        facts.stream,
        facts.n,
        facts.batch,
        facts.max_tokens,
        facts.include_usage,
    )
    assert b"user\0What is the capital of France?" == facts.prompt_key
    assert 34 // 4 == facts.n_prompt_tokens
    assert () == facts.fan_out_patches


def test_chat_key_starts_with_the_tools() -> None:
    """Tools stand before the messages in the template, so they start the key."""
    assert chat(tools=[{"type": "function"}]).prompt_key.startswith(b'[{"type":"function"}]')


def test_chat_parts_and_images() -> None:
    """Text parts are read; an image counts by its beginning only."""
    image = {"type": "image_url", "image_url": {"url": "data:" + "x" * 1000}}
    content = [{"type": "text", "text": "Look"}, image]
    facts = peek(Route.CHAT, orjson.dumps({"messages": [{"role": "user", "content": content}]}))
    assert b"user\0Look\0" + orjson.dumps(image)[:256] == facts.prompt_key
    assert 2 == facts.n_prompt_tokens


def test_key_is_cut_to_its_limit() -> None:
    """The key of a long text ends at 1 MiB, the estimate counts all of it."""
    facts = completions(prompt="ä" * 700_000)
    assert 1024 * 1024 == len(facts.prompt_key)
    assert 175_000 == facts.n_prompt_tokens


@pytest.mark.parametrize(
    ("prompt", "batch", "n_tokens"),
    [
        ("four", None, 1),
        (["four", "five"], 2, 2),
        (["four"], 1, 1),
        ([1, 2, 3], None, 3),
        ([[1, 2, 3], [4]], 2, 4),
    ],
)
def test_completions_batches(prompt: object, batch: int | None, n_tokens: int) -> None:
    """A list of texts or of id lists is a batch, a list of ids is one prompt."""
    facts = completions(prompt=prompt)
    assert (batch, n_tokens) == (facts.batch, facts.n_prompt_tokens)


def test_ids_key() -> None:
    """Token ids are 4 bytes each, little-endian."""
    assert struct.pack("<2I", 1, 70_000) == generate(input_ids=[1, 70_000]).prompt_key


@pytest.mark.parametrize(
    ("members", "batch"),
    [
        ({"text": "a"}, None),
        ({"text": ["a", "b"]}, 2),
        ({"text": ["a"]}, 1),
        ({"input_ids": [1, 2]}, None),
        ({"input_ids": [[1], [2], [3]]}, 3),
        ({"input_embeds": [[0.5], [0.25]]}, None),
        ({"input_embeds": [[[0.5]], [[0.25]]]}, 2),
        ({"text": "a", "input_ids": [[1], [2]]}, None),
    ],
)
def test_generate_batches(members: dict[str, object], batch: int | None) -> None:
    """Generate's batches follow the input that the engine looks at first."""
    assert batch == generate(**members).batch


@pytest.mark.parametrize(
    ("route", "body", "param", "code"),
    [
        (Route.CHAT, {}, "messages", "missing_required_parameter"),
        (Route.CHAT, {"messages": None}, "messages", "missing_required_parameter"),
        (Route.CHAT, {"messages": []}, "messages", "invalid_request"),
        (Route.CHAT, {"messages": ["hi"]}, "messages[0]", "invalid_request"),
        (Route.COMPLETIONS, {}, "prompt", "missing_required_parameter"),
        (Route.COMPLETIONS, {"prompt": []}, "prompt", "invalid_request"),
        (Route.COMPLETIONS, {"prompt": [""] * 1025}, "prompt", "invalid_request"),
        (Route.COMPLETIONS, {"prompt": ["a", 1]}, "prompt", "invalid_request"),
        (Route.COMPLETIONS, {"prompt": [1, "a"]}, "prompt", "invalid_request"),
        (Route.COMPLETIONS, {"prompt": [[1], []]}, "prompt", "invalid_request"),
        (Route.COMPLETIONS, {"prompt": [True]}, "prompt", "invalid_request"),
        (Route.COMPLETIONS, {"prompt": [-1]}, "prompt", "invalid_request"),
        (Route.COMPLETIONS, {"prompt": 3}, "prompt", "invalid_request"),
        (Route.COMPLETIONS, {"prompt": "a", "n": 2, "best_of": 3}, "best_of", "invalid_request"),
        (Route.GENERATE, {}, "text", "missing_required_parameter"),
        (Route.GENERATE, {"text": []}, "text", "invalid_request"),
        (Route.GENERATE, {"text": 1}, "text", "invalid_request"),
        (Route.GENERATE, {"input_ids": []}, "input_ids", "invalid_request"),
        (Route.GENERATE, {"input_ids": [1.5]}, "input_ids", "invalid_request"),
        (Route.GENERATE, {"input_embeds": [1]}, "input_embeds", "invalid_request"),
        (Route.GENERATE, {"text": "a", "sampling_params": 1}, "sampling_params", "invalid_request"),
        (
            Route.GENERATE,
            {"text": ["a", "b"], "sampling_params": [{}]},
            "sampling_params",
            "invalid_request",
        ),
        (
            Route.GENERATE,
            {"text": ["a", "b"], "sampling_params": [{"n": 1}, {"n": 2}]},
            "sampling_params.n",
            "invalid_request",
        ),
    ],
)
def test_refused_bodies(route: Route, body: dict[str, object], param: str, code: str) -> None:
    """What routing depends on is refused with the parameter's name when it is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        peek(route, orjson.dumps(body))
    assert (400, param, code) == (caught.value.status, caught.value.param, caught.value.code)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("bootstrap_host", "h"),
        ("bootstrap_port", 1),
        ("bootstrap_room", None),
        ("disagg_prefill_dp_rank", 0),
        ("routed_dp_rank", 0),
        ("data_parallel_rank", 0),
        ("n", 0),
        ("n", 129),
        ("n", True),
        ("n", 1.0),
        ("n", "2"),
        ("stream", 1),
        ("model", 1),
    ],
)
def test_refused_members(member: str, value: object) -> None:
    """The gateway's own members and unusable ones are refused by name."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**{member: value})
    assert member == caught.value.param


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"[1]", "object"),
        (b'"a"', "object"),
        (b'{"a":', "valid JSON"),
        (b'{"a":"\xff"}', "valid JSON"),
        (b"{} {}", "valid JSON"),
    ],
)
def test_refused_documents(body: bytes, text: str) -> None:
    """Bodies that are no JSON object are refused with a sentence that says why."""
    with pytest.raises(InvalidRequest, match=text):
        peek(Route.CHAT, body)


def test_escaped_private_key() -> None:
    """A private key is found behind its escapes, too."""
    with pytest.raises(InvalidRequest) as caught:
        peek(Route.GENERATE, b'{"text":"a","bootstrap\\u005froom":1}')
    assert "bootstrap_room" == caught.value.param


def test_deep_tools() -> None:
    """Nesting beyond the JSON writer's depth is refused, not an error of ours."""
    body = b'{"messages":[{}],"tools":' + b"[" * 400 + b"]" * 400 + b"}"
    with pytest.raises(InvalidRequest, match="deeply"):
        peek(Route.CHAT, body)


def test_nulls_are_defaults() -> None:
    """Null stands for the default in n, stream and model."""
    facts = chat(n=None, stream=None, model=None)
    assert (1, False, None) == (facts.n, facts.stream, facts.model)


def test_client_rid_single() -> None:
    """A long id is kept, a short one or a list for a single prompt is not."""
    assert RID == chat(rid=RID).client_rid
    assert chat(rid="short").client_rid is None
    assert chat(rid=RID + "/").client_rid is None
    assert chat(rid=[RID]).client_rid is None


def test_client_rid_batch() -> None:
    """A batch's ids are kept when there is one each and none begins another."""
    prompt = ["a", "b"]
    assert (RID, OTHER_RID) == completions(prompt=prompt, rid=[RID, OTHER_RID]).client_rid
    for rid in (RID, [RID], [RID, RID], [RID, RID + "0"], [RID, None]):
        assert completions(prompt=prompt, rid=rid).client_rid is None


def test_prompt_logprobs_only_on_generate() -> None:
    """Only generate asks for prefill's logprobs."""
    assert not chat(logprobs=True, logprob_start_len=0).wants_prompt_logprobs


@pytest.mark.parametrize(
    ("flags", "starts", "is_wanted"),
    [
        (True, 0, True),
        (True, 3, True),
        (True, None, False),
        (True, -1, False),
        (True, "0", False),
        (False, 0, False),
        (None, 0, False),
        ([False, True], 0, True),
        ([False, True], [0, -1], False),
        ([False, True], [-1, 0], True),
        ([False, False], 0, False),
        (True, [-1, 2], True),
        (True, [-1, -1], False),
        ([True], [], False),
    ],
)
def test_prompt_logprobs_start_in_the_prompt(flags: Any, starts: Any, is_wanted: bool) -> None:
    """Without a place to start from, or from -1, the engine gives the output's only."""
    facts = generate(text=["a", "b"], return_logprob=flags, logprob_start_len=starts)
    assert is_wanted is facts.wants_prompt_logprobs


def test_generate_budget_of_a_list() -> None:
    """A batch's budget is its largest."""
    params = [{"max_new_tokens": 5}, {"max_new_tokens": 9}]
    assert 9 == generate(text=["a", "b"], sampling_params=params).max_tokens


def test_fan_out_patches_of_chat() -> None:
    """Each child asks for one choice, with its own seed where one is given."""
    assert (b'"n":1,"seed":7', b'"n":1,"seed":8') == chat(n=2, seed=7).fan_out_patches
    assert (b'"n":1', b'"n":1') == chat(n=2).fan_out_patches


def test_fan_out_patches_of_completions() -> None:
    """A ``best_of`` equal to n becomes 1."""
    facts = completions(prompt="a", n=2, best_of=2)
    assert (b'"n":1,"best_of":1',) * 2 == facts.fan_out_patches


def test_fan_out_patches_of_generate() -> None:
    """Sampling parameters are kept but for n and the seeds, of lists too."""
    facts = generate(text="a", sampling_params={"n": 2, "temperature": 0.5, "sampling_seed": 3})
    assert [
        {"sampling_params": {"n": 1, "temperature": 0.5, "sampling_seed": 3 + child}}
        for child in range(2)
    ] == [orjson.loads(b"{" + patch + b"}") for patch in facts.fan_out_patches]
    facts = generate(text=["a", "b"], sampling_params=[{"n": 2}, {"n": 2, "seed": 1}])
    assert {"sampling_params": [{"n": 1}, {"n": 1, "seed": 2}]} == orjson.loads(
        b"{" + facts.fan_out_patches[1] + b"}"
    )


def test_largest_seed() -> None:
    """A seed at the end of 64 signed bits goes on at the other end."""
    facts = chat(n=2, seed=2**63 - 1)
    assert b'"n":1,"seed":-9223372036854775808' == facts.fan_out_patches[1]

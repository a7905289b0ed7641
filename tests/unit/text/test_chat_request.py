"""From a chat body to tokens and a plan for the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.errors import InvalidRequest
from app.protocol.engine import Constraint
from app.text.chat_request import read_chat
from app.text.client_templates import ClientTemplates
from app.text.parsers import reasoning_parsers, tool_parsers
from app.text.parsers.section_parsers import KimiK2Parser
from app.text.served_model import ServedModel
from app.text.text_request import TextRequest
from app.text.tokenizer import Tokenizer
from app.text.tool_choice import read_tools

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


async def chat(served: ServedModel, **members: Any) -> TextRequest:
    """Reads a chat body with these members."""
    return await read_chat({"messages": HELLO, **members}, served)


async def refusal(served: ServedModel, **members: Any) -> InvalidRequest:
    """The refusal of such a body."""
    with pytest.raises(InvalidRequest) as caught:
        await chat(served, **members)
    return caught.value


async def test_prompt_is_rendered_and_tokenized(served: ServedModel) -> None:
    """The template's text, without special tokens added to it."""
    request = await chat(served, model="alias")
    text = request.prompts[0].text or ""
    assert "<|im_start|>user\nHello<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n")
    assert served.tokenizer.encode(text, False) == request.prompts[0].ids
    assert ("alias", 1, False, False) == (
        request.model,
        request.n,
        request.stream,
        request.is_batch,
    )


async def test_no_bos_is_added(bos_tokenizer: Tokenizer) -> None:
    """The template writes BOS itself where a model wants one."""
    served = ServedModel("small", bos_tokenizer, 512)
    plain = (await chat(served)).prompts[0].ids
    asked = (await chat(served, add_special_tokens=True)).prompts[0].ids
    assert [bos_tokenizer.bos_id, *plain] == asked


async def test_parts_roles_and_calls(served: ServedModel) -> None:
    """Parts are joined, arguments become objects, the older function forms become tools'."""
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "one"}, "two"]},
        {"role": "user", "content": [{"type": "input_text", "text": "three"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "assistant", "function_call": {"name": "weather", "arguments": ""}},
        {"role": "function", "name": "weather", "content": "rainy"},
    ]
    text = (await chat(served, messages=messages, tools=[WEATHER])).prompts[0].text or ""
    for piece in ("one\ntwo", "three", '"city": "Paris"', "sunny", "rainy", '"weather"'):
        assert piece in text


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages[0].role"),
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[0].content[0].type",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].function"),
        (
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "x", "arguments": "{"}}],
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
async def test_bad_messages(served: ServedModel, message: dict[str, Any], param: str) -> None:
    """The place is named."""
    assert param == (await refusal(served, messages=[message])).param


async def test_too_long(served: ServedModel) -> None:
    """Refused with numbers: the prompt alone, and with the budget asked for."""
    long = await refusal(served, messages=[{"role": "user", "content": "1 " * 600}])
    assert ("context_length_exceeded", "messages") == (long.code, long.param)
    assert "512" in long.message
    length = len((await chat(served)).prompts[0].ids)
    assert (await chat(served, max_tokens=512 - length)).prompts[0].sampling.max_tokens
    over = await refusal(served, max_tokens=513 - length)
    assert str(length) in over.message
    assert str(513 - length) in over.message


async def test_truncation_keeps_the_end(served: ServedModel) -> None:
    """The gateway cuts: the wire's field has no effect on tokens."""
    whole = (await chat(served)).prompts[0].ids
    cut = (await chat(served, truncate_prompt_tokens=5)).prompts[0]
    assert whole[-5:] == cut.ids
    assert cut.sampling.truncate_prompt_tokens is None
    long = [{"role": "user", "content": "1 " * 600}]
    filled = await chat(served, messages=long, truncate_prompt_tokens=-1)
    assert 511 == len(filled.prompts[0].ids)


async def test_continue_final_message(served: ServedModel) -> None:
    """The prompt ends inside the last message, which echo gives back."""
    messages = [*HELLO, {"role": "assistant", "content": "Well,"}]
    request = await chat(served, messages=messages, continue_final_message=True, echo=True)
    assert (request.prompts[0].text or "").endswith("Well,")
    assert ("Well,",) == request.shown.echo
    both = {"continue_final_message": True, "add_generation_prompt": True}
    assert "continue_final_message" == (await refusal(served, messages=messages, **both)).param


async def test_template_switches(served: ServedModel) -> None:
    """reasoning_effort none turns thinking off; an explicit argument wins."""
    plain = (await chat(served)).prompts[0].text
    off = (await chat(served, reasoning_effort="none")).prompts[0].text
    explicit = {"enable_thinking": True}
    on = await chat(served, reasoning_effort="none", chat_template_kwargs=explicit)
    assert plain != off
    assert plain == on.prompts[0].text


async def test_clients_template(served: ServedModel) -> None:
    """Refused with the flag's name; where the operator has set it, the message is written by it."""
    untrusted = await refusal(served, chat_template="{{ messages[0].content }}!")
    assert ("chat_template", "unsupported_parameter") == (untrusted.param, untrusted.code)
    assert "--trust-request-chat-template" in untrusted.message
    templates = ClientTemplates()
    try:
        trusting = replace(served, client_templates=templates)
        made = await chat(trusting, chat_template="{{ messages[0].content }}!")
        assert "Hello!" == made.prompts[0].text
    finally:
        templates.close()


async def test_parsers(thinker: ServedModel) -> None:
    """Chosen by tools, tool_choice and constraint."""
    plain = (await chat(thinker)).parsing
    assert plain.new_reasoning is not None
    assert plain.new_tools is None
    auto = (await chat(thinker, tools=[WEATHER])).parsing
    assert auto.new_tools is not None
    none = (await chat(thinker, tools=[WEATHER], tool_choice="none")).parsing
    assert none.new_tools is None
    unparsed = (await chat(thinker, separate_reasoning=False)).parsing
    assert unparsed.new_reasoning is None


async def test_constraint_from_the_first_token_leaves_no_thought(thinker: ServedModel) -> None:
    """Unless the worker applies it behind the thought."""
    wanted = {"response_format": {"type": "json_object"}}
    assert (await chat(thinker, **wanted)).parsing.new_reasoning is None
    patient = replace(thinker, constrains_after_thought=True)
    assert (await chat(patient, **wanted)).parsing.new_reasoning is not None


async def test_forced_calls_replace_the_clients_constraint(served: ServedModel) -> None:
    """Both cannot hold."""
    forced = await chat(
        served, tools=[WEATHER], tool_choice="required", response_format={"type": "json_object"}
    )
    constraint = forced.prompts[0].sampling.constraint
    assert isinstance(constraint, Constraint)
    assert "json_schema" == constraint.kind
    assert forced.parsing.new_tools is not None


def tag_of(request: TextRequest) -> Any:
    """The format of the structural tag that binds a request."""
    constraint = request.prompts[0].sampling.constraint
    assert constraint is not None
    assert constraint.kind == "structural_tag"
    return orjson.loads(str(constraint.value))["format"]


async def test_forced_calls_in_the_models_own_format(thinker: ServedModel) -> None:
    """Where the operator has named a parser that has tags, and the worker's word decides more."""
    forced: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required"}
    kimi = replace(thinker, tool_format=tool_parsers.by_name("kimik2"))
    guessed = await chat(kimi, **forced)
    assert guessed.prompts[0].sampling.constraint == read_tools(forced).constraint()
    assert guessed.parsing.new_reasoning is None
    kimi = replace(kimi, tool_parser="kimi_k2")
    request = await chat(kimi, **forced)
    assert not request.prompts[0].sampling.skip_special_tokens
    # Nobody knows whether the worker's grammar begins in front of the thought or behind it.
    assert tag_of(request)["elements"][0]["type"] == "optional"
    assert request.parsing.new_reasoning is not None
    assert request.parsing.new_tools is not None
    assert isinstance(request.parsing.new_tools(), KimiK2Parser)
    off = await chat(kimi, **forced, reasoning_effort="none")
    behind = await chat(replace(kimi, constrains_after_thought=True), **forced)
    assert {"tag"} == {tag_of(made)["type"] for made in (off, behind)}
    inside = replace(kimi, thought_format=reasoning_parsers.by_name("kimi_thinking"))
    for says_so, kind in ((False, "optional"), (True, "sequence")):
        made = await chat(replace(inside, constrains_first_token=says_so), **forced)
        assert kind == tag_of(made)["elements"][0]["type"]


async def test_mistrals_newer_format_where_the_vocabulary_has_it(
    served: ServedModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token that stands before the arguments came with it."""
    named = {"type": "function", "function": {"name": "weather"}}
    mistral = replace(
        served,
        tool_format=tool_parsers.by_name("mistral"),
        tool_parser="mistral",
        tokenizer=tokenizer,
    )
    forced: dict[str, Any] = {"tools": [WEATHER], "tool_choice": named}
    assert tag_of(await chat(mistral, **forced))["begin"] == "[TOOL_CALLS] ["
    monkeypatch.setattr(Tokenizer, "token_id", lambda _, text: 9 if text == "[ARGS]" else None)
    (tag,) = tag_of(await chat(mistral, **forced))["tags"]
    assert tag["begin"] == "[TOOL_CALLS]weather[ARGS]"


async def test_special_tokens_stay_for_tool_parsers(thinker: ServedModel) -> None:
    """The engine is told the same, so that stop strings match in the same text."""
    assert (await chat(thinker)).prompts[0].sampling.skip_special_tokens
    with_tools = await chat(thinker, tools=[WEATHER])
    assert not with_tools.prompts[0].sampling.skip_special_tokens


async def test_shown(served: ServedModel) -> None:
    """Usage and logprobs wishes."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    request = await chat(served, stream=True, stream_options=options, logprobs=True)
    shown = request.shown
    assert (True, True, True, 0) == (shown.usage, shown.running_usage, shown.logprobs, shown.n_top)
    assert 0 == request.prompts[0].sampling.logprobs
    assert "prompt_logprobs" == (await refusal(served, stream=True, prompt_logprobs=1)).param
    wrong = {"include_usage": "yes"}
    failed = await refusal(served, stream=True, stream_options=wrong)
    assert "stream_options.include_usage" == failed.param

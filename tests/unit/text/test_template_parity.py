"""Chat templates render here as ``apply_chat_template`` of transformers renders them."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import transformers

from app.errors import InvalidRequest
from app.sim.small_tokenizer import write_small_tokenizer
from app.sim.small_tokenizer_text import CHAT_TEMPLATE
from app.text.chat_template import ChatTemplate

FOLDER = Path(__file__).with_name("templates")
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
SOURCES["small"] = CHAT_TEMPLATE
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a <city> & more: \u00e9t\u00e9 \u4e16",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {}}},
]
USER = {"role": "user", "content": " What <b>is</b> 1 & 1? \u4e16\u754c\n"}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "now", "arguments": {"a": [1]}}}
CALLS: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '{"t": 5}', "tool_call_id": "abcdefghi"}
CHATS: dict[str, list[dict[str, Any]]] = {
    "question": [USER],
    "system": [{"role": "system", "content": " Be kind. "}, USER],
    "turns": [
        USER,
        {"role": "assistant", "content": "Two.  "},
        {"role": "user", "content": "Sure?"},
    ],
    "answer": [
        USER,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nTwo.", "name": None},
    ],
    "thought": [USER, {"role": "assistant", "content": "Two.", "reasoning": "One and one."}],
    "calls": [USER, CALLS, RESULT, {"role": "assistant", "content": "Five."}, USER],
    "parallel": [USER, {**CALLS, "content": "So:", "tool_calls": [CALL, CALL]}, RESULT, RESULT],
    "same role": [USER, USER],
}
OPTIONS: list[dict[str, Any]] = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": False},
    {"add_generation_prompt": True, "tools": TOOLS},
    {"add_generation_prompt": True, "tools": []},
    {"add_generation_prompt": False, "continue_final_message": True},
    {"add_generation_prompt": True, "documents": [{"title": "A \u00e9", "text": "b"}]},
    {"add_generation_prompt": True, "kwargs": {"enable_thinking": False, "thinking": True}},
    {"add_generation_prompt": True, "kwargs": {"date_string": "7 May 2031", "bos_token": "<B>"}},
    {"add_generation_prompt": True, "tools": TOOLS, "kwargs": {"tools_in_user_message": False}},
]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of transformers that knows the special tokens."""
    folder = tmp_path_factory.mktemp("oracle")
    write_small_tokenizer(folder)
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(folder / "tokenizer.json"), **TOKENS
    )


@functools.cache
def compiled(source: str) -> ChatTemplate:
    """The template as a model's default one."""
    return ChatTemplate({"default": source}, TOKENS)


def render_both(
    oracle: Any, source: str, chat: list[dict[str, Any]], options: dict[str, Any]
) -> tuple[str | None, str | None]:
    """Both texts; None for a refusal."""
    oracle.chat_template = source
    kwargs = options.get("kwargs", {})
    others = {key: value for key, value in options.items() if key != "kwargs"}
    expected: str | None
    got: str | None
    try:
        expected = oracle.apply_chat_template(
            copy.deepcopy(chat), tokenize=False, **others, **kwargs
        )
    except Exception:  # noqa: BLE001 - it lets through whatever a template raises
        expected = None
    try:
        got = compiled(source).render(chat, **others, kwargs=kwargs)
    except InvalidRequest:
        got = None
    return expected, got


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "parts_only"])
@pytest.mark.parametrize("chat", CHATS)
def test_same_text_as_transformers(oracle: Any, name: str, chat: str) -> None:
    """With every set of options; where one refuses, the other does, too."""
    before = copy.deepcopy(CHATS[chat])
    for options in OPTIONS:
        expected, got = render_both(oracle, SOURCES[name], CHATS[chat], options)
        assert expected == got, options
    assert before == CHATS[chat]


def test_most_combinations_render(oracle: Any) -> None:
    """The comparison above is not one of refusals only."""
    results = [
        render_both(oracle, source, chat, options)[1]
        for source in SOURCES.values()
        for chat in CHATS.values()
        for options in OPTIONS[:3]
    ]
    n_rendered = sum(result is not None for result in results)
    assert n_rendered > len(results) * 0.7


def test_parts_are_handed_to_templates_that_take_only_them(oracle: Any) -> None:
    """Text becomes a part; a list stays a list."""
    template = ChatTemplate({"default": SOURCES["parts_only"]}, TOKENS)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    as_list = [{"role": "user", "content": parts}]
    oracle.chat_template = SOURCES["parts_only"]
    expected = oracle.apply_chat_template(as_list, tokenize=False, add_generation_prompt=True)
    assert expected == template.render(as_list)
    assert template.render([{"role": "user", "content": [{"type": "text", "text": "x"}]}]) == (
        template.render([{"role": "user", "content": "x"}])
    )


@pytest.mark.parametrize("field", ["content", "reasoning_content"])
def test_continuing_a_named_field(oracle: Any, field: str) -> None:
    """Ends inside of the thought or of the content, white space kept as transformers does."""
    chat = [USER, {"role": "assistant", "content": "Two ", "reasoning_content": "One and "}]
    options = {"continue_final_message": field, "add_generation_prompt": False}
    n_rendered = 0
    for name in SOURCES.keys() - {"parts_only"}:
        expected, got = render_both(oracle, SOURCES[name], chat, options)
        assert expected == got, name
        n_rendered += got is not None
    assert n_rendered >= 3

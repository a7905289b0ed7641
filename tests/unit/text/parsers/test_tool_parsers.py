"""Which format a name or a model means, and the ids of its calls."""

from __future__ import annotations

import re
from typing import Any

import pytest

from app.text.parsers import tool_parsers
from app.text.parsers.call_ids import count_calls
from tests.unit.text.parsers.parsing import TOOLS, WRITERS, parse


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen"),
        ("Qwen/Qwen3-8B", "qwen"),
        ("Qwen/QwQ-32B", "qwen"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen_xml"),
        ("Qwen/Qwen3.5-4B", "qwen_xml"),
        ("NousResearch/Hermes-2-Pro-Mistral-7B", "qwen"),
        ("NousResearch/Hermes-3-Llama-3.2-3B", "qwen"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama"),
        ("meta-llama/Meta-Llama-3-8B", "llama"),
        ("meta-llama/Llama-2-7b-chat-hf", "json"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "pythonic"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral"),
        ("mistralai/Devstral-Small-2507", "mistral"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek31"),
        ("deepseek-ai/DeepSeek-V3.2-Exp", "deepseek31"),
        ("deepseek-ai/DeepSeek-V3.2", "deepseek32"),
        ("deepseek-ai/DeepSeek-V4-Pro", "deepseek_v4"),
        ("moonshotai/Kimi-K2-Instruct", "kimik2"),
        ("moonshotai/Kimi-K2.5", "kimik2"),
        ("moonshotai/Kimi-K3", "none"),
        ("zai-org/GLM-4.5-Air", "glm45_moe"),
        ("zai-org/GLM-4.7", "glm47_moe"),
        ("zai-org/glm-4-9b-chat", "json"),
        ("MiniMaxAI/MiniMax-M2", "minimax_m2"),
        ("CohereLabs/c4ai-command-r7b-12-2024", "cohere"),
        ("google/gemma-3-4b-it", "json"),
        ("stepfun-ai/step3", "none"),
        ("openai/gpt-oss-20b", "none"),
        ("facebook/opt-125m", "none"),
    ],
)
def test_formats_of_models(model: str, name: str) -> None:
    """The longest pattern in a model's name decides, whatever the case."""
    assert tool_parsers.for_model(model).name == name
    assert tool_parsers.for_model(model.upper()).name == name


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("hermes", "qwen"),
        ("qwen_coder", "qwen_xml"),
        ("qwen3_coder", "qwen_xml"),
        ("llama3_json", "llama"),
        ("deepseek_v31", "deepseek31"),
        ("kimi_k2", "kimik2"),
        ("glm45", "glm45_moe"),
        ("Mistral", "mistral"),
        ("passthrough", "none"),
    ],
)
def test_names_of_other_servers(alias: str, name: str) -> None:
    """The names that vLLM and SGLang use are known, too."""
    assert tool_parsers.by_name(alias).name == name


def test_unknown_name() -> None:
    """An unknown name is an error that lists the known ones."""
    with pytest.raises(ValueError, match="no tool-call parser 'x'; there are none, passthrough, "):
        tool_parsers.by_name("x")


def test_every_format_is_tested() -> None:
    """The writers of the tests cover every format there is."""
    names = {form.name for form in tool_parsers.BY_NAME.values() if form.parses}
    assert names == set(WRITERS)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("qwen", r"call_[0-9a-f]{24}"),
        ("mistral", r"[0-9a-f]{9}"),
        ("kimik2", r"functions\.now:[01]"),
    ],
)
def test_ids(name: str, pattern: str) -> None:
    """Each call has an id of its own, in the form the model's template takes back."""
    text = WRITERS[name]([("now", {}), ("now", {})])
    parsed = parse(tool_parsers.by_name(name)(TOOLS), [text])
    assert len(set(parsed.ids)) == 2
    assert all(re.fullmatch(pattern, call_id) for call_id in parsed.ids)


def test_ids_are_drawn_from_the_source_given() -> None:
    """The randomness is the caller's to choose."""
    make_id = tool_parsers.by_name("qwen").ids(draw=lambda n_bytes: "ab" * n_bytes)
    assert make_id("now", 0) == "call_" + "ab" * 12
    assert tool_parsers.by_name("mistral").ids(draw=lambda n: "c" * 2 * n)("now", 0) == "c" * 9


def test_kimi_counts_the_conversations_calls() -> None:
    """Kimi's ids go on from the calls of earlier messages."""
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [{}, {}]},
        {"role": "assistant", "tool_calls": None},
        {"role": "assistant", "tool_calls": [{}]},
    ]
    form = tool_parsers.by_name("kimik2")
    parser = form(TOOLS, form.ids(count_calls(messages)))
    parsed = parse(parser, [WRITERS["kimik2"]([("now", {}), ("now", {})])])
    assert parsed.ids == ["functions.now:3", "functions.now:4"]

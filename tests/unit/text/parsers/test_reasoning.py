"""Thoughts and answers, by format and by model."""

from __future__ import annotations

import pytest

from app.text.parsers import reasoning_parsers
from app.text.parsers.shapes import ReasoningParser


def part(parser: ReasoningParser, *pieces: str) -> tuple[str, str]:
    """Parts a whole text."""
    found = [parser.feed(piece) for piece in pieces] + [parser.finish()]
    return "".join(thought for thought, _ in found), "".join(rest for _, rest in found)


@pytest.mark.parametrize(
    ("is_inside", "text", "expected"),
    [
        (False, "<think>\na\n</think>\n\nb", ("\na\n", "\n\nb")),
        (False, "b", ("", "b")),
        (False, "b</think>c", ("", "b</think>c")),
        (False, "b<think>a</think>c", ("a", "bc")),
        (False, "<think>a", ("a", "")),
        (False, "<think>a</think>b<think>c</think>", ("a", "b<think>c</think>")),
        (False, "<thi", ("", "<thi")),
        (True, "a</think>b", ("a", "b")),
        (True, "<think>a</think>b", ("a", "b")),
        (True, "a<think>a</think>b</think>", ("aa", "b</think>")),
        (True, "a", ("a", "")),
        (True, "a</thin", ("a</thin", "")),
        (True, "", ("", "")),
    ],
)
def test_think(is_inside: bool, text: str, expected: tuple[str, str]) -> None:
    """The first end marker parts; every piece of one letter gives the same."""
    form = reasoning_parsers.by_name("qwen3")
    assert part(form(is_inside), text) == expected
    assert part(form(is_inside), *text) == expected


def test_marker_split_after_text() -> None:
    """An end marker in two pieces, with text before its first half, does not leak."""
    parser = reasoning_parsers.by_name("qwen3_thinking")()
    assert parser.feed("abc</thi") == ("abc", "")
    assert parser.feed("nk>d") == ("", "d")


def test_nothing_is_held_without_need() -> None:
    """Thought and answer pass at once, but for what may be a marker."""
    parser = reasoning_parsers.by_name("deepseek_r1")()
    assert parser.feed("a < b") == ("a < b", "")
    assert parser.feed(" or <") == (" or ", "")
    assert parser.feed(" c</think>d <think") == ("< c", "d <think")


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("kimi", "\u25c1think\u25b7", "\u25c1/think\u25b7"),
        ("cohere_cmd", "<|START_THINKING|>", "<|END_THINKING|>"),
        ("mistral", "[THINK]", "[/THINK]"),
    ],
)
def test_other_markers(name: str, start: str, end: str) -> None:
    """Formats with markers of their own."""
    assert part(reasoning_parsers.by_name(name)(), *f"{start}a{end}b") == ("a", "b")


def test_mistral_calls_end_the_thought() -> None:
    """The marker of a call is read by the next parser, so it stays."""
    text = "[THINK]a[TOOL_CALLS]now[ARGS]{}"
    expected = ("a", "[TOOL_CALLS]now[ARGS]{}")
    assert part(reasoning_parsers.by_name("mistral")(), text) == expected
    assert part(reasoning_parsers.by_name("mistral")(), *text) == expected


def test_kimi_calls_end_the_thought() -> None:
    """A section of calls inside a thought ends it and is left for the tool parser."""
    section = "<|tool_calls_section_begin|>"
    parser = reasoning_parsers.by_name("kimi_thinking")()
    assert part(parser, *f"a{section}b</think>") == ("a", f"{section}b</think>")


@pytest.mark.parametrize(
    ("model", "name", "starts_inside"),
    [
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek_r1", True),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek_r1", True),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek_v31", False),
        ("deepseek-ai/DeepSeek-V3", "passthrough", False),
        ("Qwen/Qwen3-8B", "qwen3", False),
        ("Qwen/Qwen3-4B-Thinking-2507", "qwen3_thinking", True),
        ("Qwen/QwQ-32B", "qwen3_thinking", True),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen3", False),
        ("zai-org/GLM-4.5-Air", "glm45", False),
        ("zai-org/GLM-5", "glm45", False),
        ("stepfun-ai/step3", "step3", True),
        ("mistralai/Magistral-Small-2506", "base", False),
        ("moonshotai/Kimi-K2-Instruct", "kimi", False),
        ("moonshotai/Kimi-K2-Thinking", "kimi_thinking", True),
        ("moonshotai/Kimi-K2.5", "kimi_k25", False),
        ("moonshotai/Kimi-K3", "passthrough", False),
        ("MiniMaxAI/MiniMax-M2", "minimax", True),
        ("CohereLabs/c4ai-command-a-03-2025", "cohere_cmd", False),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "nano_v3", False),
        ("mistralai/Magistral-Small-2509", "mistral", False),
        ("meta-llama/Llama-3.1-8B-Instruct", "passthrough", False),
        ("facebook/opt-125m", "passthrough", False),
    ],
)
def test_formats_of_models(model: str, name: str, starts_inside: bool) -> None:
    """A model's name tells its format and where its answers begin."""
    form = reasoning_parsers.for_model(model)
    assert form.name == name
    assert form().starts_inside is starts_inside


def test_prompt_decides_where_an_answer_begins() -> None:
    """What the prompt says outweighs the format's habit."""
    assert part(reasoning_parsers.by_name("qwen3")(True), "a</think>b") == ("a", "b")
    assert part(reasoning_parsers.by_name("deepseek_r1")(False), "b") == ("", "b")


def test_names() -> None:
    """Names are found with either dash; an unknown one is an error that lists the known."""
    assert reasoning_parsers.by_name("deepseek-r1").name == "deepseek_r1"
    assert not reasoning_parsers.by_name("none").parses
    assert part(reasoning_parsers.by_name("passthrough")(True), "<think>a") == ("", "<think>a")
    with pytest.raises(ValueError, match="no reasoning parser 'x'; there are base, "):
        reasoning_parsers.by_name("x")

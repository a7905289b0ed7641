"""Special tokens around names and JSON: what is forgiven."""

from __future__ import annotations

import pytest

from tests.unit.text.parsers.parsing import deepseek, parse_as

BEGIN, END, SEP = deepseek("tool call begin"), deepseek("tool call end"), deepseek("tool sep")
ALL, NO_MORE = deepseek("tool calls begin"), deepseek("tool calls end")


@pytest.mark.parametrize(
    "text",
    [
        f'{BEGIN}now{SEP}{{"a": 1}}{END}',
        f'{ALL}\n{BEGIN}now{SEP}\n{{"a": 1}}\n{END}\n{NO_MORE}',
        f'{ALL}{BEGIN}now{SEP}{{"a": 1}}',
        f'{ALL}{BEGIN}now{SEP}{{"a": 1}}{NO_MORE}',
    ],
)
def test_deepseek31_missing_tokens(text: str) -> None:
    """Outer and closing tokens may lack."""
    parsed = parse_as("deepseek31", text)
    assert parsed.calls == [("now", {"a": 1})]
    assert parsed.content == ""


def test_deepseek3_without_closing_fence() -> None:
    """The fence is layout, closed or not."""
    text = f'{ALL}{BEGIN}function{SEP}now\n```json\n{{"a": "```"}}{END}{NO_MORE}after'
    parsed = parse_as("deepseek", text)
    assert parsed.calls == [("now", {"a": "```"})]
    assert parsed.content == "after"


def test_formats_of_two_versions_differ() -> None:
    """V3.1 text is no call to the parser of V3."""
    text = f'{ALL}{BEGIN}now{SEP}{{"a": 1}}{END}{NO_MORE}'
    parsed = parse_as("deepseek", text)
    assert parsed.names == []
    assert parsed.content == text


def test_deepseek_malformed_second_call() -> None:
    """A call that is none is content, tokens and all; the ones around it are found."""
    good, bad = f"{BEGIN}now{SEP}{{}}{END}", f"{BEGIN}no json{END}"
    parsed = parse_as("deepseek31", f"{ALL}{good}{bad}{good}{NO_MORE}")
    assert parsed.names == ["now", "now"]
    assert parsed.content == bad


@pytest.mark.parametrize(
    ("call_id", "name"),
    [
        ("functions.now:0", "now"),
        ("functions.now:12", "now"),
        (" functions.mcp.server.now:0 ", "mcp.server.now"),
        ("now:3", "now"),
        ("functions.now", "now"),
        ("now", "now"),
    ],
)
def test_kimi_names(call_id: str, name: str) -> None:
    """The name is what stands between the prefix and the counter, where there are any."""
    text = f"<|tool_call_begin|>{call_id}<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
    assert parse_as("kimi_k2", text).names == [name]


def test_kimi_singular_section_and_broken_arguments() -> None:
    """The section token without the plural; broken arguments end at the call's end."""
    text = (
        "<|tool_call_section_begin|><|tool_call_begin|>functions.now:0"
        "<|tool_call_argument_begin|>{'a': 1}<|tool_call_end|><|tool_call_section_end|>ok"
    )
    parsed = parse_as("kimik2", text)
    assert parsed.arguments == ["{'a': 1}"]
    assert parsed.content == "ok"


def test_kimi_call_cut_off_before_its_arguments() -> None:
    """They have begun, and nothing is invented for what is missing."""
    parsed = parse_as("kimik2", "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>")
    assert (parsed.names, parsed.arguments, parsed.content) == (["now"], [""], "")

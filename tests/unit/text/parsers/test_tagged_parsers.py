"""Arguments between tags: types, line breaks and forgotten tags."""

from __future__ import annotations

import pytest

from tests.unit.text.parsers.parsing import parse_as


def qwen(body: str) -> str:
    """A call of get_weather in Qwen's tags."""
    return f"<tool_call>\n<function=get_weather>\n{body}\n</function>\n</tool_call>"


def test_one_line_break_is_layout() -> None:
    """Of the line breaks around a value only the template's own are dropped."""
    parsed = parse_as("qwen_xml", qwen("<parameter=city>\n\n a\n\n</parameter>"))
    assert parsed.calls == [("get_weather", {"city": "\n a\n"})]


@pytest.mark.parametrize(
    "text",
    [
        "<function=get_weather><parameter=city>A</parameter><parameter=days>1</parameter></function>",
        qwen("<parameter=city>\nA\n<parameter=days>\n1\n"),
        qwen("<parameter=city>\nA</parameter>\n<parameter=days>1</parameter>"),
        qwen("<parameter=city>A</parameter><parameter=days>1\n").replace("</function>", ""),
    ],
)
def test_qwen_forgotten_tags(text: str) -> None:
    """Tags that Qwen 3 Coder is known to forget."""
    parsed = parse_as("qwen_coder", text)
    assert parsed.calls == [("get_weather", {"city": "A", "days": 1})]
    assert parsed.content == ""


def test_qwen_unlisted_function_needs_its_outer_tag() -> None:
    """A function tag alone is a call only of a listed tool."""
    text = "<function=other><parameter=a>1</parameter></function>"
    assert parse_as("qwen_xml", text).content == text
    assert parse_as("qwen_xml", f"<tool_call>{text}</tool_call>").calls == [("other", {"a": "1"})]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen_xml", qwen("so\n<parameter=city>\nA\n</parameter>")),
        ("qwen_xml", qwen("<parameter=city>\nA\n</parameter>so")),
        (
            "glm45",
            "<tool_call>get_weather\n<arg_key>city</arg_key><arg_value>A</arg_value>so</tool_call>",
        ),
    ],
)
def test_text_between_arguments(name: str, text: str) -> None:
    """Text that belongs to no argument is content and does no harm to them."""
    parsed = parse_as(name, text)
    assert parsed.calls == [("get_weather", {"city": "A"})]
    assert parsed.content.strip() == "so"


def test_bad_argument_is_content() -> None:
    """An argument without a key is no argument; the others are."""
    parsed = parse_as(
        "qwen_xml", qwen("<parameter=>x</parameter>\n<parameter=days>\n2\n</parameter>")
    )
    assert parsed.calls == [("get_weather", {"days": 2})]
    assert parsed.content.rstrip() == "<parameter=>x</parameter>"


def test_missing_end_before_the_next_call() -> None:
    """The next call ends one that was not closed."""
    one = "<tool_call>get_weather<arg_key>days</arg_key><arg_value>1</arg_value>"
    parsed = parse_as("glm47", f"{one}{one}</tool_call>")
    assert parsed.calls == [("get_weather", {"days": 1})] * 2


def test_cut_off_value_stays_in_the_arguments() -> None:
    """A value that never ended is the tail of the arguments, not content."""
    parsed = parse_as("glm45", "<tool_call>get_weather\n<arg_key>days</arg_key>\n<arg_value>12")
    assert parsed.arguments == ['{"days": 12']
    parsed = parse_as("qwen_xml", "<tool_call><function=get_weather><parameter=city>Par</para")
    assert parsed.arguments == ['{"city": "Par</para']
    assert parsed.content == ""


def test_dsml_says_what_is_text() -> None:
    """DeepSeek V3.2 marks strings, whatever the schema says; without the mark the schema does."""
    bar = "\uff5cDSML\uff5c"

    def parameter(name: str, rest: str, value: str) -> str:
        return f'<{bar}parameter name="{name}"{rest}>{value}</{bar}parameter>'

    text = (
        f'<{bar}function_calls><{bar}invoke name="get_weather">'
        + parameter("days", ' string="true"', "5")
        + parameter("city", ' string="false"', "[5]")
        + parameter("ratio", "", "5")
        + f"</{bar}invoke></{bar}function_calls>"
    )
    assert parse_as("deepseek32", text).calls == [
        ("get_weather", {"days": "5", "city": [5], "ratio": 5})
    ]

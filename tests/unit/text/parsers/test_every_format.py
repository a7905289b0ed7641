"""What holds for every tool-call format."""

from __future__ import annotations

from typing import Any

import pytest

from app.text.parsers import tool_parsers
from tests.unit.text.parsers.parsing import UNMARKED, WRITERS, Calls, parse_as

RICH: dict[str, Any] = {
    "city": 'Zürich "old" \\ 日本 🗼\n  </b> {[',
    "days": 3,
    "ratio": -0.5,
    "brief": True,
    "options": {"a": [1, {"b": None}], "c": "}]"},
    "places": ["x", ["y"], {}],
    "unit": None,
}
FORMATS = sorted(WRITERS)
# The formats that carry the arguments as JSON.
VERBATIM = {"cohere", "deepseek", "deepseek31", "json", "kimik2", "llama", "mistral", "qwen"}
MARKED = sorted(set(FORMATS) - UNMARKED)


@pytest.mark.parametrize("name", FORMATS)
def test_one_call(name: str) -> None:
    """A call's arguments keep their types and every character."""
    parsed = parse_as(name, WRITERS[name]([("get_weather", RICH)]))
    assert parsed.calls == [("get_weather", RICH)]
    assert parsed.content == ""
    assert parsed.ids == ["get_weather-0"]


@pytest.mark.parametrize("name", FORMATS)
def test_parallel_calls(name: str) -> None:
    """Calls are told apart; a call without arguments has an empty object."""
    calls: Calls = [("get_weather", {"city": "A"}), ("now", {}), ("get_weather", {"days": 2})]
    parsed = parse_as(name, WRITERS[name](calls))
    assert parsed.calls == calls
    assert parsed.content == ""


@pytest.mark.parametrize("name", FORMATS)
def test_text_around_calls(name: str) -> None:
    """Text before and after calls is content as it stands; layout between calls is not."""
    calls: Calls = [("now", {}), ("get_weather", {"city": "A"})]
    parsed = parse_as(name, f"Let me see.\n\n{WRITERS[name](calls)}\n \nDone.\n")
    assert parsed.calls == calls
    assert parsed.content == "Let me see.\n\n\n \nDone.\n"


@pytest.mark.parametrize("name", FORMATS)
def test_text_between_calls(name: str) -> None:
    """Two groups of calls with text between them."""
    first, second = WRITERS[name]([("now", {})]), WRITERS[name]([("get_weather", {"days": 1})])
    parsed = parse_as(name, f"{first}\nAnd:\n{second}")
    assert parsed.calls == [("now", {}), ("get_weather", {"days": 1})]
    assert parsed.content == "\nAnd:\n"


@pytest.mark.parametrize("name", FORMATS)
def test_white_space_alone_is_layout(name: str) -> None:
    """White space before, between and after calls is dropped."""
    group = WRITERS[name]([("now", {})])
    parsed = parse_as(name, f"\n\n{group}\n\n{group}\n")
    assert parsed.names == ["now", "now"]
    assert parsed.content == ""


@pytest.mark.parametrize("name", MARKED)
def test_any_name_behind_a_marker(name: str) -> None:
    """A marked call of a tool that is not listed is a call."""
    parsed = parse_as(name, WRITERS[name]([("unheard_of", {"a": "b"})]))
    assert parsed.calls == [("unheard_of", {"a": "b"})]


@pytest.mark.parametrize("name", sorted(UNMARKED))
def test_unknown_name_without_marker(name: str) -> None:
    """What only looks like a call of no listed tool is content."""
    text = WRITERS[name]([("unheard_of", {"a": "b"})])
    parsed = parse_as(name, text)
    assert parsed.names == []
    assert parsed.content == text


@pytest.mark.parametrize("name", FORMATS)
def test_cut_off_call(name: str) -> None:
    """However early an answer ends, nothing is invented, and what was sent of a call stays."""
    text = "Hm.\n" + WRITERS[name]([("get_weather", {"city": "Paris", "days": 12})])
    whole = parse_as(name, text)
    for end in range(len(text)):
        parsed = parse_as(name, text[:end])
        if not parsed.names:
            assert parsed.content == text[:end]
            continue
        assert parsed.names == ["get_weather"]
        assert parsed.content == "Hm.\n"
        if "12" not in text[:end]:
            assert not parsed.arguments[0].endswith("}")
        if name in VERBATIM:
            assert whole.arguments[0].startswith(parsed.arguments[0])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t ",
        "No call here.",
        "a < b, <b>bold</b> & {x} [1] `y`",
        '{"answer": [1, 2]}',
        '[{"answer": 1}]',
        "[1, 2, 3]",
        "<tool_call",
        "<tool_call>",
        "</tool_call>",
        "The <tool_call> tag opens a call, </tool_call> closes it.",
        "[TOOL_CALLS] is a token.",
        "<|python_tag|>print(1)",
        "<|tool_calls_section_begin|> nothing <|tool_calls_section_end|>",
        "<|START_ACTION|>[]<|END_ACTION|>",
        "<function=now",
        "<minimax:tool_call></minimax:tool_call>",
        "\uff5c\u2581<\uff5ctool\u2581calls\u2581begin\uff5c>",
        '{"name": "now"',
        "[now(",
        "[now(1)]",
    ],
)
def test_look_alikes_are_content(name: str, text: str) -> None:
    """What is no call comes back letter by letter."""
    parsed = parse_as(name, text)
    assert parsed.names == []
    assert parsed.content == text


@pytest.mark.parametrize("name", FORMATS)
def test_content_is_not_held(name: str) -> None:
    """Of ordinary text nothing is held back: the reader sees every piece at once."""
    parser = tool_parsers.by_name(name)([])
    assert parser.feed("Hello, ").content == "Hello, "
    assert parser.feed("world (2 * 3).").content == "world (2 * 3)."


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"pythonic"}))
def test_name_comes_before_arguments_and_they_stream(name: str) -> None:
    """The name is sent alone, as soon as it is sure, and a long string is not waited for."""
    text = WRITERS[name]([("get_weather", {"city": "x" * 400})])
    parser = tool_parsers.by_name(name)([{"type": "function", "function": {"name": "get_weather"}}])
    deltas = [parser.feed(char) for char in text] + [parser.finish()]
    news = [call for delta in deltas for call in delta.calls]
    assert [call.name for call in news if call.name] == ["get_weather"]
    assert news[0].name == "get_weather"
    assert news[0].arguments == ""
    # A letter at a time: only the brackets and the key may come in larger pieces.
    assert max(len(call.arguments) for call in news) < 20


@pytest.mark.parametrize("name", ["none", "passthrough"])
def test_plain_text(name: str) -> None:
    """Without a format everything is content."""
    text = WRITERS["qwen"]([("now", {})])
    assert parse_as(name, text[:7], text[7:]).content == text

"""However an answer is cut into pieces, it parses alike, and no text is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.text.parsers import reasoning_parsers
from tests.unit.text.parsers.parsing import UNMARKED, WRITERS, cut, deepseek, parse_as

FORMATS = sorted(WRITERS)
CUTS = st.lists(st.integers(1, 600), max_size=40)
LETTERS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)

# Pieces of every format's syntax, and of what only looks like it.
FRAGMENTS = st.sampled_from(
    [
        *(
            "<tool_call>",
            "</tool_call>",
            "<tool",
            "_call>",
            "<function=",
            "now",
            ">",
            "</function>",
        ),
        *("<function=get_weather>", "<parameter=", "<parameter=city>", "</parameter>", "\n"),
        *("<arg_key>", "city", "</arg_key>", "<arg_value>", "</arg_value>", "days", "get_weather"),
        *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>", "<|python_start|>", ";", ","),
        *("<|START_ACTION|>", "<|END_ACTION|>", '"tool_name"', "<minimax:tool_call>", '">'),
        *("</minimax:tool_call>", '<invoke name="', '<parameter name="', "</invoke>", "```json"),
        *("<|tool_calls_section_begin|>", "<|tool_call_begin|>", "functions.now:0", "```", "`"),
        *("<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>"),
        *(deepseek("tool calls begin"), deepseek("tool call begin"), deepseek("tool sep")),
        *(deepseek("tool call end"), deepseek("tool calls end"), "function", "\uff5cDSML\uff5c"),
        *("{", "}", "[", "]", "(", ")", '"', "'", "\\", ":", "=", " ", "1", "null", "-", "<", "|"),
        *('{"name": "now", "arguments": {}}', '{"name": "get_weather", "arguments": {"city": "'),
        *('"name"', '"arguments"', '"now"', "[get_weather(city='", "now()", "<think>", "</think>"),
        *("\u65e5", "\U0001f5fc", "abc", "\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ]
)
SOUP = st.lists(FRAGMENTS, max_size=30).map("".join)


@pytest.mark.parametrize("name", FORMATS)
@given(SOUP, CUTS)
@settings(max_examples=60, deadline=None)
def test_any_split_of_anything(name: str, text: str, cuts: list[int]) -> None:
    """Pieces of any size give what the whole text gives; a text without calls comes back."""
    whole = parse_as(name, text)
    assert whole == parse_as(name, *cut(text, cuts))
    assert whole == parse_as(name, *text)
    if not whole.names:
        assert whole.content == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | LETTERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LETTERS, inner, max_size=3),
    max_leaves=8,
)
# Values by what TOOLS says of the parameters; a text may be any but one that ends itself.
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "city": LETTERS.filter(lambda text: "<" not in text),
        "days": st.integers(),
        "ratio": st.floats(allow_nan=False, allow_infinity=False, width=32),
        "brief": st.booleans(),
        "options": st.dictionaries(LETTERS, VALUES, max_size=3),
        "places": st.lists(VALUES, max_size=3),
    },
)
CALLS = st.lists(
    st.tuples(st.sampled_from(["get_weather", "now"]), ARGUMENTS).map(
        lambda call: call if call[0] == "get_weather" else ("now", {})
    ),
    min_size=1,
    max_size=3,
)


def has_tag_like_text(value: Any) -> bool:
    """True if the text of a value holds what the tagged formats end values with."""
    return "<" in str(value)


@pytest.mark.parametrize("name", FORMATS)
@given(CALLS, LETTERS, LETTERS, CUTS)
@settings(max_examples=40, deadline=None)
def test_calls_come_back(
    name: str, calls: list[tuple[str, dict[str, Any]]], before: str, after: str, cuts: list[int]
) -> None:
    """What a model's template would write is read back, in any pieces, with text around it."""
    calls = [call for call in calls if not has_tag_like_text(call)] or [("now", {})]
    opening = before.replace("[", "").replace("{", "").replace("<", "")
    closing = after.replace("[", "").replace("{", "").replace("<", "").replace(";", "")
    gap = "\n" if name in UNMARKED else ""
    parsed = parse_as(name, *cut(f"{opening}{gap}{WRITERS[name](calls)}\n{closing}", cuts))
    assert parsed.calls == calls
    assert parsed.content.strip() == f"{opening}{gap}\n{closing}".strip()


@pytest.mark.parametrize("name", FORMATS)
@given(CALLS, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 9), FRAGMENTS)), CUTS)
@settings(max_examples=50, deadline=None)
def test_any_split_of_damaged_calls(
    name: str,
    calls: list[tuple[str, dict[str, Any]]],
    damages: list[tuple[int, int, str]],
    cuts: list[int],
) -> None:
    """Calls with pieces missing and others put in parse alike in any pieces, too."""
    text = WRITERS[name](calls)
    for at, n_lost, fragment in damages:
        text = f"{text[:at]}{fragment}{text[at + n_lost :]}"
    whole = parse_as(name, text)
    assert whole == parse_as(name, *cut(text, cuts))
    assert whole == parse_as(name, *text)
    if not whole.names:
        assert whole.content == text


@pytest.mark.parametrize("name", sorted(set(reasoning_parsers.BY_NAME)))
@given(SOUP, CUTS, st.sampled_from([None, True, False]))
@settings(max_examples=50, deadline=None)
def test_any_split_of_thoughts(
    name: str, text: str, cuts: list[int], starts_inside: bool | None
) -> None:
    """Thought and answer are the same in any pieces, and only markers are lost."""

    def part(pieces: list[str]) -> tuple[str, str]:
        parser = reasoning_parsers.by_name(name)(starts_inside)
        found = [parser.feed(piece) for piece in pieces] + [parser.finish()]
        return "".join(thought for thought, _ in found), "".join(rest for _, rest in found)

    whole = part([text])
    assert whole == part(cut(text, cuts)) == part(list(text))
    form = reasoning_parsers.by_name(name)
    n_lost = len(text) - sum(map(len, whole))
    markers = text.count(form.start) * len(form.start) if form.start else 0
    assert 0 <= n_lost <= markers + len(form.end)

"""Calls in Python: what is a literal, what is a call."""

from __future__ import annotations

import pytest

from tests.unit.text.parsers.parsing import parse_as


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"a, b) ] \\" c"', 'a, b) ] " c'),
        ("'it''s'", "its"),
        ("'''a'b\n''c'''", "a'b\n''c"),
        ('""', ""),
        ('""""""', ""),
        ("r'\\d'", "\\d"),
        ("'\\d'", "\\d"),
        ("-1", -1),
        ("1.5e3", 1500.0),
        ("None", None),
        ("[True, false, null, (1, 2)]", [True, False, None, [1, 2]]),
        ("{'a': {'b': []}, 'c': 1}", {"a": {"b": []}, "c": 1}),
        ("  5 ", 5),
        ("1 + 2", "1 + 2"),
        ("Unit.C", "Unit.C"),
        ("f(x, y)", "f(x, y)"),
        ("b'x'", "b'x'"),
        ("1e999", "1e999"),
        ("'\\ud800'", "'\\ud800'"),
        ("{[]: 1}", "{[]: 1}"),
        ("(" * 300 + ")" * 300, "(" * 300 + ")" * 300),
    ],
)
def test_values(value: str, expected: object) -> None:
    """A literal becomes JSON; anything else is the text it is, and is never run."""
    parsed = parse_as("pythonic", f"[get_weather(city={value}), now()]")
    assert parsed.calls == [("get_weather", {"city": expected}), ("now", {})]


@pytest.mark.parametrize(
    "text",
    [
        "[get_weather]",
        "[get_weather('A')]",
        "[other(a=1)]",
        "see [now()]",
        "now()",
        "[[now()]]",
    ],
)
def test_other_lists_are_content(text: str) -> None:
    """Only a list of calls with keywords, of listed tools, at the start of a line is one."""
    parsed = parse_as("pythonic", text)
    assert parsed.names == []
    assert parsed.content == text


def test_python_tokens_of_llama_4() -> None:
    """The tokens around a list are layout."""
    parsed = parse_as("pythonic", "Well: <|python_start|>[now()]<|python_end|> yes")
    assert parsed.names == ["now"]
    assert parsed.content == "Well:  yes"


def test_what_follows_a_call_and_is_none() -> None:
    """The rest of a list comes back."""
    parsed = parse_as("pythonic", "[now(), 5]")
    assert parsed.names == ["now"]
    assert parsed.content == ", 5]"


def test_broken_call() -> None:
    """A mistake after the first argument leaves the rest to the call."""
    parsed = parse_as("pythonic", "[get_weather(city='A', 5)]")
    assert parsed.arguments == ['{"city": "A", 5)]']

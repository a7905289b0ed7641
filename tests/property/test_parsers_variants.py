"""What Mistral's and Kimi's models write beside the usual: read alike in any pieces.

The forms are those that vLLM 0.32 reads (its Mistral parser before and from tokenizer v11 on, and
its Kimi K2 parser).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.test_parsers_split import CALLS, CUTS
from tests.unit.text.parsers.parsing import Calls, cut, parse_as, tool

BEGIN, END, BODY = (f"<|tool_call_{word}|>" for word in ("begin", "end", "argument_begin"))
SECTION, NO_MORE = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
Writer = Callable[[Calls], str]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _array(calls: Calls, *, as_text: bool = False) -> str:
    ids = {"id": "abc12def3", "type": "function"}
    return _json([{"name": n, "arguments": _json(a) if as_text else a, **ids} for n, a in calls])


def _each(before: str, between: str, after: str = "") -> Writer:
    """Writes name and arguments of each call between texts; # is its number."""

    def write(calls: Calls) -> str:
        return "".join(
            f"{before}{name}{between.replace('#', str(at))}{_json(arguments)}{after}"
            for at, (name, arguments) in enumerate(calls)
        )

    return write


def _section(write: Writer) -> Writer:
    return lambda calls: f"{SECTION}{write(calls)}{NO_MORE}"


VARIANTS: dict[str, tuple[str, Writer]] = {
    "v3": ("mistral", lambda calls: f"[TOOL_CALLS] {_array(calls)}"),
    "v7": ("mistral", lambda calls: f"[TOOL_CALLS]{_array(calls)}"),
    "v7 said twice": ("mistral", lambda calls: f"[TOOL_CALLS]\n[TOOL_CALLS] {_array(calls)}"),
    "v7 as text": ("mistral", lambda calls: f"[TOOL_CALLS] {_array(calls, as_text=True)}"),
    "v11": ("mistral", _each("[TOOL_CALLS]", "[CALL_ID]abc12def3[ARGS]")),
    "v13": ("mistral", _each("[TOOL_CALLS]", "[ARGS]")),
    "v13 without token": ("mistral", _each("[TOOL_CALLS]", "")),
    "v13 with spaces": ("mistral", _each("[TOOL_CALLS] ", " [ARGS] ", "\n")),
    "v13 said twice": ("mistral", _each("[TOOL_CALLS][TOOL_CALLS]", "[ARGS]")),
    "kimi": ("kimik2", _section(_each(f"{BEGIN}functions.", f":#{BODY}", END))),
    "kimi with lines": (
        "kimik2",
        _section(_each(f"\n{BEGIN} functions.", f":#\n{BODY}\n", f"\n{END}\n")),
    ),
    "kimi without section": ("kimik2", _each(f"{BEGIN}functions.", f":#{BODY}", END)),
    "kimi bare names": ("kimik2", _section(_each(BEGIN, BODY, END))),
    "kimi without ends": ("kimik2", _section(_each(f"{BEGIN}functions.", f":#{BODY}"))),
}


@pytest.mark.parametrize("name", VARIANTS)
@given(CALLS, CUTS)
@settings(max_examples=25, deadline=None)
def test_calls_come_back(
    name: str, calls: list[tuple[str, dict[str, Any]]], cuts: list[int]
) -> None:
    """Whatever the pieces, the calls are those that were written, and nothing else is left."""
    parser, write = VARIANTS[name]
    text = write(calls)
    parsed = parse_as(parser, *cut(text, cuts))
    assert parsed.calls == calls
    assert parsed.content == ""
    assert parsed == parse_as(parser, *text) == parse_as(parser, text)


# What a model may put where an object is expected, and what becomes of it.
ODD = [
    ("", "{}"),
    (" \n", "{}"),
    ("null", "{}"),
    ('"{\\"a\\": 1}"', '{"a": 1}'),
    ('"words"', '"words"'),
    ("not json", "not json"),
    ("nothing", "nothing"),
    ("[1, 2]", "[1, 2]"),
    ("{'a': 1}", "{'a': 1}"),
    ("17", "17"),
]


@pytest.mark.parametrize(
    "begin", [f"{SECTION}{BEGIN}functions.now:0{BODY}", "[TOOL_CALLS]now[ARGS]"]
)
@pytest.mark.parametrize(("written", "arguments"), ODD)
@given(CUTS)
@settings(max_examples=10, deadline=None)
def test_arguments_of_any_kind(begin: str, written: str, arguments: str, cuts: list[int]) -> None:
    """Behind the token that announces them it is a call, whatever comes, and another may follow."""
    is_kimi = begin.startswith(SECTION)
    parser = "kimik2" if is_kimi else "mistral"
    after = (
        f"{END}{BEGIN}functions.get_weather:1{BODY}{{}}{END}{NO_MORE}"
        if is_kimi
        else ("[TOOL_CALLS]get_weather[ARGS]{}")
    )
    text = f"{begin}{written}{after}"
    parsed = parse_as(parser, *cut(text, cuts))
    assert parsed.names == ["now", "get_weather"]
    assert parsed.arguments == [arguments, "{}"]
    assert parsed.content == ""
    assert parsed == parse_as(parser, *text)


NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("parser", "before", "between"),
    [("mistral", "[TOOL_CALLS]", "[ARGS]"), ("kimik2", f"{BEGIN}functions.", f":3{BODY}")],
)
@given(st.lists(NAMES, min_size=1, max_size=3), st.sampled_from(" .-_:/"), CUTS)
@settings(max_examples=25, deadline=None)
def test_names_of_any_kind(
    parser: str, before: str, between: str, words: list[str], joint: str, cuts: list[int]
) -> None:
    """Letters of any script, with blanks, dots, slashes or colons between them."""
    name = joint.join(words)
    text = f"{before}{name}{between}{{}}"
    parsed = parse_as(parser, *cut(text, cuts), tools=[tool(name)])
    assert parsed.names == [name]
    assert parsed == parse_as(parser, *text, tools=[tool(name)])


FRAGMENTS = st.sampled_from(
    [
        *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "now", " ", "\n", "{", "}", "[", "]", '"', "null"),
        *(SECTION, NO_MORE, BEGIN, END, BODY, "functions.now", ":0", "<|tool_call", "|>", "a b"),
        *('{"name": "now", "arguments": {}}', "{}", '{"city": "', ",", "1", "not", "\\", "[THINK]"),
    ]
)


@pytest.mark.parametrize("parser", ["mistral", "kimik2"])
@given(st.lists(FRAGMENTS, max_size=25).map("".join), CUTS)
@settings(max_examples=150, deadline=None)
def test_any_split_of_anything(parser: str, text: str, cuts: list[int]) -> None:
    """Pieces of these formats alone, so that more of them make calls."""
    whole = parse_as(parser, text)
    assert whole == parse_as(parser, *cut(text, cuts))
    assert whole == parse_as(parser, *text)
    if not whole.names:
        assert whole.content == text

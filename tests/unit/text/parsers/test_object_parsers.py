"""Calls as JSON objects: the freedoms models take with them."""

from __future__ import annotations

import pytest

from tests.unit.text.parsers.parsing import parse_as, tool

ARGUMENTS = '{"city":"A",  "days" :1.50}'


@pytest.mark.parametrize(
    "text",
    [
        f'<tool_call>{{"name":"now","arguments":{ARGUMENTS}}}</tool_call>',
        f'<tool_call>\n{{"arguments": {ARGUMENTS}, "name": "now"}}\n</tool_call>',
        f'<tool_call>{{"id": "x", "name": "now", "parameters": {ARGUMENTS}, "n": [1]}}</tool_call>',
        f'<tool_call>[{{"name": "now", "arguments": {ARGUMENTS}}}]</tool_call>',
        f'<tool_call>{{"name": "now", "arguments": {ARGUMENTS}}}',
        f'<tool_call>{{"name": "now", "arguments": {ARGUMENTS}</tool_call>',
    ],
)
def test_arguments_are_the_models_own_text(text: str) -> None:
    """Members may come in any order, brackets and tags may lack: the arguments are verbatim."""
    parsed = parse_as("hermes", text)
    assert parsed.names == ["now"]
    assert parsed.arguments == [ARGUMENTS]
    assert parsed.content == ""


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        ('"{\\"a\\": 1}"', '{"a": 1}'),
        ('""', "{}"),
        ("null", "{}"),
        ('"just text"', '"just text"'),
        ("[1, 2]", "[1, 2]"),
        ("7", "7"),
    ],
)
def test_arguments_that_are_no_object(value: str, arguments: str) -> None:
    """A string of JSON is unwrapped, nothing is an empty object, the rest is left alone."""
    parsed = parse_as("qwen", f'<tool_call>{{"name": "now", "arguments": {value}}}</tool_call>')
    assert parsed.arguments == [arguments]


def test_call_without_arguments() -> None:
    """A marked call may leave its arguments out."""
    assert parse_as("qwen", '<tool_call>{"name": "now"}</tool_call>').calls == [("now", {})]


def test_markers_inside_strings() -> None:
    """A marker inside a string of well-formed arguments is part of the string."""
    text = '<tool_call>{"name": "now", "arguments": {"a": "</tool_call><tool_call>"}}</tool_call>!'
    parsed = parse_as("qwen", text)
    assert parsed.calls == [("now", {"a": "</tool_call><tool_call>"})]
    assert parsed.content == "!"


def test_broken_arguments_stay_the_calls() -> None:
    """Arguments that break the rules are passed on as they are, and the next call is found."""
    broken = '{"a": <b>, }'
    text = (
        f'<tool_call>{{"name": "now", "arguments": {broken}}}</tool_call>'
        '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'
    )
    parsed = parse_as("qwen", text)
    assert parsed.names == ["now", "get_weather"]
    assert parsed.arguments == [broken + "}", "{}"]
    assert parsed.content == ""


def test_malformed_call_is_content_and_the_next_is_found() -> None:
    """Before the name is known, a mistake turns the text into content."""
    bad = '<tool_call>{"name": now}</tool_call>'
    parsed = parse_as("qwen", f'{bad}<tool_call>{{"name": "now"}}</tool_call>')
    assert parsed.content == bad
    assert parsed.names == ["now"]


def test_text_after_arguments_is_content() -> None:
    """What stands between a call and its end marker is not swallowed."""
    parsed = parse_as("qwen", '<tool_call>{"name": "now", "arguments": {}} so</tool_call> it is')
    assert parsed.calls == [("now", {})]
    assert parsed.content == " so it is"


def test_several_objects_in_one_tag() -> None:
    """Each object is a call."""
    text = '<tool_call>{"name": "a", "arguments": {}}\n{"name": "b", "arguments": {}}</tool_call>'
    assert parse_as("qwen", text).names == ["a", "b"]


@pytest.mark.parametrize("separator", [";", " ; ", "\n", "; \n"])
def test_llama_parts_calls(separator: str) -> None:
    """Llama 3 puts a semicolon or a line break between calls."""
    one = '{"name": "now", "parameters": {}}'
    parsed = parse_as("llama", f"{one}{separator}{one}")
    assert parsed.names == ["now", "now"]
    assert parsed.content == ""


def test_python_tag() -> None:
    """Behind the tag any name is a call, anywhere in a line."""
    parsed = parse_as("llama", 'So <|python_tag|>{"name": "other", "parameters": {"a": 1}}')
    assert parsed.calls == [("other", {"a": 1})]
    assert parsed.content == "So "


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "now"}',
        '{"name": "now", "arguments": 5}',
        '{"name": "now", "arguments": "no object"}',
        '{"title": "x", "name": "now", "arguments": {}}',
        'Call {"name": "now", "arguments": {}}',
        '[[{"name": "now", "arguments": {}}]]',
    ],
)
def test_unmarked_json_must_look_like_a_call(text: str) -> None:
    """Ordinary JSON that mentions a tool is content."""
    parsed = parse_as("json", text)
    assert parsed.names == []
    assert parsed.content == text


def test_rest_of_an_array_is_content() -> None:
    """What follows a call in an array and is none comes back."""
    parsed = parse_as("json", '[{"name": "now", "arguments": {}}, 5]')
    assert parsed.names == ["now"]
    assert parsed.content == ", 5]"


def test_broken_unmarked_arguments() -> None:
    """Without an end marker the rest of the text belongs to them."""
    parsed = parse_as("json", '{"name": "now", "arguments": {"a": (1)}}\n{"b": 1}')
    assert parsed.arguments == ['{"a": (1)}}\n{"b": 1}']


@pytest.mark.parametrize(
    "text",
    [
        '[TOOL_CALLS]now[ARGS]{"city": "A"}[TOOL_CALLS]now[ARGS]{}',
        '[TOOL_CALLS]now[CALL_ID]abcDEF123[ARGS]{"city": "A"}[TOOL_CALLS]now[CALL_ID]x[ARGS]{}',
        '[TOOL_CALLS]now{"city": "A"}\n[TOOL_CALLS] now {}',
        '[TOOL_CALLS][{"name":"now","arguments":{"city": "A"},"id":"x"},{"name":"now"}]',
        '[TOOL_CALLS] {"name":"now","arguments":{"city": "A"}}[TOOL_CALLS]now[ARGS]{}',
    ],
)
def test_mistral_generations(text: str) -> None:
    """Arrays of older tokenizers, names and tokens of newer ones."""
    parsed = parse_as("mistral", text)
    assert parsed.calls == [("now", {"city": "A"}), ("now", {})]
    assert parsed.content == ""


def test_mistral_text_after_arguments() -> None:
    """Text behind the arguments is not part of them."""
    parsed = parse_as("mistral", 'Ok.[TOOL_CALLS]now[ARGS]{"name": "x"} done')
    assert parsed.calls == [("now", {"name": "x"})]
    assert parsed.content == "Ok. done"


def test_mistral_call_that_ends_behind_its_name() -> None:
    """The format has no end marker: a call without arguments may end so, a name alone may not."""
    parsed = parse_as("mistral", "[TOOL_CALLS]now[ARGS]")
    assert (parsed.names, parsed.arguments, parsed.content) == (["now"], ["{}"], "")
    cut = parse_as("mistral", "[TOOL_CALLS]now")
    assert (cut.names, cut.content) == ([], "[TOOL_CALLS]now")


def test_mistral_sentence_before_a_brace() -> None:
    """Without the token in between only a listed name may have blanks."""
    text = "[TOOL_CALLS]is a marker {x}"
    assert parse_as("mistral", text).content == text
    named = [tool("is a marker")]
    assert parse_as("mistral", text, tools=named).names == ["is a marker"]

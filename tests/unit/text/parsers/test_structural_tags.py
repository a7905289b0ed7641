"""What binds an answer to a tool choice."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.errors import InvalidRequest
from app.text.parsers.structural_tags import Room, constraint_for
from app.text.tool_choice import Mode, ToolPlan
from tests.unit.text.parsers.parsing import parse_as, tool

F, G = tool("f", a={"type": "integer"}), tool("g")


def plan(mode: Mode, *tools: dict[str, Any], is_parallel: bool = True) -> ToolPlan:
    """A plan over these tools, or over f and g."""
    usable = tools or (F, G)
    return ToolPlan(mode, usable, usable, is_parallel)


def tag_of(parser: str, tools: ToolPlan, **room: Any) -> Any:
    """The format of the parsed structural tag."""
    constraint = constraint_for(tools, parser, Room(**room))
    assert constraint is not None
    assert constraint.kind == "structural_tag"
    assert isinstance(constraint.value, str)
    tag = orjson.loads(constraint.value)
    assert tag["type"] == "structural_tag"
    return tag["format"]


@pytest.mark.parametrize("configured", [None, "qwen", "none", "nonsense"])
@pytest.mark.parametrize("mode", ["required", "named"])
def test_schema_unless_a_parser_with_tags_is_configured(configured: str | None, mode: Mode) -> None:
    """A guessed parser, and one without tags, leave it to the JSON schema."""
    constraint = constraint_for(plan(mode, F), configured)
    assert constraint is not None
    assert constraint == plan(mode, F).constraint()
    assert constraint.kind == "json_schema"


@pytest.mark.parametrize("configured", [None, "mistral", "kimik2"])
@pytest.mark.parametrize("mode", ["none", "auto"])
def test_free_choice_binds_nothing(configured: str | None, mode: Mode) -> None:
    """Without force there is no constraint."""
    assert constraint_for(plan(mode), configured) is None


def test_mistral() -> None:
    """One array behind the marker, of objects parted by a comma."""
    form = tag_of("mistral", plan("required"))
    assert (form["begin"], form["end"]) == ("[TOOL_CALLS] [", "]")
    array = form["content"]
    assert array["separator"] == ", "
    assert (array["at_least_one"], array["stop_after_first"]) == (True, False)
    begins = [inner["begin"] for inner in array["tags"]]
    assert begins == ['{"name": "f", "arguments": ', '{"name": "g", "arguments": ']
    first = array["tags"][0]
    assert first["content"]["json_schema"] == F["function"]["parameters"]
    assert first["end"] == "}"


def test_mistral_from_v11_on() -> None:
    """Where the vocabulary has the token, each call has a marker and its bare name."""
    form = tag_of("mistral", plan("required"), has_args_token=True)
    assert (form["separator"], form["at_least_one"]) == ("", True)
    begins = [(tag["begin"], tag["end"]) for tag in form["tags"]]
    assert begins == [("[TOOL_CALLS]f[ARGS]", ""), ("[TOOL_CALLS]g[ARGS]", "")]
    assert form["tags"][0]["content"]["json_schema"] == F["function"]["parameters"]


@pytest.mark.parametrize("parser", ["mistral", "kimik2"])
def test_single_call(parser: str) -> None:
    """One call if only one may come."""
    for single in (plan("named", F), plan("required", is_parallel=False)):
        assert tag_of(parser, single)["content"]["stop_after_first"] is True
    assert tag_of(parser, plan("required"))["content"]["stop_after_first"] is False


def test_kimi() -> None:
    """A section with a tag for each tool; the model numbers the calls itself."""
    form = tag_of("kimi_k2", plan("required"))
    assert form["begin"] == "<|tool_calls_section_begin|>"
    assert form["end"] == "<|tool_calls_section_end|>"
    tags = form["content"]["tags"]
    begins = [tag["begin"] for tag in tags]
    assert begins == ["<|tool_call_begin|>functions.f:", "<|tool_call_begin|>functions.g:"]
    number, begin, schema = tags[0]["content"]["elements"]
    assert (number["pattern"], begin["value"]) == ("\\d+", "<|tool_call_argument_begin|>")
    assert schema["json_schema"] == F["function"]["parameters"]
    assert {tag["end"] for tag in tags} == {"<|tool_call_end|>"}


@pytest.mark.parametrize(
    ("parser", "marker"),
    [("mistral", "[TOOL_CALLS]"), ("kimik2", "<|tool_calls_section_begin|>")],
)
def test_thought_before_the_calls(parser: str, marker: str) -> None:
    """One that is sure to be open must end; any other may be left out; no call within it."""
    calls = tag_of(parser, plan("required"))
    opened = tag_of(parser, plan("required"), thought_end="</think>", is_in_thought=True)
    assert opened["type"] == "sequence"
    before, rest = opened["elements"]
    assert rest == calls
    thought, space = before["elements"]
    assert (thought["begin"], thought["end"]) == ("", "</think>")
    assert thought["content"] == {"type": "any_text", "excludes": [marker]}
    assert space == {"type": "regex", "pattern": "\\s*"}
    room = {"thought_start": "<think>", "thought_end": "</think>"}
    before, rest = tag_of(parser, plan("required"), **room)["elements"]
    assert (before["type"], rest) == ("optional", calls)
    assert before["content"]["elements"][0]["begin"] == "<think>"


@pytest.mark.parametrize("parser", ["mistral", "kimik2"])
@pytest.mark.parametrize("name", ["look up", "f{}", "a<b", 'say "x"', "[x]", ""])
def test_names_the_format_cannot_hold(parser: str, name: str) -> None:
    """The schema takes any name; the parser of the format would not read it back."""
    odd = plan("required", F, tool(name))
    assert constraint_for(odd, parser) == odd.constraint()


@pytest.mark.parametrize("parser", ["mistral", "kimik2"])
@pytest.mark.parametrize("name", ["a.b", "a-b_c", "functions.f", "f:1", "ns/f", "naïve"])
@pytest.mark.parametrize("has_args_token", [True, False])
def test_what_a_tag_makes_is_read_back(parser: str, name: str, has_args_token: bool) -> None:
    """The shortest text that the tag lets pass is a call to its parser."""
    form = tag_of(parser, plan("required", tool(name)), has_args_token=has_args_token)
    parsed = parse_as(parser, _shortest(form), tools=[tool(name)])
    assert (parsed.calls, parsed.content) == ([(name, {})], "")


def _shortest(form: Any) -> str:
    """The shortest text of a format."""
    match form["type"]:
        case "tag":
            return f"{form['begin']}{_shortest(form['content'])}{form['end']}"
        case "tags_with_separator":
            return _shortest(form["tags"][0])
        case "sequence":
            return "".join(map(_shortest, form["elements"]))
        case "const_string":
            return str(form["value"])
    return {"json_schema": "{}", "regex": "0"}[form["type"]]


def test_conflicting_definitions() -> None:
    """Two meanings of one definition cannot share a schema; each tag has its own."""
    first, second = tool("f"), tool("g")
    first["function"]["parameters"]["$defs"] = {"Place": {"type": "string"}}
    second["function"]["parameters"]["$defs"] = {"Place": {"type": "object"}}
    with pytest.raises(InvalidRequest, match="Place"):
        constraint_for(plan("required", first, second), None)
    assert len(tag_of("mistral", plan("required", first, second))["content"]["tags"]) == 2

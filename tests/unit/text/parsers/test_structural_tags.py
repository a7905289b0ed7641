"""What binds an answer to a tool choice."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.errors import InvalidRequest
from app.text.parsers.structural_tags import constraint_for
from app.text.tool_choice import Mode, ToolPlan
from tests.unit.text.parsers.parsing import tool

F, G = tool("f", a={"type": "integer"}), tool("g")


def plan(mode: Mode, *tools: dict[str, Any], is_parallel: bool = True) -> ToolPlan:
    """A plan over these tools, or over f and g."""
    usable = tools or (F, G)
    return ToolPlan(mode, usable, usable, is_parallel)


def tag_of(parser: str, tools: ToolPlan, n_earlier_calls: int = 0) -> Any:
    """The parsed structural tag."""
    constraint = constraint_for(tools, parser, n_earlier_calls=n_earlier_calls)
    assert constraint is not None
    assert constraint.kind == "structural_tag"
    assert isinstance(constraint.value, str)
    tag = orjson.loads(constraint.value)
    assert tag["type"] == "structural_tag"
    assert tag["format"]["type"] == "triggered_tags"
    assert tag["format"]["at_least_one"] is True
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
    assert form["triggers"] == ["[TOOL_CALLS]"]
    (outer,) = form["tags"]
    assert (outer["begin"], outer["end"]) == ("[TOOL_CALLS] [", "]")
    assert outer["content"]["separator"] == ", "
    assert outer["content"]["stop_after_first"] is False
    begins = [inner["begin"] for inner in outer["content"]["tags"]]
    assert begins == ['{"name": "f", "arguments": ', '{"name": "g", "arguments": ']
    first = outer["content"]["tags"][0]
    assert first["content"]["json_schema"] == F["function"]["parameters"]
    assert first["end"] == "}"


def test_mistral_single_call() -> None:
    """One call if only one may come."""
    for single in (plan("named", F), plan("required", is_parallel=False)):
        array = tag_of("mistral", single)["tags"][0]["content"]
        assert array["stop_after_first"] is True


def test_kimi() -> None:
    """A tag for each tool at each position, counted on from the conversation."""
    form = tag_of("kimi_k2", plan("required"), n_earlier_calls=2)
    assert form["triggers"] == ["<|tool_calls_section_begin|>", "<|tool_call_begin|>"]
    assert form["stop_after_first"] is False
    begins = [tag["begin"] for tag in form["tags"]]
    assert begins[:3] == [
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:2<|tool_call_argument_begin|>",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.g:2<|tool_call_argument_begin|>",
        "<|tool_call_begin|>functions.f:3<|tool_call_argument_begin|>",
    ]
    assert len(begins) == len(set(begins)) == 16
    assert {tag["end"] for tag in form["tags"]} == {"<|tool_call_end|>"}


def test_kimi_single_call() -> None:
    """A named function has one tag and nothing after it."""
    form = tag_of("kimik2", plan("named", G))
    assert form["stop_after_first"] is True
    assert len(form["tags"]) == 1


def test_conflicting_definitions() -> None:
    """Two meanings of one definition cannot share a schema; each tag has its own."""
    first, second = tool("f"), tool("g")
    first["function"]["parameters"]["$defs"] = {"Place": {"type": "string"}}
    second["function"]["parameters"]["$defs"] = {"Place": {"type": "object"}}
    with pytest.raises(InvalidRequest, match="Place"):
        constraint_for(plan("required", first, second), None)
    assert (
        len(tag_of("mistral", plan("required", first, second))["tags"][0]["content"]["tags"]) == 2
    )

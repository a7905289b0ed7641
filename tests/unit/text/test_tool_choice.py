"""Tools and tool_choice in all their forms."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.errors import InvalidRequest
from app.text.tool_choice import ToolPlan, read_tools


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    """A function tool."""
    schema = {"type": "object", "properties": {}, **parameters}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


A, B = tool("a"), tool("b")
NAMED = {"type": "function", "function": {"name": "b"}}


def names(tools: tuple[dict[str, Any], ...]) -> list[str]:
    """The functions' names."""
    return [item["function"]["name"] for item in tools]


@pytest.mark.parametrize(
    ("fields", "mode", "shown", "usable"),
    [
        ({}, "none", [], []),
        ({"tools": []}, "none", [], []),
        ({"tools": [A, B]}, "auto", ["a", "b"], ["a", "b"]),
        ({"tools": [A, B], "tool_choice": "auto"}, "auto", ["a", "b"], ["a", "b"]),
        ({"tools": [A, B], "tool_choice": "none"}, "none", ["a", "b"], []),
        ({"tools": [A, B], "tool_choice": "required"}, "required", ["a", "b"], ["a", "b"]),
        ({"tools": [A, B], "tool_choice": NAMED}, "named", ["b"], ["b"]),
        (
            {
                "tools": [A, B],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [NAMED]},
                },
            },
            "auto",
            ["b"],
            ["b"],
        ),
        (
            {
                "tools": [A, B],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": "a"}],
                },
            },
            "required",
            ["a"],
            ["a"],
        ),
        ({"functions": [A["function"]]}, "auto", ["a"], ["a"]),
        (
            {"functions": [A["function"], B["function"]], "function_call": {"name": "b"}},
            "named",
            ["b"],
            ["b"],
        ),
        ({"functions": [A["function"]], "function_call": "none"}, "none", ["a"], []),
    ],
)
def test_forms(fields: dict[str, Any], mode: str, shown: list[str], usable: list[str]) -> None:
    """What the template shows and what may be called."""
    plan = read_tools(fields)
    assert (mode, shown, usable) == (plan.mode, names(plan.shown), names(plan.usable))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tools": [A], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [A], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [A], "tool_choice": {"type": "function"}}, "tool_choice"),
        (
            {"tools": [A], "tool_choice": {"type": "allowed_tools", "mode": "x", "tools": [A]}},
            "tool_choice.allowed_tools.mode",
        ),
        (
            {"tools": [A], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
            "tool_choice.allowed_tools.tools",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"functions": [{"name": ""}]}, "functions[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
    ],
)
def test_refused(fields: dict[str, Any], param: str) -> None:
    """What names nothing, or no function."""
    with pytest.raises(InvalidRequest) as refusal:
        read_tools(fields)
    assert param == refusal.value.param


def test_schemas() -> None:
    """A named call is its arguments; required is an array of calls."""
    assert ToolPlan("auto", (A,), (A,)).constraint() is None
    named = ToolPlan("named", (A,), (A,)).constraint()
    assert named is not None
    assert A["function"]["parameters"] == orjson.loads(str(named.value))
    definitions = {"$defs": {"City": {"type": "string"}}}
    first, second = tool("a", **definitions), tool("b", **definitions)
    required = ToolPlan("required", (), (first, second), is_parallel=False).constraint()
    assert required is not None
    schema = orjson.loads(str(required.value))
    assert (1, 1) == (schema["minItems"], schema["maxItems"])
    assert definitions["$defs"] == schema["$defs"]
    calls = schema["items"]["anyOf"]
    assert [["a"], ["b"]] == [call["properties"]["name"]["enum"] for call in calls]
    assert "$defs" not in calls[0]["properties"]["parameters"]


def test_conflicting_definitions() -> None:
    """One name for two schemas cannot be merged."""
    first = tool("a", **{"$defs": {"City": {"type": "string"}}})
    second = tool("b", **{"$defs": {"City": {"type": "integer"}}})
    with pytest.raises(InvalidRequest, match="two different ways"):
        ToolPlan("required", (), (first, second)).constraint()

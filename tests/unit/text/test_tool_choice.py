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
        ({"tools": [tool("a", type="array")]}, "tools[0].function.parameters.type"),
        ({"tools": [tool("a", type=7)]}, "tools[0].function.parameters.type"),
        ({"tools": [A, tool("b", type=["null"])]}, "tools[1].function.parameters.type"),
        ({"tools": [tool("a", properties=[1])]}, "tools[0].function.parameters.properties"),
        ({"tools": [tool("a", **{"$defs": "x"})]}, "tools[0].function.parameters.$defs"),
    ],
)
def test_refused(fields: dict[str, Any], param: str) -> None:
    """What names nothing, or no function."""
    with pytest.raises(InvalidRequest) as refusal:
        read_tools(fields)
    assert param == refusal.value.param


def test_parameters_that_are_taken() -> None:
    """Whatever leaves room for an object."""
    listed = {"type": ["object", "null"], "properties": None}
    function: dict[str, Any]
    for function in ({}, {"parameters": None}, {"parameters": {}}, {"parameters": listed}):
        tools = [{"type": "function", "function": {"name": "a", **function}}]
        assert names(read_tools({"tools": tools}).usable) == ["a"]


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


def test_schemas_that_refer_to_themselves() -> None:
    """Their own root is one thing in the schema of a call and another in that of all calls."""
    tree = tool("a", properties={"left": {"$ref": "#"}, "$ref": {"$ref": "#/properties/left"}})
    named = ToolPlan("named", (tree,), (tree,)).constraint()
    assert named is not None
    assert tree["function"]["parameters"] == orjson.loads(str(named.value))
    plain = tool("b", properties={"c": {"$ref": "#/$defs/C"}}, **{"$defs": {"C": {"type": "null"}}})
    required = ToolPlan("required", (), (plain, tree)).constraint()
    assert required is not None
    schema = orjson.loads(str(required.value))
    first, second = (call["properties"]["parameters"] for call in schema["items"]["anyOf"])
    assert first["properties"] == plain["function"]["parameters"]["properties"]
    assert second == {"$ref": "#/$defs/_tool_1"}
    assert schema["$defs"]["C"] == {"type": "null"}
    moved = schema["$defs"]["_tool_1"]["properties"]
    assert moved["left"] == {"$ref": "#/$defs/_tool_1"}
    assert moved["$ref"] == {"$ref": "#/$defs/_tool_1/properties/left"}
    assert tree["function"]["parameters"]["properties"]["left"] == {"$ref": "#"}


def deep(n_levels: int) -> dict[str, Any]:
    """A schema of so many objects within each other."""
    schema: dict[str, Any] = {}
    for _ in range(n_levels - 1):
        schema = {"not": schema}
    return schema


def test_depth_of_schemas() -> None:
    """As deep as the engine takes them, with what is put around them."""
    for mode, most in (("named", 64), ("required", 59)):
        plan = ToolPlan(mode, (), (tool("a", items=deep(most - 1)),))  # type: ignore[arg-type]
        assert plan.constraint() is not None
        plan = ToolPlan(mode, (), (tool("a", items=deep(most)),))  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="more than 64 objects") as refusal:
            plan.constraint()
        assert refusal.value.param == "tools"

"""Tools and tool_choice: what the template is shown and what the output must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.protocol.engine import Constraint
from app.protocol.wire_json import JsonObject
from app.text.calls_schema import calls_schema
from app.text.field_rules import refuse
from app.text.schema_text import schema_text

Mode = Literal["none", "auto", "required", "named"]


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """How tools are used in one request.

    Attributes:
        mode: ``required`` and ``named`` bind the output by a schema; ``auto`` leaves it to the
            model and its parser; ``none`` parses nothing.
        shown: The tools the template renders; also those of ``none``, as vLLM and SMG do.
        usable: The tools that may be called.
        is_parallel: More than one call may come.
    """

    mode: Mode = "none"
    shown: tuple[JsonObject, ...] = ()
    usable: tuple[JsonObject, ...] = ()
    is_parallel: bool = True

    def constraint(self) -> Constraint | None:
        """The schema that makes the output calls; replaces the client's own constraint.

        Raises:
            InvalidRequest: Two tools define the same name differently.
        """
        if self.mode == "named":
            schema = self.usable[0]["function"].get("parameters") or {"type": "object"}
            return Constraint("json_schema", schema_text(schema, "tools"))
        if self.mode == "required":
            schema = calls_schema(self.usable, is_parallel=self.is_parallel)
            return Constraint("json_schema", schema_text(schema, "tools"))
        return None


def read_tools(fields: JsonObject) -> ToolPlan:
    """Reads ``tools`` and ``tool_choice``, or ``functions`` and ``function_call``.

    Raises:
        InvalidRequest: A tool is no function, or the choice names what is not there.
    """
    is_legacy = "tools" not in fields and "functions" in fields
    if is_legacy:
        listed = [{"type": "function", "function": item} for item in fields["functions"]]
    else:
        listed = fields.get("tools", [])
    tools = tuple(
        _tool(tool, f"functions[{position}]" if is_legacy else f"tools[{position}]")
        for position, tool in enumerate(listed)
    )
    choice = fields.get("tool_choice")
    if choice is None:
        choice = _legacy_choice(fields.get("function_call"))
    if choice is None:
        choice = "auto" if tools else "none"
    if choice == "none":
        return ToolPlan(shown=tools)
    if not tools:
        refuse("tool_choice", "needs tools to choose from")
    mode, usable = _choose(choice, tools)
    # With "none" of them excluded the template sees all, else what may be called.
    return ToolPlan(mode, usable, usable, fields.get("parallel_tool_calls", True))


def _tool(tool: JsonObject, param: str) -> JsonObject:
    kind = tool.get("type", "function")
    if kind != "function":
        refuse(f"{param}.type", f"must be function, not {kind!r}", "unsupported")
    function = tool.get("function")
    if not isinstance(function, dict):
        refuse(f"{param}.function", "must be an object")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        refuse(f"{param}.function.name", "must be a non-empty string")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        refuse(f"{param}.function.parameters", "must be a JSON schema object")
    if parameters:
        _check_parameters(parameters, f"{param}.function.parameters")
    return tool if "type" in tool else {"type": "function", **tool}


def _check_parameters(schema: JsonObject, param: str) -> None:
    """Arguments are an object; OpenAI refuses any other type, too."""
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        refuse(f"{param}.type", "must be object")
    for name in ("properties", "$defs", "definitions"):
        if not isinstance(schema.get(name) or {}, dict):
            refuse(f"{param}.{name}", "must be an object")


def _legacy_choice(choice: Any) -> Any:
    if isinstance(choice, dict):
        return {"type": "function", "function": choice}
    return choice


def _choose(choice: Any, tools: Sequence[JsonObject]) -> tuple[Mode, tuple[JsonObject, ...]]:
    if choice in ("auto", "required"):
        return choice, tuple(tools)
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "function":
        return "named", (_find(_name_in(choice), tools),)
    if kind == "allowed_tools":
        # OpenAI's chat nests the members, its Responses API does not.
        inner = choice.get("allowed_tools", choice)
        mode = inner.get("mode") if isinstance(inner, dict) else None
        if mode not in ("auto", "required"):
            refuse("tool_choice.allowed_tools.mode", "must be auto or required")
        allowed = inner.get("tools")
        if not isinstance(allowed, list) or not allowed:
            refuse("tool_choice.allowed_tools.tools", "must be a non-empty list")
        wanted = {id(_find(_name_in(item), tools)) for item in allowed}
        return mode, tuple(tool for tool in tools if id(tool) in wanted)
    return refuse(
        "tool_choice",
        "must be none, auto, required, or an object of type function or allowed_tools",
    )


def _name_in(choice: Any) -> str:
    function = choice.get("function", choice) if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        refuse("tool_choice", "must name a function")
    return name


def _find(name: str, tools: Sequence[JsonObject]) -> JsonObject:
    for tool in tools:
        if tool["function"]["name"] == name:
            return tool
    return refuse("tool_choice", f"names the function {name!r}, which is not in tools")

"""Grammars that bind a forced call to the model's own format, for engines with structural tags.

xgrammar reads them: free text until a trigger, then one of the tags. They are asked for only if
the operator has named the parser; a format guessed from the model's name is bound by the plain
JSON schema instead, which no wrong guess can spoil.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from app.protocol.engine import Constraint
from app.protocol.prompts import dump_nested
from app.protocol.wire_json import JsonObject
from app.text.parsers.tool_parsers import BY_NAME
from app.text.tool_choice import ToolPlan

# Calls of one answer that Kimi's tags number; grammars grow with tools times positions.
_N_KIMI_POSITIONS = 8


def constraint_for(
    plan: ToolPlan, configured: str | None, *, n_earlier_calls: int = 0
) -> Constraint | None:
    """What binds the answer to the tool choice.

    With a structural tag the answer comes in the model's own format; with a schema it is JSON.

    Args:
        plan: The tools and the choice among them.
        configured: The tool parser the operator has named, ``None`` if it is guessed.
        n_earlier_calls: Calls in the conversation so far, which Kimi's tags count on from.

    Raises:
        InvalidRequest: Two tools define the same name differently.
    """
    form = BY_NAME.get(configured.lower()) if configured is not None else None
    make = _TAGS.get(form.name) if form is not None else None
    if make is None or plan.mode not in ("required", "named"):
        return plan.constraint()
    is_single = plan.mode == "named" or not plan.is_parallel
    tag = {"type": "structural_tag", "format": make(plan.usable, is_single, n_earlier_calls)}
    return Constraint("structural_tag", dump_nested(tag, "tools").decode())


def _schema(tool: JsonObject) -> JsonObject:
    schema = tool["function"].get("parameters") or {"type": "object", "properties": {}}
    return {"type": "json_schema", "json_schema": schema}


def _tag(begin: str, content: JsonObject, end: str) -> JsonObject:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def _triggered(triggers: Sequence[str], tags: list[JsonObject], *, is_single: bool) -> JsonObject:
    return {
        "type": "triggered_tags",
        "triggers": list(triggers),
        "tags": tags,
        "at_least_one": True,
        "stop_after_first": is_single,
    }


def _mistral(tools: Sequence[JsonObject], is_single: bool, n_earlier_calls: int) -> JsonObject:  # noqa: ARG001 - one shape for all
    calls = [
        _tag(f'{{"name": {_quoted(tool)}, "arguments": ', _schema(tool), "}") for tool in tools
    ]
    array: dict[str, Any] = {
        "type": "tags_with_separator",
        "tags": calls,
        "separator": ", ",
        "at_least_one": True,
        "stop_after_first": is_single,
    }
    # There is one array to an answer, whatever number of calls it holds.
    return _triggered(["[TOOL_CALLS]"], [_tag("[TOOL_CALLS] [", array, "]")], is_single=True)


def _quoted(tool: JsonObject) -> str:
    return dump_nested(tool["function"]["name"], "tools").decode()


def _kimi(tools: Sequence[JsonObject], is_single: bool, n_earlier_calls: int) -> JsonObject:
    section, call = "<|tool_calls_section_begin|>", "<|tool_call_begin|>"
    tags = [
        _tag(
            f"{call if position else section + call}functions.{tool['function']['name']}"
            f":{n_earlier_calls + position}<|tool_call_argument_begin|>",
            _schema(tool),
            "<|tool_call_end|>",
        )
        for position in range(1 if is_single else _N_KIMI_POSITIONS)
        for tool in tools
    ]
    return _triggered([section, call], tags, is_single=is_single)


_TAGS: dict[str, Callable[[Sequence[JsonObject], bool, int], JsonObject]] = {
    "mistral": _mistral,
    "kimik2": _kimi,
}

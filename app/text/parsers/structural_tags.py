"""Grammars that bind a forced call to the model's own format, for engines with structural tags.

xgrammar 0.2 reads them (vLLM 0.32 and SGLang 0.5.23 bring it). They are asked for only if the
operator has named the parser; a format guessed from the model's name is bound by the plain JSON
schema instead, which no wrong guess can spoil.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.protocol.engine import Constraint
from app.protocol.prompts import dump_nested
from app.protocol.wire_json import JsonObject
from app.text.parsers.tool_parsers import BY_NAME
from app.text.schema_text import MAX_TAG_LEVELS, schema_text
from app.text.tool_choice import ToolPlan

ARGS_TOKEN = "[ARGS]"  # noqa: S105 - a token of text
"""Mistral's tokenizers have it from v11 on, with which the format of calls has changed."""

# Names that stand between markers without quotes must be told from what follows.
_PLAIN_NAME = re.compile(r"[\w.:/-]+")


@dataclass(frozen=True, slots=True)
class Room:
    """What a tag must make room for, and what it can be written with.

    Attributes:
        thought_start: Opens a thought before the calls; empty if the prompt has opened it.
        thought_end: Ends it; empty if no thought can come.
        is_in_thought: The answer is sure to begin inside the thought, which must then end; else
            the model may leave it out.
        has_args_token: The model's vocabulary has ``ARGS_TOKEN``.
    """

    thought_start: str = ""
    thought_end: str = ""
    is_in_thought: bool = False
    has_args_token: bool = False


NO_ROOM = Room()


def constraint_for(
    plan: ToolPlan, configured: str | None, room: Room = NO_ROOM
) -> Constraint | None:
    """What binds the answer to the tool choice.

    With a structural tag the answer comes in the model's own format; with a schema it is JSON,
    which also takes the names of functions that the format cannot hold.

    Args:
        plan: The tools and the choice among them.
        configured: The tool parser the operator has named, ``None`` if it is guessed.
        room: Thought and vocabulary; without a thought the calls are the whole answer.

    Raises:
        InvalidRequest: Two tools define the same name differently.
    """
    form = BY_NAME.get(configured.lower()) if configured is not None else None
    make = _TAGS.get(form.name) if form is not None else None
    if make is None or plan.mode not in ("required", "named"):
        return plan.constraint()
    if not all(_PLAIN_NAME.fullmatch(_name(tool)) for tool in plan.usable):
        return plan.constraint()
    is_single = plan.mode == "named" or not plan.is_parallel
    calls, start = make(plan.usable, is_single, room)
    tag = {"type": "structural_tag", "format": _behind_thought(calls, start, room)}
    return Constraint("structural_tag", schema_text(tag, "tools", most=MAX_TAG_LEVELS))


def _behind_thought(calls: JsonObject, start: str, room: Room) -> JsonObject:
    """Puts a thought and white space before the calls, if one can come."""
    if not room.thought_end:
        return calls
    # A call within the thought would be read as a call, though nothing binds it.
    words: JsonObject = {"type": "any_text", "excludes": [start]}
    thought = _tag(room.thought_start, words, room.thought_end)
    before = _in_turn(thought, {"type": "regex", "pattern": "\\s*"})
    if not room.is_in_thought:
        before = {"type": "optional", "content": before}
    return _in_turn(before, calls)


def _in_turn(*parts: JsonObject) -> JsonObject:
    return {"type": "sequence", "elements": list(parts)}


def _schema(tool: JsonObject) -> JsonObject:
    schema = tool["function"].get("parameters") or {"type": "object", "properties": {}}
    return {"type": "json_schema", "json_schema": schema}


def _tag(begin: str, content: JsonObject, end: str) -> JsonObject:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def _calls(tags: list[JsonObject], separator: str, *, is_single: bool) -> JsonObject:
    return {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": separator,
        "at_least_one": True,
        "stop_after_first": is_single,
    }


def _mistral(tools: Sequence[JsonObject], is_single: bool, room: Room) -> tuple[JsonObject, str]:
    """Up to v7 one array of objects; from v11 on a marker and a name for each call."""
    marker = "[TOOL_CALLS]"
    if room.has_args_token:
        named = [_tag(f"{marker}{_name(tool)}{ARGS_TOKEN}", _schema(tool), "") for tool in tools]
        return _calls(named, "", is_single=is_single), marker
    objects = [
        _tag(f'{{"name": {_quoted(tool)}, "arguments": ', _schema(tool), "}") for tool in tools
    ]
    array = _calls(objects, ", ", is_single=is_single)
    return _tag(f"{marker} [", array, "]"), marker


def _name(tool: JsonObject) -> str:
    name: str = tool["function"]["name"]
    return name


def _quoted(tool: JsonObject) -> str:
    return dump_nested(_name(tool), "tools").decode()


def _kimi(tools: Sequence[JsonObject], is_single: bool, room: Room) -> tuple[JsonObject, str]:  # noqa: ARG001 - one shape for all
    """One section of calls; their numbers are the model's, the gateway makes the ids itself."""
    section = "<|tool_calls_section_begin|>"
    number: JsonObject = {"type": "regex", "pattern": "\\d+"}
    begin: JsonObject = {"type": "const_string", "value": "<|tool_call_argument_begin|>"}
    tags = [
        _tag(
            f"<|tool_call_begin|>functions.{_name(tool)}:",
            _in_turn(number, begin, _schema(tool)),
            "<|tool_call_end|>",
        )
        for tool in tools
    ]
    calls = _calls(tags, "", is_single=is_single)
    return _tag(section, calls, "<|tool_calls_section_end|>"), section


_TAGS: dict[str, Callable[[Sequence[JsonObject], bool, Room], tuple[JsonObject, str]]] = {
    "mistral": _mistral,
    "kimik2": _kimi,
}

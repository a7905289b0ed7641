"""The JSON schema of an answer that must be tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from app.protocol.prompts import dump_nested
from app.protocol.wire_json import JsonObject
from app.text.field_rules import refuse

_DEFINITIONS = ("$defs", "definitions")
# These are moved along to the root, where the references to them still lead.
_MOVED = tuple(f"#/{key}/" for key in _DEFINITIONS)


def calls_schema(tools: Sequence[JsonObject], *, is_parallel: bool) -> JsonObject:
    """An array of at least one call, each of one tool; vLLM's shape for ``required``.

    Raises:
        InvalidRequest: Two tools define the same name differently.
    """
    definitions: dict[str, JsonObject] = {key: {} for key in _DEFINITIONS}
    calls: list[JsonObject] = []
    for at, tool in enumerate(tools):
        function = tool["function"]
        parameters = dict(function.get("parameters") or {"type": "object", "properties": {}})
        place = f"_tool_{at}"
        rooted = _rooted(parameters, f"#/$defs/{place}")
        for key in _DEFINITIONS:
            _merge(definitions[key], (rooted or parameters).pop(key, None) or {}, key)
        if rooted is not None:
            definitions["$defs"][place] = rooted
            parameters = {"$ref": f"#/$defs/{place}"}
        calls.append(
            {
                "properties": {
                    "name": {"type": "string", "enum": [function["name"]]},
                    "parameters": parameters,
                },
                "required": ["name", "parameters"],
            }
        )
    schema: JsonObject = {
        "type": "array",
        "minItems": 1,
        "items": {"type": "object", "anyOf": calls},
    }
    if not is_parallel:
        schema["maxItems"] = 1
    return schema | {key: merged for key, merged in definitions.items() if merged}


def _rooted(parameters: JsonObject, root: str) -> JsonObject | None:
    """A copy whose references to its own root lead to another place; ``None`` if it has none.

    Inside of the array ``#`` would be the array itself: a tree would be bound to have lists of
    calls for its branches.
    """
    data = dump_nested(parameters, "tools")
    if b'"$ref":"#' not in data:
        return None
    copied: JsonObject = orjson.loads(data)
    has_own = False
    waiting: list[Any] = [copied]
    while waiting:
        node = waiting.pop()
        ref = node.get("$ref") if isinstance(node, dict) else None
        if isinstance(ref, str) and ref.startswith("#") and not ref.startswith(_MOVED):
            node["$ref"] = root + ref[1:]
            has_own = True
        inner = node.values() if isinstance(node, dict) else node
        waiting += [item for item in inner if isinstance(item, dict | list)]
    return copied if has_own else None


def _merge(merged: JsonObject, more: JsonObject, key: str) -> None:
    for name, schema in more.items():
        if merged.setdefault(name, schema) != schema:
            refuse("tools", f"define {name!r} in {key} in two different ways")

"""Values that a format writes as plain text, turned into JSON by the tool's schema."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

from app.protocol.wire_json import loads_or_none

Types = frozenset[str]
"""JSON schema types a parameter may have."""

TEXT_ONLY: Types = frozenset({"string"})
"""Also what is taken for a parameter that no schema describes."""
NO_TEXT: Types = frozenset({"null", "boolean", "number", "object", "array"})

_MAX_REFS = 8
_INTEGER = re.compile(r"\+?(?P<minus>-?)0*(?P<digits>[1-9][0-9]*|)(?<=[0-9])")
_BY_TYPE: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    list: "array",
    dict: "object",
}


class ParameterTypes:
    """The types of the parameters of one function.

    Args:
        function: The ``function`` of a tool; ``None`` for a function that is not listed.
    """

    def __init__(self, function: Mapping[str, Any] | None) -> None:
        schema = (function or {}).get("parameters")
        self._schema: Mapping[str, Any] = schema if isinstance(schema, dict) else {}

    def of(self, parameter: str) -> Types:
        """The types of a parameter."""
        properties = self._schema.get("properties")
        known = properties.get(parameter) if isinstance(properties, dict) else None
        if known is None:
            known = self._schema.get("additionalProperties")
        return self._types(known, _MAX_REFS) or TEXT_ONLY

    def _types(self, schema: Any, n_refs: int) -> Types:
        if not isinstance(schema, dict) or n_refs == 0:
            return frozenset()
        kind = schema.get("type")
        found = {word for word in _list(kind) if isinstance(word, str)}
        if isinstance(kind, str):
            found.add(kind)
        if schema.get("nullable") is True:
            found.add("null")
        if not found:
            values = _list(schema.get("enum"))
            values += [schema["const"]] if "const" in schema else []
            found.update(_BY_TYPE[type(value)] for value in values if type(value) in _BY_TYPE)
        for key in ("anyOf", "oneOf", "allOf"):
            for option in _list(schema.get(key)):
                found |= self._types(option, n_refs - 1)
        if isinstance(ref := schema.get("$ref"), str):
            found |= self._types(self._resolve(ref), n_refs - 1)
        return frozenset(found)

    def _resolve(self, ref: str) -> Any:
        place: Any = self._schema
        for part in ref.removeprefix("#/").split("/"):
            place = place.get(part) if isinstance(place, dict) else None
        return place


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else []


def to_json(text: str, types: Types) -> str:
    """A value's text as JSON: of the first type it fits, else as a string.

    Args:
        text: As the model wrote it.
        types: What the schema allows.
    """
    bare = text.strip()
    for fits in (_as_null, _as_boolean, _as_number, _as_container):
        value = fits(bare, types)
        if value is not None:
            return value
    return json.dumps(text, ensure_ascii=False)


def _as_null(text: str, types: Types) -> str | None:
    # Where text is allowed and null is not named, the word is text.
    is_null = text.lower() in ("null", "none") and ("null" in types or "string" not in types)
    return "null" if is_null else None


def _as_boolean(text: str, types: Types) -> str | None:
    word = text.lower()
    return word if "boolean" in types and word in ("true", "false") else None


def _as_number(text: str, types: Types) -> str | None:
    if not types & {"integer", "number"}:
        return None
    if match := _INTEGER.fullmatch(text):
        # "+007" is no JSON; digits are kept as they are, for numbers of any length.
        return match["minus"] + (match["digits"] or "0")
    value = loads_or_none(text)
    if type(value) is not float:
        return None
    is_whole = "number" not in types and value.is_integer()
    return str(int(value)) if is_whole else text


def _as_container(text: str, types: Types) -> str | None:
    for kind, wanted in ((dict, "object"), (list, "array")):
        if wanted in types and isinstance(loads_or_none(text), kind):
            return text
    if not types & {"object", "array"} or not text.startswith(("{", "[", "(")):
        return None
    return literal_json(text)


_UNREADABLE = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)


def literal_json(text: str) -> str | None:
    """JSON of a Python literal, ``None`` if the text is none; nothing is ever evaluated.

    The words ``true``, ``false`` and ``null`` are understood inside, as models mix them in.
    """
    try:
        with warnings.catch_warnings():
            # "\d" in a model's string is no concern of the gateway's log.
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
        made = json.dumps(_literal(tree.body), ensure_ascii=False, allow_nan=False)
        made.encode()  # half a surrogate pair, written as an escape, is no text
        return made
    except _UNREADABLE:
        return None


_WORDS = {"true": True, "false": False, "null": None}


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _literal(value) for key, value in zip(keys, values, strict=True)}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
    message = f"no literal: {type(node).__name__}"
    raise ValueError(message)


def _key(node: ast.expr | None) -> Any:
    key = _literal(node) if node is not None else node
    if key is None or isinstance(key, list | dict):
        raise ValueError("no key of JSON")
    return key

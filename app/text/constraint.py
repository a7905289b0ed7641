"""Structured output: every way of asking for it becomes one :class:`Constraint`."""

from __future__ import annotations

from typing import Any

import orjson

from app.protocol.engine import Constraint, ConstraintKind
from app.protocol.wire_json import JsonObject
from app.text.field_rules import refuse
from app.text.schema_text import MAX_TAG_LEVELS, schema_text

# Field -> kind. The names without prefix are SMG's and SGLang's, those with it vLLM's older ones.
_FIELDS: dict[str, ConstraintKind] = {
    "json_schema": "json_schema",
    "regex": "regex",
    "ebnf": "grammar",
    "grammar": "grammar",
    "choice": "choice",
    "structural_tag": "structural_tag",
    "guided_json": "json_schema",
    "guided_json_object": "json_object",
    "guided_regex": "regex",
    "guided_grammar": "grammar",
    "guided_choice": "choice",
}
# Members of vLLM's ``structured_outputs``.
_STRUCTURED: dict[str, ConstraintKind] = {
    "json": "json_schema",
    "json_object": "json_object",
    "regex": "regex",
    "grammar": "grammar",
    "choice": "choice",
    "structural_tag": "structural_tag",
}


def read_constraint(fields: JsonObject, prefix: str = "") -> Constraint | None:
    """Reads the constraint of a request, if it names one.

    Args:
        fields: The body's fields as the table read them.
        prefix: Stands before a field's name in an error.

    Raises:
        InvalidRequest: There are several, or one is of no known shape.
    """
    found: list[tuple[str, Constraint]] = []
    for name in _FIELDS.keys() & fields.keys():
        made = _make(_FIELDS[name], fields[name], prefix + name)
        if made is not None:
            found.append((prefix + name, made))
    if (structured := fields.get("structured_outputs")) is not None:
        found += _structured(structured)
    if (wanted := fields.get("response_format")) is not None:
        made = _response_format(wanted)
        if made is not None:
            found.append(("response_format", made))
    if len(found) > 1:
        names = sorted(name for name, _ in found)
        refuse(names[-1], f"cannot be combined with {', '.join(names[:-1])}")
    return found[0][1] if found else None


def _structured(members: JsonObject) -> list[tuple[str, Constraint]]:
    found: list[tuple[str, Constraint]] = []
    for name, value in members.items():
        param = f"structured_outputs.{name}"
        if value is None or value is False:
            continue
        if name not in _STRUCTURED:
            refuse(param, "cannot be passed on to vLLM workers", "unsupported")
        made = _make(_STRUCTURED[name], value, param)
        if made is not None:
            found.append((param, made))
    return found


def _response_format(wanted: JsonObject) -> Constraint | None:
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint("json_object")
    if kind == "structural_tag":
        return _make("structural_tag", wanted, "response_format")
    if kind != "json_schema":
        refuse(
            "response_format.type",
            "must be one of text, json_object, json_schema, structural_tag",
        )
    inner = wanted.get("json_schema")
    param = "response_format.json_schema"
    if not isinstance(inner, dict):
        refuse(param, "must be an object")
    if not isinstance(inner.get("name"), str) or not inner["name"]:
        refuse(f"{param}.name", "must be a non-empty string")
    # "schema_" is what some typed clients send, because their field cannot be called schema.
    schema = inner.get("schema", inner.get("schema_"))
    if schema is None:
        refuse(f"{param}.schema", "is missing")
    return _make("json_schema", schema, f"{param}.schema")


def _make(kind: ConstraintKind, value: Any, param: str) -> Constraint | None:
    if kind == "json_object":
        return Constraint("json_object") if value else None
    if kind == "choice":
        return Constraint("choice", _choices(value, param))
    if kind == "json_schema":
        return Constraint(kind, _schema(value, param))
    if kind == "structural_tag":
        return Constraint(kind, _tag(value, param))
    if not isinstance(value, str) or not value:
        refuse(param, "must be a non-empty string")
    return Constraint(kind, value)


def _choices(value: Any, param: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        refuse(param, "must be a non-empty list of strings")
    if not all(isinstance(item, str) for item in value):
        refuse(param, "must hold only strings")
    return tuple(value)


def _schema(value: Any, param: str) -> str:
    """A schema may come as an object or as its text; both must be JSON."""
    schema = _parsed(value, param)
    if not isinstance(schema, dict | bool):
        refuse(param, "must be a JSON schema: an object, true or false")
    made = schema_text(schema, param)
    return value if isinstance(value, str) else made


def _tag(value: Any, param: str) -> str:
    tag = _parsed(value, param)
    if not isinstance(tag, dict):
        refuse(param, "must be an object")
    # The second form is the older one; xgrammar reads both.
    if not isinstance(tag.get("format"), dict) and not isinstance(tag.get("structures"), list):
        refuse(param, "must have a format (an object) or structures (a list)")
    made = schema_text(tag, param, most=MAX_TAG_LEVELS)
    return value if isinstance(value, str) else made


def _parsed(value: Any, param: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        refuse(param, f"is not valid JSON: {error}")

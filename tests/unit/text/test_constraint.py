"""Every way of asking for structured output."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.errors import InvalidRequest
from app.protocol.engine import Constraint
from app.text.constraint import read_constraint

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
SCHEMA_TEXT = '{"type":"object","properties":{"a":{"type":"integer"}}}'


def deep(n_levels: int) -> dict[str, Any]:
    """A schema of so many objects within each other."""
    schema: dict[str, Any] = {}
    for _ in range(n_levels - 1):
        schema = {"not": schema}
    return schema


DEEP, DEEPER = deep(64), deep(80)


def test_depth_that_is_taken() -> None:
    """As deep as the engine takes it, and no matter how wide."""
    wide = {"anyOf": [{"type": "null"}] * 200}
    for schema in (DEEP, wide, orjson.dumps(DEEP).decode()):
        made = read_constraint({"guided_json": schema})
        assert made is not None
    tag = {"format": deep(79)}
    assert read_constraint({"structural_tag": tag}) is not None
    older: dict[str, Any] = {"structures": [], "triggers": []}
    assert read_constraint({"structural_tag": older}) is not None


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json_object")),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                }
            },
            Constraint("json_schema", SCHEMA_TEXT),
        ),
        ({"json_schema": SCHEMA_TEXT}, Constraint("json_schema", SCHEMA_TEXT)),
        ({"guided_json": SCHEMA}, Constraint("json_schema", SCHEMA_TEXT)),
        ({"regex": "[ab]+"}, Constraint("regex", "[ab]+")),
        ({"guided_regex": "[ab]+"}, Constraint("regex", "[ab]+")),
        ({"ebnf": 'root ::= "a"'}, Constraint("grammar", 'root ::= "a"')),
        ({"choice": ["a", "b"]}, Constraint("choice", ("a", "b"))),
        ({"structured_outputs": {"choice": ["a"]}}, Constraint("choice", ("a",))),
        ({"structured_outputs": {"json": SCHEMA}}, Constraint("json_schema", SCHEMA_TEXT)),
        ({"structured_outputs": {"json_object": True}}, Constraint("json_object")),
        (
            {"response_format": {"type": "structural_tag", "format": {"type": "any_text"}}},
            Constraint("structural_tag", '{"type":"structural_tag","format":{"type":"any_text"}}'),
        ),
        ({"response_format": {"type": "text"}, "regex": "a"}, Constraint("regex", "a")),
    ],
)
def test_forms(fields: dict[str, Any], constraint: Constraint | None) -> None:
    """Each becomes the wire's kind and text."""
    assert constraint == read_constraint(fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"regex": "a", "ebnf": "b"}, "regex"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"regex": ""}, "regex"),
        ({"choice": []}, "choice"),
        ({"choice": [1]}, "choice"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"disable_fallback": True}}, "structured_outputs.disable_fallback"),
        ({"structural_tag": {}}, "structural_tag"),
        ({"structural_tag": "{}"}, "structural_tag"),
        ({"structural_tag": True}, "structural_tag"),
        ({"structural_tag": {"format": "any_text"}}, "structural_tag"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
        ({"guided_json": {"not": DEEP}}, "guided_json"),
        ({"guided_json": orjson.dumps({"not": DEEP}).decode()}, "guided_json"),
        ({"structural_tag": {"format": DEEPER}}, "structural_tag"),
    ],
)
def test_refused(fields: dict[str, Any], param: str) -> None:
    """Two at once, or none that can be read."""
    with pytest.raises(InvalidRequest) as refusal:
        read_constraint(fields)
    assert param == refusal.value.param

"""Plain text of a value, made JSON by the schema's types."""

from __future__ import annotations

import json

import pytest

from app.text.parsers.schema_values import ParameterTypes, literal_json, to_json


@pytest.mark.parametrize(
    ("text", "types", "expected"),
    [
        ("5", "integer", "5"),
        (" 5\n", "integer", "5"),
        ("+007", "integer", "7"),
        ("-0", "integer", "-0"),
        ("000", "integer", "0"),
        ("5.0", "integer", "5"),
        ("5.5", "integer", "5.5"),
        ("123456789012345678901234567890", "integer", "123456789012345678901234567890"),
        ("many", "integer", '"many"'),
        ("+", "integer", '"+"'),
        ("1e3", "number", "1e3"),
        ("5.0", "number", "5.0"),
        ("NaN", "number", '"NaN"'),
        ("True", "boolean", "true"),
        ("false", "boolean", "false"),
        ("yes", "boolean", '"yes"'),
        ("null", "integer", "null"),
        ("None", "object", "null"),
        ("null", "string integer", '"null"'),
        ("null", "string null", "null"),
        ("nothing", "string null", '"nothing"'),
        ("5", "string integer", "5"),
        ('{"a" :1}', "object", '{"a" :1}'),
        ("{'a': True}", "object", '{"a": true}'),
        ("[1, (2, 3)]", "array", "[1, [2, 3]]"),
        ("{broken", "object", '"{broken"'),
        (" [1] ", "object", "[1]"),
        (" kept ", "array", '" kept "'),
    ],
)
def test_to_json(text: str, types: str, expected: str) -> None:
    """The first type that fits decides; else the text is a string as it stands."""
    assert to_json(text, frozenset(types.split())) == expected
    json.loads(expected)


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "integer"}, "integer"),
        ({"type": ["integer", "null"]}, "integer null"),
        ({"type": "integer", "nullable": True}, "integer null"),
        ({"anyOf": [{"type": "array"}, {"type": "null"}]}, "array null"),
        ({"oneOf": [{"$ref": "#/$defs/Point"}]}, "object"),
        ({"$ref": "#/$defs/Loop"}, "string"),
        ({"$ref": "#/$defs/Missing"}, "string"),
        ({"enum": [1, "a", None]}, "integer string null"),
        ({"const": True}, "boolean"),
        ({}, "string"),
        ({"type": 5, "enum": "x", "anyOf": {}}, "string"),
        (None, "number"),
    ],
)
def test_types_of_a_parameter(schema: object, types: str) -> None:
    """Types are found where JSON schema may hide them; without any it is text."""
    parameters = {
        "type": "object",
        "properties": {"x": schema},
        "additionalProperties": {"type": "number"},
        "$defs": {"Point": {"type": "object"}, "Loop": {"$ref": "#/$defs/Loop"}},
    }
    assert ParameterTypes({"parameters": parameters}).of("x") == frozenset(types.split())


def test_types_without_schema() -> None:
    """An unlisted function, and one without parameters, take text."""
    assert ParameterTypes(None).of("x") == {"string"}
    assert ParameterTypes({"parameters": {"properties": []}}).of("x") == {"string"}


@pytest.mark.parametrize(
    "text", ["", "x", "f()", "1 +", "a.b", "1j", "...", "\0", "-" * 9000 + "1", "[" * 5000]
)
def test_no_literal(text: str) -> None:
    """Anything but a literal is refused, however it is made."""
    assert literal_json(text) is None

"""Writes docs/api.md from /openapi.json: ``python -m tests.pages.api_page > docs/api.md``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from app.main import create_app
from app.settings import Settings

_HEAD = """\
# API reference

<!-- Made from /openapi.json by `python -m tests.pages.api_page`; a test fails when it is out of date. -->

The same with examples to try is served by every gateway at `/docs`, as a document at `/openapi.json`.
Unknown fields of generation requests are passed on to SGLang; what vLLM pairs take is in
[Requests to vLLM pairs](vllm-requests.md). Every error has the shape `Error` below; which key opens
which route is in [Security](security.md).
"""


def page() -> str:
    """Return the text of the page."""
    document = create_app(Settings(log_level="error")).openapi()
    parts = [_HEAD, "## Routes", ""]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(f"{method.upper()} {path}", operation)
    parts += ["## Objects", ""]
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += _object(name, schema)
    return "\n".join(parts).rstrip() + "\n"


def _operation(name: str, operation: dict[str, Any]) -> Iterator[str]:
    yield from (f"### `{name}`", "", operation.get("summary", ""), "")
    if description := operation.get("description"):
        yield from (description.strip(), "")
    if parameters := operation.get("parameters"):
        yield from ("| Parameter | In | Type | Meaning |", "| --- | --- | --- | --- |")
        for found in parameters:
            row = (f"`{found['name']}`", found["in"], _kind(found["schema"]))
            yield _row(*row, found.get("description", ""))
        yield ""
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        yield from (f"Takes {_kind(content['application/json']['schema'])}.", "")
    yield from ("| Status | Answer | |", "| --- | --- | --- |")
    for status, answer in operation["responses"].items():
        kinds = [
            _kind(entry.get("schema", {})) if media == "application/json" else f"`{media}`"
            for media, entry in answer.get("content", {}).items()
        ]
        yield _row(status, " or ".join(kinds), answer.get("description", ""))
    yield ""


def _object(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield from (f"### {name}", "")
    if description := schema.get("description"):
        yield from (description.strip(), "")
    if "enum" in schema:
        yield from (f"{_kind(schema)}", "")
    if properties := schema.get("properties"):
        required = set(schema.get("required", ()))
        yield from ("| Field | Type | Meaning |", "| --- | --- | --- |")
        for field, found in properties.items():
            mark = f"`{field}`" + (" (needed)" if field in required else "")
            yield _row(mark, _kind(found), found.get("description", ""))
        yield ""


def _kind(schema: dict[str, Any]) -> str:
    """A type in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(_kind(found) for found in schema[choice]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    kind = str(schema.get("type", "any"))
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    default = schema.get("default")
    tail = [f"default `{json.dumps(default)}`"] if default is not None else []
    return ", ".join([kind, *bounds, *tail])


def _row(*cells: str) -> str:
    return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(page())

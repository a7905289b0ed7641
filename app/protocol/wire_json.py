"""Parsing what workers send: never trusted to be JSON, or to have a shape."""

from __future__ import annotations

from typing import Any

import orjson

Json = Any
"""A parsed document of unknown shape; narrow it with ``isinstance`` before use."""

JsonObject = dict[str, Any]


def loads_or_none(data: bytes | str) -> Json:
    """Parses, or gives ``None`` for what is not JSON, such as ``[DONE]`` or a cut event."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def rewritten(document: Json, original: bytes) -> bytes:
    """Writes a changed document; the original if it is nested deeper than the writer goes."""
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        return original


def object_in(document: Json, key: str) -> JsonObject | None:
    """The object under a key of an object, or ``None`` if either is something else."""
    if not isinstance(document, dict):
        return None
    value = document.get(key)
    return value if isinstance(value, dict) else None


def count_in(document: JsonObject, key: str) -> int | None:
    """The number under a key if it is a whole one, 0 or more."""
    value = document.get(key)
    return value if type(value) is int and value >= 0 else None

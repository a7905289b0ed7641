"""JSON schemas and structural tags as text for the engine, which limits how deep they may be."""

from __future__ import annotations

from typing import Any

from app.protocol.prompts import dump_nested
from app.text.field_rules import refuse

MAX_SCHEMA_LEVELS = 64
MAX_TAG_LEVELS = 80
"""Objects and arrays within each other that vLLM 0.32 takes; it refuses the decode leg else."""


def schema_text(document: Any, param: str, *, most: int = MAX_SCHEMA_LEVELS) -> str:
    """Writes a schema or a tag.

    Raises:
        InvalidRequest: It is nested too deeply.
    """
    data = dump_nested(document, param)
    if data.count(b"{") + data.count(b"[") > most and _is_deeper(document, most):
        refuse(param, f"is nested too deeply: more than {most} objects and arrays in each other")
    return data.decode()


def _is_deeper(document: Any, most: int) -> bool:
    level = [document]
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True

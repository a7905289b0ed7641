"""Telling model families apart by name."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def is_like(model: str, pattern: str) -> bool:
    """True if the pattern occurs in the name, whatever the case; ``*`` stands for anything."""
    return fnmatchcase(model.lower(), f"*{pattern.lower()}*")


def longest_match(model: str, patterns: Iterable[str]) -> str | None:
    """The longest pattern that occurs in a model's name."""
    return max((p for p in patterns if is_like(model, p)), key=len, default=None)


def first_match(model: str, patterns: Iterable[str]) -> str | None:
    """The first pattern that occurs in a model's name."""
    return next((p for p in patterns if is_like(model, p)), None)

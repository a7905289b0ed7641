"""Ids of tool calls, in the form the model's own template will take back."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

IdMaker = Callable[[str, int], str]
"""Makes the id of a call from the function's name and the call's index in the answer."""

DrawHex = Callable[[int], str]
"""Draws this many random bytes as hexadecimal digits, two a byte."""


def random_ids(draw: DrawHex = secrets.token_hex) -> IdMaker:
    """OpenAI's look: ``call_`` and 24 hexadecimal digits."""

    def make_id(name: str, index: int) -> str:  # noqa: ARG001 - the shape is shared
        return f"call_{draw(12)}"

    return make_id


def mistral_ids(draw: DrawHex = secrets.token_hex) -> IdMaker:
    """Nine letters or digits: Mistral's templates refuse a history with any other id."""

    def make_id(name: str, index: int) -> str:  # noqa: ARG001 - the shape is shared
        return draw(5)[:9]

    return make_id


def kimi_ids(n_earlier_calls: int = 0) -> IdMaker:
    """``functions.{name}:{n}``, where Kimi K2 counts calls through the whole conversation."""

    def make_id(name: str, index: int) -> str:
        return f"functions.{name}:{n_earlier_calls + index}"

    return make_id


def count_calls(messages: Iterable[Mapping[str, Any]]) -> int:
    """How many tool calls the messages of a conversation hold."""
    return sum(len(message.get("tool_calls") or ()) for message in messages)

"""Finding the end of a JSON value while it is being written, without parsing it anew each time.

Only strings and brackets are followed: the text between them is the model's, and a client wants
it as it is. What can stand nowhere in JSON, such as ``<`` outside a string, breaks the value off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal

from app.protocol.wire_json import loads_or_none
from app.text.parsers.reader import Reader, Steps

_IN_STRING = re.compile(r'[^"\\]*')
_BETWEEN = re.compile(r"[\s\w,:+.\-]*")
_SCALAR = re.compile(r"[\w+.\-]*")
_CLOSER = {"{": "}", "[": "]"}


class JsonExtent:
    """Follows one value to its end.

    Attributes:
        outcome: ``None`` while inside, ``whole`` after its last character, ``broken`` where it
            cannot go on.
    """

    __slots__ = ("_closers", "_is_escaped", "_is_scalar", "_is_string", "outcome")

    def __init__(self) -> None:
        self.outcome: Literal["whole", "broken"] | None = None
        self._closers: list[str] = []
        self._is_string = False
        self._is_escaped = False
        self._is_scalar = False

    def feed(self, text: str) -> int:
        """Takes the next piece; gives how many of its characters belong to the value."""
        at = 0
        while at < len(text) and self.outcome is None:
            if self._is_string:
                at = self._string(text, at)
            elif self._closers:
                at = self._inside(text, at)
            else:
                at = self._outermost(text, at)
        return at

    def _string(self, text: str, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        match = _IN_STRING.match(text, at)
        at = match.end() if match else at
        if at == len(text):
            return at
        if text[at] == "\\":
            self._is_escaped = True
        else:
            self._is_string = False
            self._end_if_outermost()
        return at + 1

    def _inside(self, text: str, at: int) -> int:
        match = _BETWEEN.match(text, at)
        at = match.end() if match else at
        if at == len(text):
            return at
        if self._opens(text[at]):
            return at + 1
        if text[at] != self._closers[-1]:
            self.outcome = "broken"
            return at
        self._closers.pop()
        self._end_if_outermost()
        return at + 1

    def _outermost(self, text: str, at: int) -> int:
        if not self._is_scalar and self._opens(text[at]):
            return at + 1
        match = _SCALAR.match(text, at)
        end = match.end() if match else at
        if end < len(text):
            self.outcome = "whole" if self._is_scalar or end > at else "broken"
        self._is_scalar = True
        return end

    def _opens(self, char: str) -> bool:
        if char == '"':
            self._is_string = True
        elif char in _CLOSER:
            self._closers.append(_CLOSER[char])
        else:
            return False
        return True

    def _end_if_outermost(self) -> None:
        if not self._closers:
            self.outcome = "whole"


def pass_json(reader: Reader, emit: Callable[[str], None]) -> Steps[bool]:
    """Settles and hands on a value as it comes; False if it broke off or the text ended."""
    extent = JsonExtent()
    while True:
        text = reader.unread()
        n = extent.feed(text)
        reader.skip(n)
        reader.commit()
        if n:
            emit(text[:n])
        if extent.outcome is not None:
            return extent.outcome == "whole"
        if not text and reader.is_over:
            return False
        if not text:
            yield


def json_text(reader: Reader) -> Steps[str | None]:
    """Reads a whole value and gives its text, ``None`` if it broke off or the text ended."""
    extent = JsonExtent()
    pieces: list[str] = []
    while True:
        text = reader.unread()
        n = extent.feed(text)
        reader.skip(n)
        pieces.append(text[:n])
        if extent.outcome is not None:
            return "".join(pieces) if extent.outcome == "whole" else None
        if not text and reader.is_over:
            return None
        if not text:
            yield


def json_string(reader: Reader) -> Steps[str | None]:
    """Reads a string and gives what it says, ``None`` if something else is there."""
    if (yield from reader.ahead()) != '"':
        return None
    text = yield from json_text(reader)
    value = loads_or_none(text) if text is not None else None
    return value if isinstance(value, str) else None


def escaped(text: str) -> str:
    """A piece of text as it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def unwrapped(text: str) -> str:
    """Argument text from a whole JSON value: ``null`` is none, an object may stand in a string."""
    if text == "null":
        return "{}"
    value = loads_or_none(text) if text.startswith('"') else None
    if not isinstance(value, str):
        return text
    if not value.strip():
        return "{}"
    return value if isinstance(loads_or_none(value), dict) else text

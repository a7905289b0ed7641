"""Calls written as a list in Python: ``[f(a=1), g(b="x")]``."""

from __future__ import annotations

import json
import re

from app.text.parsers.marked_parser import MarkedParser
from app.text.parsers.reader import Markers, Reader, Steps
from app.text.parsers.schema_values import literal_json

_PYTHON_START, _PYTHON_END = "<|python_start|>", "<|python_end|>"
_NAME = re.compile(r"[\w.]*")
_KEY = re.compile(r"\w*")
_BETWEEN = re.compile(r"[^'\"()\[\]{},]*")
_IN_STRING = re.compile(r"[^'\"\\]*")


class ValueExtent:
    """Follows an expression to the comma or bracket that ends an argument.

    Attributes:
        is_whole: The end was found.
    """

    def __init__(self) -> None:
        self.is_whole = False
        self._depth = 0
        self._quote = ""
        """The quotation mark of the string we are in, three of it in a long string."""
        self._n_marks = 0
        """Marks of this kind in a row: at the opening, or at what may be the end."""
        self._is_opening = False
        self._is_escaped = False

    def feed(self, text: str) -> int:
        """Takes the next piece; gives how many of its characters belong to the value."""
        at = 0
        while at < len(text) and not self.is_whole:
            if self._is_opening:
                at = self._opening(text, at)
            elif self._quote:
                at = self._string(text, at)
            else:
                at = self._between(text, at)
        return at

    def _between(self, text: str, at: int) -> int:
        match = _BETWEEN.match(text, at)
        at = match.end() if match else at
        if at == len(text):
            return at
        char = text[at]
        if char in "'\"":
            self._quote, self._n_marks, self._is_opening = char, 1, True
        elif char in "([{":
            self._depth += 1
        elif self._depth and char != ",":
            self._depth -= 1
        elif not self._depth:
            self.is_whole = True
            return at
        return at + 1

    def _opening(self, text: str, at: int) -> int:
        if text[at] == self._quote:
            self._n_marks += 1
            if self._n_marks < 3:
                return at + 1
            self._quote *= 3
            at += 1
        elif self._n_marks == 2:
            self._quote = ""  # two marks were an empty string
        self._is_opening, self._n_marks = False, 0
        return at

    def _string(self, text: str, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        match = _IN_STRING.match(text, at)
        end = match.end() if match else at
        if end > at:
            self._n_marks = 0
        if end == len(text):
            return end
        if text[end] == "\\":
            self._is_escaped = True
        self._n_marks = self._n_marks + 1 if text[end] == self._quote[0] else 0
        if self._n_marks == len(self._quote):
            self._quote = ""
        return end + 1


class PythonicParser(MarkedParser, starts=(_PYTHON_START, "["), ends=(_PYTHON_END,)):
    """Llama 4, and Llama 3.2 where it is asked to: a list at the beginning of a line.

    Only calls of listed tools with keyword arguments are calls: other lists are content. A value
    that is no literal, such as ``x + 1``, is passed on as the text it is. Llama 4 may put the
    list between two tokens.
    """

    def _calls(self, marker: str) -> Steps[bool]:
        reader = self._reader
        if marker == _PYTHON_START:
            reader.skip(len(marker))
            yield from reader.skip_space()
        elif not self._out.is_line_blank:
            return False
        if (yield from reader.take("[")) is None or not (yield from self._call()):
            return False
        while True:
            reader.commit()
            yield from reader.skip_space()
            if (yield from reader.take("]")) is not None:
                reader.commit()
                return True
            if (yield from reader.take(",")) is None or not (yield from self._call()):
                reader.rewind()
                return True

    def _call(self) -> Steps[bool]:
        reader = self._reader
        yield from reader.skip_space()
        name = yield from reader.run_of(_NAME)
        if not self._is_listed(name) or (yield from reader.take("(")) is None:
            return False
        yield from reader.skip_space()
        if (yield from reader.take(")")) is not None:
            self._out.open_call(name)
            self._out.arguments("{}")
            return True
        key = yield from self._key()
        if key is None:
            return False
        self._out.open_call(name)
        comma = "{"
        while key is not None:
            self._out.arguments(f"{comma}{json.dumps(key, ensure_ascii=False)}: ")
            reader.commit()
            value = yield from _value_text(reader)
            if value is None:
                break
            literal = literal_json(value)
            self._out.arguments(literal or json.dumps(value.strip(), ensure_ascii=False))
            reader.commit()
            comma = ", "
            yield from reader.take(",")
            yield from reader.skip_space()
            if (yield from reader.take(")")) is not None:
                self._out.arguments("}")
                return True
            key = yield from self._key()
        reader.rewind()
        yield from reader.pass_on(Markers(_PYTHON_END), self._out.arguments)
        return True

    def _key(self) -> Steps[str | None]:
        key = yield from self._reader.run_of(_KEY)
        yield from self._reader.skip_space()
        return key if key and (yield from self._reader.take("=")) else None


def _value_text(reader: Reader) -> Steps[str | None]:
    """Reads one value; ``None`` if the text ended inside."""
    extent = ValueExtent()
    pieces: list[str] = []
    while True:
        text = reader.unread()
        n = extent.feed(text)
        reader.skip(n)
        pieces.append(text[:n])
        if extent.is_whole:
            return "".join(pieces)
        if not text and reader.is_over:
            return None
        if not text:
            yield

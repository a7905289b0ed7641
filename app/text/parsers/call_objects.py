"""Calls written as JSON objects: ``{"name": ..., "arguments": {...}}``, alone or in an array."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from app.text.parsers.call_writer import CallWriter
from app.text.parsers.json_reading import json_string, json_text, pass_json, unwrapped
from app.text.parsers.reader import Reader, Steps

Outcome = Literal["no call", "whole", "broken"]
"""``whole``: read up to the last commit. ``broken``: the arguments broke off there."""

# Members beside the name that calls of this kind are known to have; nothing is done with them.
_IDLE_KEYS = frozenset({"id", "type", "tool_call_id"})


@dataclass(frozen=True, slots=True)
class ObjectForm:
    """What counts as a call.

    Attributes:
        accepts: Tells whether a name is one.
        is_marked: A marker has announced the call. Without one an object is a call only if it
            has arguments, these are an object, and no unknown member comes before them.
        name_keys: Members that hold the name.
        argument_keys: Members that hold the arguments.
    """

    accepts: Callable[[str], bool]
    is_marked: bool = True
    name_keys: frozenset[str] = frozenset({"name"})
    argument_keys: frozenset[str] = frozenset({"arguments", "parameters"})


class CallObject:
    """The grammar of one object, whose opening brace comes next.

    Members may come in any order. Arguments in front of the name are held until the object ends. So
    are arguments written as a string, which some models do because OpenAI's own API has them so:
    they are unwrapped. Missing ones and ``null`` become ``{}``.
    """

    def __init__(self, reader: Reader, out: CallWriter, form: ObjectForm) -> None:
        self._reader = reader
        self._out = out
        self._form = form
        self._name: str | None = None
        self._held: str | None = None
        self._is_open = False

    def read(self) -> Steps[Outcome]:
        """Reads the object."""
        reader = self._reader
        if (yield from reader.take("{")) is None:
            return "no call"
        while True:
            yield from reader.skip_space()
            if (yield from reader.take("}")) is not None:
                return self._close()
            yield from reader.take(",")
            yield from reader.skip_space()
            outcome = yield from self._member()
            if outcome != "whole":
                return outcome if not self._is_open or outcome == "broken" else "whole"

    def _member(self) -> Steps[Outcome]:
        key = yield from json_string(self._reader)
        if key is None:
            return "no call"
        yield from self._reader.skip_space()
        if (yield from self._reader.take(":")) is None:
            return "no call"
        yield from self._reader.skip_space()
        if key in self._form.name_keys and self._name is None:
            self._name = yield from json_string(self._reader)
            is_name = self._name is not None and self._form.accepts(self._name)
            return "whole" if is_name else "no call"
        if key in self._form.argument_keys and not self._is_open and self._held is None:
            return (yield from self._arguments())
        if not (self._is_open or self._form.is_marked or key in _IDLE_KEYS):
            return "no call"
        if (yield from json_text(self._reader)) is None:
            return "no call"
        if self._is_open:
            self._reader.commit()
        return "whole"

    def _arguments(self) -> Steps[Outcome]:
        first = yield from self._reader.ahead()
        if not self._form.is_marked and first not in ("{", '"'):
            return "no call"
        if self._name is not None and first not in ('"', "n"):
            self._open(self._name)
            is_whole = yield from pass_json(self._reader, self._out.arguments)
            return "whole" if is_whole else "broken"
        text = yield from json_text(self._reader)
        if text is None:
            return "no call"
        self._held = unwrapped(text)
        return "whole" if self._form.is_marked or self._held.startswith("{") else "no call"

    def _close(self) -> Outcome:
        """At the closing brace: the last chance to be a call."""
        if not self._is_open:
            if self._name is None or (self._held is None and not self._form.is_marked):
                return "no call"
            self._open(self._name)
            self._out.arguments("{}" if self._held is None else self._held)
        self._reader.commit()
        return "whole"

    def _open(self, name: str) -> None:
        self._is_open = True
        self._reader.commit()
        self._out.open_call(name)


def call_list(reader: Reader, out: CallWriter, form: ObjectForm) -> Steps[Outcome]:
    """Reads an array of calls, or one call without an array, whichever comes next."""
    bracket = yield from reader.take("[")
    yield from reader.skip_space()
    outcome = yield from CallObject(reader, out, form).read()
    if bracket is None:
        return outcome
    while outcome == "whole":
        yield from reader.skip_space()
        if (yield from reader.take("]")) is not None:
            reader.commit()
            return "whole"
        yield from reader.take(",")
        yield from reader.skip_space()
        outcome = yield from CallObject(reader, out, form).read()
        if outcome == "no call":
            reader.rewind()
            return "whole"
    return outcome

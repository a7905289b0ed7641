"""The frame of formats that write each argument between tags of its own.

The value of a parameter that can only be text is streamed; any other comes when it is whole,
since only then its type can be told. A call whose end never comes keeps what has come: the rest
of the text belongs to its arguments, which stay open.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import ClassVar

from app.text.parsers.json_reading import escaped
from app.text.parsers.marked_parser import MarkedParser
from app.text.parsers.reader import Markers, Steps
from app.text.parsers.schema_values import TEXT_ONLY, ParameterTypes, Types, to_json


class TaggedParser(MarkedParser):
    """Reads the arguments of a call; a format reads names and keys."""

    argument_start: ClassVar[str]
    """What an argument begins with."""
    call_end: ClassVar[str]
    """What ends the arguments."""
    value_ends: ClassVar[Markers]
    """What ends a value, with the line break that is not part of it, if there is one."""

    _next_argument: ClassVar[Markers]

    def __init_subclass__(
        cls, starts: tuple[str, ...] | None = None, ends: tuple[str, ...] | None = None
    ) -> None:
        """Compiles what may follow after an argument."""
        super().__init_subclass__(starts, ends)
        if hasattr(cls, "argument_start"):
            marks = dict.fromkeys((cls.argument_start, cls.call_end, *cls.starts, *cls.ends))
            cls._next_argument = Markers(*marks)

    @abstractmethod
    def _key(self, types: ParameterTypes) -> Steps[tuple[str, Types] | None]:
        """Reads from the argument's start up to its value; ``None`` if that is not there."""

    def _tagged_call(self, name: str) -> Steps[None]:
        """Opens a call and reads its arguments up to its end."""
        types = ParameterTypes(self.tools.get(name))
        self._reader.commit()
        self._out.open_call(name)
        n_arguments = 0
        while (marker := (yield from self._up_to_argument())) == self.argument_start:
            found = yield from self._key(types)
            if found is None and not self._reader.is_over:
                self._out.content(self._reader.take_held(len(marker)))
                continue
            if found is None:
                break
            comma = ", " if n_arguments else "{"
            n_arguments += 1
            self._out.arguments(f"{comma}{json.dumps(found[0], ensure_ascii=False)}: ")
            self._reader.commit()
            if not (yield from self._value(found[1])):
                break
        if marker is None or marker == self.argument_start:
            self._out.arguments(self._reader.take_held())
            return
        self._out.arguments("}" if n_arguments else "{}")
        if marker == self.call_end:
            self._reader.skip(len(marker))
            self._reader.commit()

    def _up_to_argument(self) -> Steps[str | None]:
        """Goes to the next marker, left unread; text on the way is content."""
        reader = self._reader
        yield from reader.skip_space()
        reader.commit()
        found = yield from reader.text_before(self._next_argument)
        if found is None:
            return None
        text, marker = found
        if text:
            self._out.content(reader.take_held(len(text)))
        reader.rewind()
        return marker

    def _value(self, types: Types) -> Steps[bool]:
        """Reads a value and the marker after it; False if the text ended inside."""
        reader = self._reader
        if types == TEXT_ONLY:
            self._out.arguments('"')
            end = yield from reader.pass_on(self.value_ends, self._add_escaped)
            if end is None:
                return False
            self._out.arguments('"')
        else:
            found = yield from reader.text_before(self.value_ends)
            if found is None:
                return False
            text, end = found
            self._out.arguments(to_json(text, types))
            reader.take_held(len(text))
        # A value may be ended by the start of what comes next, which must then be read as that.
        if end.strip() not in self._next_argument.texts:
            reader.skip(len(end))
        reader.commit()
        return True

    def _add_escaped(self, text: str) -> None:
        self._out.arguments(escaped(text))

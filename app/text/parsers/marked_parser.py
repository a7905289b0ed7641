"""The frame of every tool parser: content, a marker, a call, and what to do about mistakes.

What holds for all formats:

- Text that does not turn out to be a call is content, letter by letter, markers included.
- A call is opened as soon as its name is certain and its arguments begin. From there on it stays
  a call: arguments that break off or break the rules of JSON are passed on as the model wrote
  them, up to the format's end marker, because they may have been streamed already. OpenAI warns
  its clients of invalid arguments, so they look.
- An answer cut off inside the arguments leaves them cut off. No bracket is invented: a client
  must not run a call that the model never finished.
- Where markers announce a call, any name is a call: an agent can tell the model that there is no
  such function, which it cannot do about markup in the content. Formats without markers need the
  name of a listed tool, since their calls look like ordinary JSON or Python.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from app.text.parsers.call_ids import IdMaker, random_ids
from app.text.parsers.call_writer import CallWriter
from app.text.parsers.json_reading import pass_json, unwrapped
from app.text.parsers.reader import Markers, Reader, Steps
from app.text.parsers.shapes import ToolDelta

NameTest = Callable[[str], bool]


class MarkedParser(ABC):
    """A tool parser made of a grammar.

    Args:
        tools: The tools that may be called, as in OpenAI's ``tools``.
        make_id: Makes the calls' ids.
    """

    starts: ClassVar[tuple[str, ...]] = ()
    """Texts that may begin a call or a section of calls."""
    ends: ClassVar[tuple[str, ...]] = ()
    """Texts that close what a call has opened; content where no call came before."""

    _marks: ClassVar[Markers]

    def __init_subclass__(
        cls, starts: tuple[str, ...] | None = None, ends: tuple[str, ...] | None = None
    ) -> None:
        """Sets and compiles the markers of a format; left out, they are those of its parent."""
        cls.starts = cls.starts if starts is None else starts
        cls.ends = cls.ends if ends is None else ends
        cls._marks = Markers(*cls.starts, *cls.ends)

    def __init__(
        self, tools: Sequence[dict[str, Any]] = (), make_id: IdMaker | None = None
    ) -> None:
        self.tools = {
            tool["function"]["name"]: tool["function"] for tool in tools if "function" in tool
        }
        self._reader = Reader()
        self._out = CallWriter(make_id or random_ids())
        self._steps = self._grammar()

    def feed(self, text: str) -> ToolDelta:
        """Takes the next piece, of any length, and gives what is certain by now."""
        self._reader.add(text)
        next(self._steps, None)
        return self._out.drain()

    def finish(self) -> ToolDelta:
        """Ends the text and gives what was held back."""
        self._reader.is_over = True
        next(self._steps, None)
        self._out.end()
        return self._out.drain()

    def _grammar(self) -> Steps[None]:
        awaited: set[str] = set()

        def emit(text: str) -> None:
            # A closing marker that the end of the text has cut off is a marker still.
            rest = text.strip()
            if not (self._reader.is_over and any(end.startswith(rest) for end in awaited)):
                self._out.content(text)

        while True:
            marker = yield from self._reader.pass_on(self._marks, emit)
            if marker is None:
                return
            if marker in awaited:
                awaited.discard(marker)
                self._reader.skip(len(marker))
                self._reader.commit()
                self._out.drop_blank()
            elif marker in self.starts and (yield from self._calls(marker)):
                awaited = set(self.ends)
            else:
                self._out.content(self._reader.take_held(len(marker)))

    @abstractmethod
    def _calls(self, marker: str) -> Steps[bool]:
        """Reads what begins with the marker, which is still unread.

        Returns:
            False if it is no call and nothing was written: it then becomes content. True leaves
            the text after the last commit to be read as content or markers.
        """

    def _is_listed(self, name: str) -> bool:
        return name in self.tools

    def _broken_arguments(self) -> Steps[None]:
        """Passes arguments on that are no JSON any more, up to a marker or the end."""
        yield from self._reader.pass_on(self._marks, self._out.arguments)

    def _arguments(self, name: str) -> Steps[None]:
        """Opens a call and passes its arguments on, which are the JSON value that comes next."""
        self._reader.commit()
        self._out.open_call(name)
        if not (yield from pass_json(self._reader, self._out.arguments)):
            yield from self._broken_arguments()

    def _announced_arguments(self, name: str, *, has_end: bool) -> Steps[None]:
        """Opens a call whose arguments come next for certain, be they ever so odd.

        None at all and ``null`` are an empty object; an object written as a string is unwrapped;
        what is no JSON is passed on up to a marker.

        Args:
            name: The function's.
            has_end: A marker ends the arguments, so that none at the end of the text have been
                cut off.
        """
        reader, out = self._reader, self._out
        yield from reader.skip_space()
        reader.commit()
        out.open_call(name)
        first = yield from reader.ahead()
        if (not first and not has_end) or (yield from reader.coming(*self._marks.texts)):
            out.arguments("{}")
        elif first not in ("{", "["):
            found = yield from reader.text_before(self._marks)
            text = reader.take_held(None if found is None else len(found[0]))
            out.arguments(unwrapped(text.strip()))
        elif not (yield from pass_json(reader, out.arguments)):
            yield from self._broken_arguments()


class PlainText:
    """``none`` and ``passthrough``: everything is content."""

    def __init__(
        self, tools: Sequence[dict[str, Any]] = (), make_id: IdMaker | None = None
    ) -> None:
        """Takes what every tool parser takes and needs none of it."""

    def feed(self, text: str) -> ToolDelta:
        """Gives the piece back."""
        return ToolDelta(text)

    def finish(self) -> ToolDelta:
        """Gives nothing: nothing is ever held."""
        return ToolDelta()


def any_name(name: str) -> bool:
    """Accepts every name that is one."""
    return bool(name)

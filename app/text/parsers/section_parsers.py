"""Formats of special tokens around a name and JSON arguments: DeepSeek V3 and V3.1, Kimi K2.

A section of calls has its own tokens. Its opening is one only if a call follows; a call without
a section is read, too, because models forget the outer tokens.
"""

from __future__ import annotations

import re
from abc import abstractmethod

from app.text.parsers.marked_parser import MarkedParser
from app.text.parsers.reader import Steps

_NAME = re.compile(r"[^\s<>{}`]*")
_KIMI_NAME = re.compile(r"[^<>{}]*")
_KIMI_ID = re.compile(r"(?:functions\.)?(?P<name>.+?)(?::\d+)?")


class SectionParser(MarkedParser):
    """The part that the formats share; ``starts`` ends with the marker of a single call."""

    def _calls(self, marker: str) -> Steps[bool]:
        reader = self._reader
        reader.skip(len(marker))
        if marker != self.starts[-1]:
            yield from reader.skip_space()
            if (yield from reader.take(self.starts[-1])) is None:
                return False
        name = yield from self._name()
        if not name:
            return False
        return (yield from self._called(name))

    def _called(self, name: str) -> Steps[bool]:
        """Reads the arguments, which are an object."""
        yield from self._reader.skip_space()
        if (yield from self._reader.ahead()) != "{":
            return False
        yield from self._arguments(name)
        yield from self._after_arguments()
        return True

    @abstractmethod
    def _name(self) -> Steps[str | None]:
        """Reads up to the arguments; ``None`` if this is no call."""

    def _after_arguments(self) -> Steps[None]:
        """Reads what the format puts between arguments and end marker: here, nothing."""
        yield from ()


def _token(words: str) -> str:
    """A special token of DeepSeek's: wide bars, and a lower block for each blank."""
    return f"<\uff5c{words}\uff5c>".replace(" ", "\u2581")


class DeepSeek31Parser(
    SectionParser,
    starts=(_token("tool calls begin"), _token("tool call begin")),
    ends=(_token("tool call end"), _token("tool calls end")),
):
    """DeepSeek V3.1: name, separator token and JSON between the tokens of a call."""

    _separator = _token("tool sep")

    def _name(self) -> Steps[str | None]:
        name = yield from self._reader.run_of(_NAME)
        return name if (yield from self._reader.take(self._separator)) else None


class DeepSeekParser(DeepSeek31Parser):
    """DeepSeek V3 and R1: ``function``, separator, name, and the arguments in a fenced block."""

    _fence = "```"

    def _name(self) -> Steps[str | None]:
        if (yield from super()._name()) is None:
            return None
        name = yield from self._reader.run_of(_NAME)
        yield from self._reader.skip_space()
        is_fenced = yield from self._reader.take(self._fence + "json")
        return name if is_fenced else None

    def _after_arguments(self) -> Steps[None]:
        reader = self._reader
        yield from reader.skip_space()
        is_closed = (yield from reader.take(self._fence)) is not None
        if reader.is_over and self._fence.startswith(reader.unread()):
            reader.take_held()
        elif not is_closed:
            reader.rewind()
        reader.commit()


class KimiK2Parser(
    SectionParser,
    starts=(
        "<|tool_calls_section_begin|>",
        "<|tool_call_section_begin|>",
        "<|tool_call_begin|>",
    ),
    ends=("<|tool_call_end|>", "<|tool_calls_section_end|>", "<|tool_call_section_end|>"),
):
    """Kimi K2 and K2.5: ``functions.NAME:N``, a token, and the arguments.

    N counts the calls of the conversation; the gateway counts itself, since models slip. The
    section token exists with and without the plural. Behind the argument token anything is
    arguments, nothing included: the model has said that it calls.
    """

    def _name(self) -> Steps[str | None]:
        yield from self._reader.skip_space()
        call_id = yield from self._reader.run_of(_KIMI_NAME)
        if (yield from self._reader.take("<|tool_call_argument_begin|>")) is None:
            return None
        match = _KIMI_ID.fullmatch(call_id.strip())
        return match["name"] if match else None

    def _called(self, name: str) -> Steps[bool]:
        yield from self._announced_arguments(name, has_end=True)
        return True

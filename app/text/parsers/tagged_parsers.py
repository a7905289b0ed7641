"""Formats with tags around each argument: Qwen 3 Coder, GLM 4.5 to 5, MiniMax M2, DeepSeek V3.2."""

from __future__ import annotations

import re

from app.text.parsers.reader import Markers, Steps
from app.text.parsers.schema_values import NO_TEXT, TEXT_ONLY, ParameterTypes, Types
from app.text.parsers.tagged_parser import TaggedParser

_NAME = re.compile(r"[^\s<>\"]*")
_KEY = re.compile(r"[^\n<>\"]*")


class QwenXmlParser(TaggedParser, starts=("<tool_call>", "<function="), ends=("</tool_call>",)):
    """Qwen 3 Coder and Qwen 3.5: a ``function=`` tag and ``parameter=`` tags in a ``tool_call``.

    Values stand on lines of their own: one line break on either side is layout. The models now
    and then forget ``<tool_call>``, which is forgiven for listed tools, or closing tags.
    """

    argument_start = "<parameter="
    call_end = "</function>"
    value_ends = Markers(
        *("\n</parameter>", "</parameter>", "\n</function>", "</function>"),
        *("\n<parameter=", "<parameter=", "\n</tool_call>", "</tool_call>"),
    )

    def _calls(self, marker: str) -> Steps[bool]:
        reader = self._reader
        reader.skip(len(marker))
        if marker == "<tool_call>":
            yield from reader.skip_space()
            if (yield from reader.take("<function=")) is None:
                return False
        name = yield from reader.run_of(_NAME)
        is_call = bool(name) and (marker == "<tool_call>" or self._is_listed(name))
        if not is_call or (yield from reader.take(">")) is None:
            return False
        yield from self._tagged_call(name)
        return True

    def _key(self, types: ParameterTypes) -> Steps[tuple[str, Types] | None]:
        reader = self._reader
        reader.skip(len(self.argument_start))
        key = yield from reader.run_of(_KEY)
        if not key or (yield from reader.take(">")) is None:
            return None
        yield from reader.take("\n")
        return key, types.of(key)


class GlmParser(TaggedParser, starts=("<tool_call>",)):
    """GLM 4.5 to 5: ``NAME`` and pairs of ``arg_key`` and ``arg_value`` in a ``tool_call``.

    GLM 4.5 and 4.6 put line breaks between the tags, 4.7 and 5 do not; both are read.
    """

    argument_start = "<arg_key>"
    call_end = "</tool_call>"
    value_ends = Markers("</arg_value>")

    def _calls(self, marker: str) -> Steps[bool]:
        reader = self._reader
        reader.skip(len(marker))
        yield from reader.skip_space()
        name = yield from reader.run_of(_NAME)
        yield from reader.skip_space()
        tag = yield from reader.coming(self.argument_start, self.call_end)
        if not name or tag is None:
            return False
        yield from self._tagged_call(name)
        return True

    def _key(self, types: ParameterTypes) -> Steps[tuple[str, Types] | None]:
        reader = self._reader
        reader.skip(len(self.argument_start))
        key = (yield from reader.run_of(_KEY)).strip()
        if not key or (yield from reader.take("</arg_key>")) is None:
            return None
        yield from reader.skip_space()
        is_there = yield from reader.take("<arg_value>")
        return (key, types.of(key)) if is_there else None


class MiniMaxParser(TaggedParser, starts=("<minimax:tool_call>",), ends=("</minimax:tool_call>",)):
    """MiniMax M2: ``invoke name=`` and ``parameter name=`` tags in one section of calls."""

    invoke_start = '<invoke name="'
    argument_start = '<parameter name="'
    call_end = "</invoke>"
    value_ends = Markers("</parameter>")

    def _calls(self, marker: str) -> Steps[bool]:
        reader = self._reader
        reader.skip(len(marker))
        n_calls = 0
        while True:
            yield from reader.skip_space()
            if (yield from reader.take(self.invoke_start)) is None:
                break
            name = yield from reader.run_of(_NAME)
            if not name or (yield from reader.take('">')) is None:
                break
            yield from self._tagged_call(name)
            n_calls += 1
        if n_calls:
            reader.rewind()
        return n_calls > 0

    def _key(self, types: ParameterTypes) -> Steps[tuple[str, Types] | None]:
        reader = self._reader
        reader.skip(len(self.argument_start))
        key = yield from reader.run_of(_KEY)
        if not key or (yield from reader.take('">')) is None:
            return None
        return key, types.of(key)


_DSML = "\uff5cDSML\uff5c"


class DeepSeek32Parser(
    MiniMaxParser, starts=(f"<{_DSML}function_calls>",), ends=(f"</{_DSML}function_calls>",)
):
    """DeepSeek V3.2: MiniMax's nesting in DSML tags, which say themselves what is text."""

    invoke_start = f'<{_DSML}invoke name="'
    argument_start = f'<{_DSML}parameter name="'
    call_end = f"</{_DSML}invoke>"
    value_ends = Markers(f"</{_DSML}parameter>")

    def _key(self, types: ParameterTypes) -> Steps[tuple[str, Types] | None]:
        reader = self._reader
        reader.skip(len(self.argument_start))
        key = yield from reader.run_of(_KEY)
        kind = yield from reader.take('" string="true">', '" string="false">', '">')
        if not key or kind is None:
            return None
        if kind == '">':
            return key, types.of(key)
        return key, TEXT_ONLY if "true" in kind else NO_TEXT


class DeepSeekV4Parser(
    DeepSeek32Parser, starts=(f"<{_DSML}tool_calls>",), ends=(f"</{_DSML}tool_calls>",)
):
    """DeepSeek V4: as V3.2, with another name for the section."""

"""Formats that write a call as a JSON object: Qwen and Hermes, Llama 3, Mistral, plain JSON."""

from __future__ import annotations

import re

from app.text.parsers.call_objects import CallObject, ObjectForm, Outcome, call_list
from app.text.parsers.marked_parser import MarkedParser, any_name
from app.text.parsers.reader import Markers, Steps

_ANY = ObjectForm(any_name)
_PYTHON_TAG = "<|python_tag|>"
_TOOL_CALLS = "[TOOL_CALLS]"
_NAME = re.compile(r"[^\[\]{}<>\"\n]*")
_ID = re.compile(r"[^\s\[\]{}]*")
_SPACE = re.compile(r"\s")


class HermesParser(MarkedParser, starts=("<tool_call>",), ends=("</tool_call>",)):
    """``<tool_call>`` around a JSON object, once for each call.

    Hermes 2 Pro introduced it; Qwen 2.5, QwQ and Qwen 3 write the same with line breaks.
    Several objects between one pair of tags are several calls.
    """

    def _calls(self, marker: str) -> Steps[bool]:
        reader = self._reader
        reader.skip(len(marker))
        yield from reader.skip_space()
        outcome: Outcome = yield from call_list(reader, self._out, _ANY)
        is_call = outcome != "no call"
        while outcome == "whole":
            yield from reader.skip_space()
            outcome = yield from CallObject(reader, self._out, _ANY).read()
        if outcome == "broken":
            yield from self._broken_arguments()
        elif is_call:
            reader.rewind()
        return is_call


class JsonParser(MarkedParser, starts=("{", "[")):
    """Objects or arrays of objects without markers, at the beginning of a line.

    Several objects may be parted by ``;`` or line breaks. ``required`` tool choices are answered
    in this form, too, by the schema that binds the output.
    """

    def _broken_arguments(self) -> Steps[None]:
        # The format has no end marker, and a bracket would not be one.
        yield from self._reader.pass_on(Markers(), self._out.arguments)

    def _calls(self, marker: str) -> Steps[bool]:
        reader = self._reader
        is_marked = marker == _PYTHON_TAG
        if is_marked:
            reader.skip(len(marker))
            yield from reader.skip_space()
        elif not self._out.is_line_blank:
            return False
        form = _ANY if is_marked else ObjectForm(self._is_listed, is_marked=False)
        outcome = yield from call_list(reader, self._out, form)
        is_call = outcome != "no call"
        while outcome == "whole":
            yield from reader.skip_space()
            if (yield from reader.take(";")) is None:
                outcome = "no call"
            else:
                yield from reader.skip_space()
                outcome = yield from call_list(reader, self._out, form)
        if outcome == "broken":
            yield from self._broken_arguments()
        elif is_call:
            reader.rewind()
        return is_call


class LlamaParser(JsonParser, starts=(_PYTHON_TAG, "{", "[")):
    """Llama 3.1 to 3.3: as plain JSON, or with any name behind ``<|python_tag|>``.

    The tag in front of something else, such as a call of a built-in tool in Python, is content.
    """


class MistralParser(MarkedParser, starts=(_TOOL_CALLS,)):
    """``[TOOL_CALLS]`` and what Mistral's tokenizer versions put behind it.

    Up to v7 an array of objects follows. From v11 on each call has its own marker and is
    ``name[ARGS]{...}``, in v11 with a ``[CALL_ID]`` in between, which is dropped: the id a client
    is given must come before the arguments in either form, so the gateway makes it.
    """

    def _calls(self, marker: str) -> Steps[bool]:
        reader = self._reader
        reader.skip(len(marker))
        yield from reader.skip_space()
        while (yield from reader.take(marker)) is not None:  # said twice it is said once
            yield from reader.skip_space()
        if (yield from reader.ahead()) not in ("[", "{"):
            return (yield from self._named())
        outcome = yield from call_list(reader, self._out, _ANY)
        if outcome == "broken":
            yield from self._broken_arguments()
        return outcome != "no call"

    def _named(self) -> Steps[bool]:
        reader = self._reader
        words = yield from reader.run_of(_NAME)
        name = words.strip()
        if (yield from reader.take("[CALL_ID]")) is not None:
            yield from reader.run_of(_ID)
            yield from reader.skip_space()
        if name and (yield from reader.take("[ARGS]")) is not None:
            yield from self._announced_arguments(name, has_end=False)
            return True
        # Without the token only a brace tells where the name ends, and a sentence is no name.
        is_name = name and (self._is_listed(name) or not _SPACE.search(name))
        if not is_name or (yield from reader.ahead()) != "{":
            return False
        yield from self._arguments(name)
        return True


class CohereParser(MarkedParser, starts=("<|START_ACTION|>",), ends=("<|END_ACTION|>",)):
    """Command R7B and Command A: an array of objects between two tokens."""

    _form = ObjectForm(any_name, name_keys=frozenset({"tool_name", "name"}))

    def _calls(self, marker: str) -> Steps[bool]:
        self._reader.skip(len(marker))
        yield from self._reader.skip_space()
        outcome = yield from call_list(self._reader, self._out, self._form)
        if outcome == "broken":
            yield from self._broken_arguments()
        return outcome != "no call"

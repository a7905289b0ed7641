"""One choice's text, taken apart: thought, tool calls and what is left."""

from __future__ import annotations

from app.text.delta import Delta
from app.text.parsers.shapes import ToolDelta
from app.text.text_request import Parsing


class ChoiceParts:
    """Runs the parsers of one choice, the thought's before the calls'.

    Args:
        parsing: Which parsers.

    Attributes:
        has_calls: A call has begun.
        has_reasoning: A thought has begun.
        is_past_thought: Something other than a thought has come.
    """

    __slots__ = (
        "_is_parallel",
        "_reasoning",
        "_shows_reasoning",
        "_tools",
        "has_calls",
        "has_reasoning",
        "is_past_thought",
    )

    def __init__(self, parsing: Parsing) -> None:
        self._reasoning = parsing.new_reasoning() if parsing.new_reasoning is not None else None
        self._tools = parsing.new_tools() if parsing.new_tools is not None else None
        self._shows_reasoning = parsing.shows_reasoning
        self._is_parallel = parsing.is_parallel
        self.has_calls = False
        self.has_reasoning = False
        self.is_past_thought = self._reasoning is None

    def feed(self, text: str, delta: Delta) -> None:
        """Takes text and adds its parts to the delta."""
        if self._reasoning is not None:
            thought, text = self._reasoning.feed(text)
            self._add_thought(thought, delta)
        self._add_rest(text, delta)

    def finish(self, delta: Delta) -> None:
        """Ends the parsers and adds what they still held."""
        if self._reasoning is not None:
            thought, text = self._reasoning.finish()
            self._add_thought(thought, delta)
            self._add_rest(text, delta)
        if self._tools is not None:
            self._add_tools(self._tools.finish(), delta)

    def _add_thought(self, thought: str, delta: Delta) -> None:
        if thought:
            self.has_reasoning = True
            if self._shows_reasoning:
                delta.reasoning.append(thought)

    def _add_rest(self, text: str, delta: Delta) -> None:
        if not text:
            return
        self.is_past_thought = True
        if self._tools is None:
            delta.content.append(text)
        else:
            self._add_tools(self._tools.feed(text), delta)

    def _add_tools(self, found: ToolDelta, delta: Delta) -> None:
        if found.content:
            delta.content.append(found.content)
        for call in found.calls:
            if call.index > 0 and not self._is_parallel:
                continue
            self.has_calls = True
            delta.calls.append(call)

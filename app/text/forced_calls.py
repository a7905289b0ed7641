"""The tool call of a named function: no model's own syntax, only its arguments.

``tool_choice`` with a function's name binds the output by that function's schema. (``required``
binds it to an array of calls, which the parser of plain JSON reads.)
"""

from __future__ import annotations

from app.text.parsers.call_ids import IdMaker
from app.text.parsers.shapes import CallDelta, ToolDelta


class NamedCall:
    """The whole text is the arguments of one call.

    Args:
        name: The function's.
        make_id: Makes the call's id.
    """

    def __init__(self, name: str, make_id: IdMaker) -> None:
        self._name = name
        self._make_id = make_id
        self._is_open = False

    def feed(self, text: str) -> ToolDelta:
        """Takes text."""
        calls: list[CallDelta] = []
        if not self._is_open:
            # White space before the JSON is no call yet: the answer may still end empty.
            text = text.lstrip()
            if not text:
                return ToolDelta()
            self._is_open = True
            calls.append(CallDelta(0, self._make_id(self._name, 0), self._name))
        calls.append(CallDelta(0, arguments=text))
        return ToolDelta(calls=calls)

    def finish(self) -> ToolDelta:
        """Ends it; nothing is held."""
        return ToolDelta()

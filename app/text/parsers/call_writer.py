"""Gathering what a tool grammar finds into deltas."""

from __future__ import annotations

from app.text.parsers.call_ids import IdMaker
from app.text.parsers.shapes import CallDelta, ToolDelta


class CallWriter:
    """What was found since the last ``drain``.

    White space that stands alone between calls, or between a call and an end of the text, is the
    format's layout and no content; around content it stays as the model wrote it.

    Args:
        make_id: Makes the ids of the calls.

    Attributes:
        n_calls: Calls opened so far.
        is_line_blank: Nothing but white space stands before this place on its line.
    """

    def __init__(self, make_id: IdMaker) -> None:
        self.n_calls = 0
        self.is_line_blank = True
        self._make_id = make_id
        self._content: list[str] = []
        self._calls: list[CallDelta] = []
        self._arguments: list[str] = []
        self._blank: list[str] | None = []

    def content(self, text: str) -> None:
        """Adds text for the reader."""
        line = text.rpartition("\n")[2]
        is_blank = not line or line.isspace()
        self.is_line_blank = is_blank and (self.is_line_blank or len(line) < len(text))
        if self._blank is not None:
            self._blank.append(text)
            if not text or text.isspace():
                return
            text = "".join(self._blank)
            self._blank = None
        self._content.append(text)

    def open_call(self, name: str) -> None:
        """Begins a call, whose name is now known in full."""
        self._close_arguments()
        self._blank = []
        self.is_line_blank = True
        call_id = self._make_id(name, self.n_calls)
        self._calls.append(CallDelta(self.n_calls, call_id, name))
        self.n_calls += 1

    def arguments(self, text: str) -> None:
        """Adds argument text to the call opened last."""
        if text:
            self._arguments.append(text)

    def drop_blank(self) -> None:
        """Drops white space that stood inside the markers of a call."""
        if self._blank is not None:
            self._blank = []

    def end(self) -> None:
        """Ends the text: white space is content after all if there was no call."""
        if self._blank is not None and not self.n_calls:
            self._content.extend(self._blank)
        self._blank = []

    def drain(self) -> ToolDelta:
        """Gives and forgets what was gathered."""
        self._close_arguments()
        delta = ToolDelta("".join(self._content), self._calls)
        self._content, self._calls = [], []
        return delta

    def _close_arguments(self) -> None:
        if self._arguments:
            self._calls.append(CallDelta(self.n_calls - 1, arguments="".join(self._arguments)))
            self._arguments = []

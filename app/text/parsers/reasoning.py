"""Parting a model's thought from its answer at the markers around the thought."""

from __future__ import annotations

from app.text.parsers.reader import Markers, Reader, Steps


class ThoughtParser:
    """Reasoning stands between two markers, of which the prompt may hold the first.

    The first end marker ends the thought; whatever comes after it is content, even if it looks
    like another thought. Start markers inside the thought are dropped: models repeat the one
    that the prompt already holds. An end marker where no thought is open is content. White space
    stays as it is. A thought that never ends is all reasoning.

    Args:
        start: Opens a thought.
        end: Closes it.
        starts_inside: The text begins inside the thought.
        also_ends: Markers that close it, too, and are content: a model that calls a tool while it
            thinks may forget to stop thinking first.
    """

    def __init__(
        self, start: str, end: str, *, starts_inside: bool, also_ends: tuple[str, ...] = ()
    ) -> None:
        self.starts_inside = starts_inside
        self._start, self._end = start, end
        self._inside = Markers(start, end, *also_ends)
        self._reader = Reader()
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._steps = self._grammar()

    def feed(self, text: str) -> tuple[str, str]:
        """Takes the next piece and gives the reasoning and the content that are certain."""
        self._reader.add(text)
        next(self._steps, None)
        return self._drain()

    def finish(self) -> tuple[str, str]:
        """Ends the text and gives the reasoning and the content that were held back."""
        self._reader.is_over = True
        next(self._steps, None)
        return self._drain()

    def _drain(self) -> tuple[str, str]:
        drained = "".join(self._reasoning), "".join(self._content)
        self._reasoning, self._content = [], []
        return drained

    def _grammar(self) -> Steps[None]:
        reader = self._reader
        if not self.starts_inside:
            found = yield from reader.pass_on(Markers(self._start), self._tell)
            reader.skip(len(found or ""))
        marker: str | None = self._start
        while marker == self._start:
            marker = yield from reader.pass_on(self._inside, self._reason)
            if marker in (self._start, self._end):
                reader.skip(len(marker))
                reader.commit()
        yield from reader.pass_on(Markers(), self._tell)

    def _reason(self, text: str) -> None:
        self._reasoning.append(text)

    def _tell(self, text: str) -> None:
        self._content.append(text)


class NoThought:
    """``passthrough``: everything is content."""

    starts_inside = False

    def feed(self, text: str) -> tuple[str, str]:
        """Gives the piece back as content."""
        return "", text

    def finish(self) -> tuple[str, str]:
        """Gives nothing: nothing is ever held."""
        return "", ""

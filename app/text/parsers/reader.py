"""Reading text that comes in pieces, for grammars written as generators.

A grammar asks for what it wants to read next and yields while the text at hand cannot settle
it. Nothing it does may depend on where the pieces end: that is what makes any split of a text
parse alike, and every method here is made so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

_T = TypeVar("_T")

Steps = Generator[None, None, _T]
"""A step of a grammar: yields when it needs more text, returns what it has read."""

_SPACE = re.compile(r"\s*")
_N_WINDOW = 4096


class Markers:
    """Fixed texts to look for; none may begin with another, or hold one before its end."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self._pattern = re.compile("|".join(map(re.escape, texts)) if texts else r"(?!)")
        self._n_tail = max(map(len, texts), default=1) - 1
        firsts = "".join(dict.fromkeys(text[0] for text in texts))
        self._firsts = re.compile(f"[{re.escape(firsts)}]") if texts else None

    def find(self, text: str, at: int) -> re.Match[str] | None:
        """The first marker from a position on."""
        return self._pattern.search(text, at)

    def held_from(self, text: str, at: int) -> int:
        """Where the end of the text may be the beginning of a marker; its length if nowhere."""
        end = len(text)
        if self._firsts is None:
            return end
        for first in self._firsts.finditer(text, max(at, end - self._n_tail)):
            tail = text[first.start() :]
            if any(marker.startswith(tail) for marker in self.texts):
                return first.start()
        return end


class Reader:
    """The text between the last thing settled and the newest piece.

    ``commit`` settles what was read; ``rewind`` goes back to the last commit, so that a grammar
    that guessed wrong can hand the same text on as something else.

    Attributes:
        is_over: No more text will come.
    """

    __slots__ = ("_at", "_start", "_text", "is_over")

    def __init__(self) -> None:
        self._text = ""
        self._start = 0
        self._at = 0
        self.is_over = False

    def add(self, text: str) -> None:
        """Appends a piece."""
        self._text = self._text[self._start :] + text
        self._at -= self._start
        self._start = 0

    def commit(self) -> None:
        """Settles what was read."""
        self._start = self._at

    def rewind(self) -> None:
        """Goes back to the last commit."""
        self._at = self._start

    def skip(self, n: int) -> None:
        """Reads characters that are known to be there."""
        self._at += n

    def unread(self) -> str:
        """The next piece of the text at hand; empty only if all of it was read."""
        # In one piece, a long text would be copied for every look at it.
        return self._text[self._at : self._at + _N_WINDOW]

    def take_held(self, n: int | None = None) -> str:
        """Goes back to the last commit, then reads and settles n characters, or all at hand."""
        end = len(self._text) if n is None else self._start + n
        text = self._text[self._start : end]
        self._at = self._start = end
        return text

    def ahead(self) -> Steps[str]:
        """The next character, left unread; empty at the end of the text."""
        while self._at == len(self._text) and not self.is_over:
            yield
        return self._text[self._at : self._at + 1]

    def skip_space(self) -> Steps[None]:
        """Reads white space up to something else."""
        yield from self.run_of(_SPACE)

    def run_of(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Reads the longest run of a pattern of the form ``[...]*``."""
        offset = self._at - self._start
        while True:
            match = pattern.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or self.is_over:
                return self._text[self._start + offset : self._at]
            yield

    def take(self, *options: str) -> Steps[str | None]:
        """Reads one of the options if it comes next; none may begin with another."""
        n_longest = max(map(len, options))
        while True:
            for option in options:
                if self._text.startswith(option, self._at):
                    self._at += len(option)
                    return option
            rest = self._text[self._at : self._at + n_longest]
            if self.is_over or not any(option.startswith(rest) for option in options):
                return None
            yield

    def coming(self, *options: str) -> Steps[str | None]:
        """Like ``take``, but leaves the option unread."""
        option = yield from self.take(*options)
        self._at -= len(option or "")
        return option

    def text_before(self, markers: Markers) -> Steps[tuple[str, str] | None]:
        """Reads up to and over a marker; gives text and marker.

        Returns:
            ``None`` if the text ended without one; what was read must then be rewound.
        """
        offset = self._at - self._start
        while True:
            found = markers.find(self._text, self._at)
            if found is not None:
                text = self._text[self._start + offset : found.start()]
                self._at = found.end()
                return text, found.group()
            if self.is_over:
                return None
            self._at = markers.held_from(self._text, self._at)
            yield

    def pass_on(self, markers: Markers, emit: Callable[[str], None]) -> Steps[str | None]:
        """Settles and hands on text as it comes, up to a marker, which is left unread.

        Returns:
            The marker; ``None`` if the text ended without one, all of it handed on.
        """
        while True:
            found = markers.find(self._text, self._at)
            if found is not None:
                end = found.start()
            elif self.is_over:
                end = len(self._text)
            else:
                end = markers.held_from(self._text, self._at)
            if end > self._at:
                emit(self._text[self._at : end])
            self._at = self._start = end
            if found is not None:
                return found.group()
            if self.is_over:
                return None
            yield

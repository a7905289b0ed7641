"""What parsers give back, and what they look like from outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CallDelta:
    """News about one tool call, in the terms of OpenAI's chat chunks.

    A call opens with its id and whole name and no arguments; what follows has arguments only.

    Attributes:
        index: Position of the call in the answer, from 0.
        id: The call's id; ``None`` after the first delta.
        name: The function's name; ``None`` after the first delta.
        arguments: The next piece of the arguments' JSON text.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class ToolDelta:
    """What a piece of text turned out to be.

    Attributes:
        content: Text for the reader.
        calls: News about calls, in order.
    """

    content: str = ""
    calls: list[CallDelta] = field(default_factory=list)


class ToolParser(Protocol):
    """Takes tool calls out of the text of one answer.

    However the text is cut into pieces, content, names and arguments add up to the same.
    """

    def feed(self, text: str) -> ToolDelta:
        """Takes the next piece, of any length, and gives what is certain by now."""

    def finish(self) -> ToolDelta:
        """Ends the text and gives what was held back; nothing may be fed afterwards."""


class ReasoningParser(Protocol):
    """Parts an answer into thought and content, whatever pieces it comes in."""

    starts_inside: bool
    """The text begins inside a thought, because the prompt has opened it."""

    def feed(self, text: str) -> tuple[str, str]:
        """Takes the next piece and gives the reasoning and the content that are certain."""

    def finish(self) -> tuple[str, str]:
        """Ends the text and gives the reasoning and the content that were held back."""

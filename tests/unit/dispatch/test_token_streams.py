"""From what one wake-up brought to what is sent."""

from __future__ import annotations

from collections.abc import Sequence

from app.dispatch.token_answer import TokenAnswer
from app.dispatch.token_streams import TokenStream
from app.protocol.engine import Chunk, Complete
from app.text.answer import TokenCount


class Call(TokenAnswer):
    """Hands on prepared reads."""

    def __init__(self, *reads: Sequence[Chunk | Complete]) -> None:
        super().__init__()
        self.reads = list(reads)

    async def read(self) -> Sequence[Chunk | Complete]:
        return self.reads.pop(0) if self.reads else ()

    async def settle(self) -> None:
        """Nothing is left."""

    def finish(self) -> None:
        """The same."""


class Events:
    """Writes an event for each thing it is fed."""

    def __init__(self) -> None:
        self.is_over = False
        self.count = TokenCount(0, 0, 0, 0)

    def feed(self, slot: int, frames: Sequence[Chunk | Complete]) -> bytes:
        said = [list(frame.token_ids) for frame in frames]
        self.is_over = self.is_over or any(isinstance(frame, Complete) for frame in frames)
        return f"{said};".encode()

    def close(self) -> bytes:
        return b"DONE"

    def note_cached(self, slot: int, n_tokens: int) -> None:
        """Of no matter here."""

    def has_ended(self, slot: int) -> bool:
        return self.is_over

    def expect_end(self, slot: int) -> None:
        """Of no matter here."""


def chunk(token: int) -> Chunk:
    return Chunk([token], 1, 0)


async def test_messages_that_came_together_are_sent_together() -> None:
    """Each as an event of its own, so that a client can tell the tokens apart."""
    end = Complete([], "stop", 1, 4, 0)
    call = Call([chunk(3)], [chunk(4), chunk(5), end])
    stream = TokenStream(call, [chunk(1), chunk(2)], Events())
    sent = [events async for events in stream]
    assert sent == [b"[[1]];[[2]];", b"[[3]];", b"[[4]];[[5]];[[]];DONE"]

"""What goes into a dispatch and what comes out of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from app.observability.notes import Notes
from app.protocol.facts import RequestFacts
from app.scheduling.standing import ANYBODY, Standing
from app.text.text_request import TextRequest
from app.upstream.http1 import HeaderLines

RawHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(slots=True)
class Prepared:
    """A request that is ready for any pair.

    Attributes:
        facts: What the gateway read from the body.
        body: The client's own bytes.
        header_lines: What both legs are sent, without credentials and framing.
        notes: What is noted of the request on its way.
        text: The request as tokens, where vLLM workers serve its model.
        trace: Its trace context, for gRPC calls.
        standing: Whose it is and how urgent, for the queue.
    """

    facts: RequestFacts
    body: bytes
    header_lines: HeaderLines
    notes: Notes = field(default_factory=Notes)
    text: TextRequest | None = None
    trace: tuple[tuple[str, str], ...] = ()
    standing: Standing = ANYBODY

    @property
    def n_prompt_tokens(self) -> int:
        """All prompts together: exact for vLLM and for ids, else a quarter of the characters."""
        if self.text is None:
            return self.facts.n_prompt_tokens
        return sum(len(prompt.ids) for prompt in self.text.prompts)

    @property
    def token_ids(self) -> Sequence[int] | None:
        """The tokens of a single prompt, where vLLM workers serve its model."""
        if self.text is None or len(self.text.prompts) != 1:
            return None
        return self.text.prompts[0].ids


@dataclass(slots=True)
class Reply:
    """An answer that is under way; valid inside the ``async with`` that yielded it.

    Attributes:
        status: HTTP status of the decode leg, always 2xx.
        headers: Allow-listed headers of the decode leg, lower-case names.
        chunks: Body bytes. A stream yields whole SSE events and raises
            :class:`~app.errors.WorkerError` when a leg fails; a plain reply yields once.
        is_stream: Whether the body is an SSE stream.
        push_to: Has whole events passed on as they arrive, beside ``chunks``, to what takes them
            or says that it cannot now (with no bytes it is only asked); ``None``: ``chunks`` is the
            only way.
        close: Ends what feeds ``chunks``; called once, whatever happened.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    chunks: AsyncIterator[bytes]
    is_stream: bool
    close: Callable[[], None] | None = None
    push_to: Callable[[Callable[[bytes], bool]], None] | None = None


class once:  # noqa: N801 - reads as the generator that it stands for, which cost four times as much
    """The chunks of a plain reply.

    Args:
        body: The only one.

    Attributes:
        body: The same, until it was iterated over.
    """

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body: bytes | None = body

    def __aiter__(self) -> once:
        """Returns itself."""
        return self

    async def __anext__(self) -> bytes:
        """Returns the body, the first time."""
        body, self.body = self.body, None
        if body is None:
            raise StopAsyncIteration
        return body

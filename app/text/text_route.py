"""The two doors of the text path: reading a body, and writing its answer."""

from __future__ import annotations

from typing import Protocol

from app.protocol.routes import Route
from app.protocol.wire_json import JsonObject
from app.text.answer import Envelope, Frames, TokenCount
from app.text.chat_request import read_chat
from app.text.chat_stream import ChatStream
from app.text.completion_request import read_completion
from app.text.completion_stream import CompletionStream
from app.text.generate_request import read_generate
from app.text.native_answer import NativeStream, NativeWhole
from app.text.openai_whole import ChatWhole, CompletionWhole
from app.text.served_model import ServedModel
from app.text.text_request import TextRequest


class Counted(Protocol):
    """What dispatch asks of any answer."""

    def note_cached(self, slot: int, n_tokens: int) -> None:
        """Takes the cached tokens that the prefill leg reported."""

    def has_ended(self, slot: int) -> bool:
        """Whether a choice is complete."""

    def expect_end(self, slot: int) -> None:
        """Raises AnswerFailed if a choice is not complete though its call has ended."""

    @property
    def count(self) -> TokenCount:
        """Tokens so far."""


class Stream(Counted, Protocol):
    """An answer as events."""

    def feed(self, slot: int, frames: Frames) -> bytes:
        """Takes frames and gives whole events, maybe none."""

    def close(self) -> bytes:
        """Gives the last events, when every choice has ended."""


class Whole(Counted, Protocol):
    """An answer in one piece."""

    def feed(self, slot: int, frames: Frames) -> None:
        """Takes frames."""

    def body(self) -> bytes:
        """Gives the answer, when every choice has ended."""


async def read_request(route: Route, body: JsonObject, served: ServedModel) -> TextRequest:
    """Reads a parsed body.

    Raises:
        InvalidRequest: A field is wrong or cannot be honoured, or a prompt does not fit.
    """
    if route is Route.CHAT:
        return await read_chat(body, served)
    if route is Route.COMPLETIONS:
        return await read_completion(body, served)
    return await read_generate(body, served)


def open_stream(request: TextRequest, envelope: Envelope) -> Stream:
    """Begins the answer of a streamed request."""
    if request.route is Route.CHAT:
        return ChatStream(request, envelope)
    if request.route is Route.COMPLETIONS:
        return CompletionStream(request, envelope)
    return NativeStream(request, envelope)


def open_whole(request: TextRequest, envelope: Envelope) -> Whole:
    """Begins the answer of a request that is answered in one piece."""
    if request.route is Route.CHAT:
        return ChatWhole(request, envelope)
    if request.route is Route.COMPLETIONS:
        return CompletionWhole(request, envelope)
    return NativeWhole(request, envelope)

"""A generation request as a token-in, token-out engine needs it, and what its answer needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from app.protocol.engine import EngineRequest, Sampling
from app.protocol.routes import Route
from app.protocol.wire_json import JsonObject
from app.text.field_rules import refuse
from app.text.parsers.shapes import ReasoningParser, ToolParser
from app.text.sampling import for_choice
from app.text.served_model import ServedModel


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """One prompt.

    Attributes:
        ids: Its tokens.
        text: The text they were made of; ``None`` if the client sent tokens.
        sampling: What the decode leg is told, seed of the first choice included.
    """

    ids: Sequence[int]
    text: str | None
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Shown:
    """What the client wants to see beside the text.

    Attributes:
        usage: A stream ends with a usage event.
        running_usage: Every event of a stream carries the usage so far.
        logprobs: The logprobs of the answer's tokens.
        n_top: How many of the likeliest tokens are shown with each.
        prompt_logprobs: The logprobs of the prompt's tokens, as vLLM's extension.
        prompt_logprobs_from: generate: the first prompt token whose logprob is shown.
        token_ids: The ids of prompt and answer.
        ids_as_tokens: In logprobs a token is named ``token_id:N``.
        logprob_text: generate: tokens of logprobs come with their text.
        echo: Text before each answer: the prompt, or chat's unfinished last message.
        is_echo_only: Nothing is generated beyond the echo.
    """

    usage: bool = False
    running_usage: bool = False
    logprobs: bool = False
    n_top: int = 0
    prompt_logprobs: bool = False
    prompt_logprobs_from: int | None = None
    token_ids: bool = False
    ids_as_tokens: bool = False
    logprob_text: bool = False
    echo: tuple[str, ...] = ()
    is_echo_only: bool = False


@dataclass(frozen=True, slots=True)
class Parsing:
    """How the text of a chat answer is taken apart.

    Attributes:
        new_reasoning: Makes the parser of the thought; ``None`` leaves it in the content.
        shows_reasoning: False drops the thought.
        new_tools: Makes the parser of the calls; ``None`` leaves them in the content.
        is_parallel: False keeps the first call only.
    """

    new_reasoning: Callable[[], ReasoningParser] | None = None
    shows_reasoning: bool = True
    new_tools: Callable[[], ToolParser] | None = None
    is_parallel: bool = True


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A request, ready to be dispatched.

    Every choice of every prompt is a generation of its own, numbered by its *slot*:
    prompt * n + choice, which is also OpenAI's choice index.

    Attributes:
        route: The route it came on.
        served: The model.
        model: The model's name as the client put it.
        prompts: At least one.
        is_batch: The client sent a list; generate answers with one, too.
        n: Choices for each prompt.
        stream: The answer is wanted as events.
        shown: What the client wants to see.
        parsing: How chat text is taken apart.
        unknown: Fields that nobody knows, ignored; for a debug log.
    """

    route: Route
    served: ServedModel
    model: str
    prompts: tuple[TextPrompt, ...]
    is_batch: bool
    n: int
    stream: bool
    shown: Shown = field(default_factory=Shown)
    parsing: Parsing = field(default_factory=Parsing)
    unknown: tuple[str, ...] = ()

    @property
    def has_offsets(self) -> bool:
        """Logprobs are shown in OpenAI's older form, with offsets into the text."""
        return self.shown.logprobs and self.route is Route.COMPLETIONS

    @property
    def shows_ids(self) -> bool:
        """The ids of the answer's tokens are shown; generate always does."""
        return self.shown.token_ids or self.route is Route.GENERATE

    def first_offset(self, slot: int) -> int | None:
        """Where a choice's first token begins in its text; ``None`` if nobody asks."""
        if not self.has_offsets:
            return None
        return len(self.shown.echo[slot // self.n]) if self.shown.echo else 0

    @property
    def n_slots(self) -> int:
        """How many generations it takes."""
        return len(self.prompts) * self.n

    def prompt(self, slot: int) -> TextPrompt:
        """The prompt of a slot."""
        return self.prompts[slot // self.n]

    def engine_request(self, slot: int, request_id: str) -> EngineRequest:
        """What the decode leg of a slot is sent, before the handoff is known.

        Args:
            slot: Which generation.
            request_id: Its id towards both workers; a new one for each attempt.
        """
        prompt = self.prompt(slot)
        sampling = for_choice(prompt.sampling, slot % self.n)
        return EngineRequest(request_id, prompt.ids, prompt.text or "", sampling, self.stream)


def read_stream_options(fields: JsonObject, shown: Shown) -> Shown:
    """Reads ``stream_options``.

    Raises:
        InvalidRequest: They come without a stream, or are not true or false.
    """
    options = fields.get("stream_options")
    if options is None:
        return shown
    if not fields.get("stream", False):
        refuse("stream_options", "is only allowed with stream set to true")
    for key in ("include_usage", "continuous_usage_stats"):
        if options.get(key) is not None and not isinstance(options[key], bool):
            refuse(f"stream_options.{key}", "must be true or false")
    usage = options.get("include_usage") is True
    running = usage and options.get("continuous_usage_stats") is True
    return replace(shown, usage=usage, running_usage=running)

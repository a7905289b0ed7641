"""What the gateway and a token-in, token-out engine say to each other, free of any wire.

Text makes an :class:`EngineRequest`, upstream turns it into messages and turns the
messages that come back into :class:`Chunk` and :class:`Complete`. Field names are
those of vLLM's gRPC contract where it has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

ConstraintKind = Literal[
    "json_schema", "regex", "grammar", "structural_tag", "json_object", "choice"
]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the output must look like.

    ``value`` is the schema, pattern, grammar or tag as text, the choices as a tuple for
    ``choice``, and ``""`` for ``json_object``.
    """

    kind: ConstraintKind
    value: str | tuple[str, ...] = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an engine picks tokens; ``None`` leaves a value to the engine's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    """None, -1 and 0 all mean: every token of the vocabulary."""
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    ignore_eos: bool = False
    n: int = 1
    """Always 1 towards a worker of a pair: the gateway makes the choices itself."""
    constraint: Constraint | None = None
    logprobs: int | None = None
    """Candidates for every output token; -1 is the whole vocabulary."""
    prompt_logprobs: int | None = None
    seed: int | None = None
    """32 bits with sign."""
    include_stop_str_in_output: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    truncate_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One generation for one worker."""

    request_id: str
    """Names the request towards the engine, for aborts too; the same on both legs of a pair."""
    prompt_ids: Sequence[int]
    prompt_text: str
    """For the engine's log only; may be empty."""
    sampling: Sampling
    stream: bool
    """True: new tokens as they come. False: one :class:`Complete` with all of them."""
    handoff_json: str | None = None
    """A JSON object for the engine's KV connector, passed on letter by letter."""
    dp_rank: int | None = None
    trace: tuple[tuple[str, str], ...] = ()
    """W3C trace context, sent beside the message."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One token that could have been there."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The token that is there and the ones that could have been."""

    token_id: int
    logprob: float | None
    """None for the first token of a prompt, which nothing comes before."""
    top: tuple[Candidate, ...] = ()


@dataclass(slots=True)
class Chunk:
    """New tokens of a streamed answer.

    Nobody changes one; it is not frozen because that makes it six times as slow to make, and one
    is made for each token.
    """

    token_ids: Sequence[int]
    """Only what is new; may be empty."""
    n_prompt_tokens: int
    n_cached_tokens: int
    logprobs: Sequence[TokenLogprob] = ()
    prompt_logprobs: Sequence[TokenLogprob] = ()
    """In the first chunk only."""
    index: int = 0


@dataclass(slots=True)
class Complete:
    """The end of an answer.

    In a streamed answer ``token_ids``, ``n_completion_tokens`` and ``logprobs`` repeat the
    last :class:`Chunk` (vLLM does so): take tokens from the chunks only.
    """

    token_ids: Sequence[int]
    finish_reason: str
    """``stop``, ``length``, ``repetition``, ``abort`` or ``error``; the last two are failures
    that the engine reports with status OK."""
    n_prompt_tokens: int
    n_completion_tokens: int
    n_cached_tokens: int
    matched_stop: int | str | None = None
    """The stop token or stop string that ended it; None for an end-of-sequence token."""
    handoff_json: str | None = None
    """What the KV connector of a prefill worker wants a decode worker to be told."""
    logprobs: Sequence[TokenLogprob] = ()
    prompt_logprobs: Sequence[TokenLogprob] = ()
    index: int = 0

"""Tokens of the simulated vLLM model: which ones it says, and where it stops.

Like SGLang's simulated model it names the prompt twice: the words come from the request, the
*mark* only from the KV cache (see :mod:`app.sim.text`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from app.sim.text import Prompt, answer_pieces, mark_of
from app.upstream.generated import vllm_engine_pb2 as pb

GARBAGE_MARK = "garbage!"
"""What an answer is marked with whose KV cache held something else."""
_N_NATURAL_MAX = 4096
_WINDOW = 64
"""A stop string spans at most this many tokens."""


class SimTokenizer(Protocol):
    """What the simulated engine needs of a tokenizer."""

    @property
    def eos_id(self) -> int:
        """The end-of-sequence token."""

    @property
    def n_vocab(self) -> int:
        """Token ids are below it."""

    def encode(self, text: str) -> Sequence[int]:
        """Tokens of a text, nothing added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, special ones included."""


class ByteTokenizer:
    """A token for each byte of UTF-8; 256 ends a sequence."""

    eos_id = 256
    n_vocab = 257

    def encode(self, text: str) -> list[int]:
        """The bytes."""
        return list(text.encode("utf-8", "surrogatepass"))

    def decode(self, ids: Sequence[int]) -> str:
        """Their text; what is no byte is left out."""
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a sequence will say."""

    ids: Sequence[int]
    finish_reason: str
    matched_stop: int | str | None = None


def prompt_mark(tokenizer: SimTokenizer, ids: Sequence[int]) -> str:
    """The nonce of a prompt that travels through the KV cache."""
    return mark_of(tokenizer.decode(ids))


def make_plan(
    tokenizer: SimTokenizer,
    prompt_ids: Sequence[int],
    mark: str,
    params: pb.SamplingParams,
    n_room: int,
    script: str | None = None,
) -> Plan:
    """Decide on the whole answer.

    Args:
        tokenizer: Turns it into tokens.
        prompt_ids: What was asked.
        mark: What came with the KV cache.
        params: Where to stop.
        n_room: Tokens until the context is full.
        script: What to say instead of the usual; ``{mark}`` in it is the mark.
    """
    n_max = min(params.max_tokens or n_room, n_room)
    text = _text(tokenizer, prompt_ids, mark, params, script)
    ids = list(tokenizer.encode(text))
    n_wanted = n_max if params.ignore_eos else min(n_max, params.min_tokens)
    filler = _filler(tokenizer)
    while len(ids) < n_wanted:
        ids.append(next(filler))
    if not params.ignore_eos:
        ids.append(tokenizer.eos_id)
    ids = ids[:n_max]
    n_stop, stop = _first_stop(tokenizer, ids, params)
    if stop is not None:
        return Plan(ids[:n_stop], "stop", stop)
    ends = not params.ignore_eos and ids[-1] == tokenizer.eos_id
    return Plan(ids, "stop" if ends else "length")


def _text(
    tokenizer: SimTokenizer,
    prompt_ids: Sequence[int],
    mark: str,
    params: pb.SamplingParams,
    script: str | None,
) -> str:
    if script is not None:
        return script.replace("{mark}", mark)
    constraint = params.WhichOneof("constraint")
    if constraint in ("json_object", "json_schema"):
        return json.dumps({"answer": mark})
    if constraint == "choice":
        return params.choice.choices[0]
    prompt = Prompt(tokenizer.decode(prompt_ids), tuple(prompt_ids))
    return "".join(answer_pieces(prompt, mark, _N_NATURAL_MAX, ignore_eos=False))


def _filler(tokenizer: SimTokenizer) -> Iterator[int]:
    for number in count(1):
        yield from tokenizer.encode(f" {number}")


def _first_stop(
    tokenizer: SimTokenizer, ids: Sequence[int], params: pb.SamplingParams
) -> tuple[int, int | str | None]:
    """How many tokens there are up to the first stop, and what it is.

    As in vLLM nothing is looked for before ``min_tokens``, and the token that completes a stop
    string is part of the output.
    """
    first = max(0, params.min_tokens - 1)
    stop_ids = frozenset(params.stop_token_ids)
    for at in range(first, len(ids)):
        if ids[at] in stop_ids:
            return at + 1, ids[at]
        if params.stop:
            begin = max(params.min_tokens, at - _WINDOW)
            text = tokenizer.decode(ids[begin : at + 1])
            for stop in params.stop:
                if stop in text:
                    return at + 1, stop
    return len(ids), None

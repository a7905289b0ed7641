"""How a request that wants a pair, and why it got one, are said to the other process.

Plain tuples of plain values, in the order of these two functions: a class costs several times as
much to pickle.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from app.protocol.facts import RequestFacts
from app.protocol.routes import Route
from app.scheduling.grant import Ask
from app.scheduling.prompt_blocks import HashedPrompt, block_hashes
from app.scheduling.reason import Choice, Queued, Reason
from app.scheduling.standing import ANYBODY
from app.scheduling.token_prompt import HashedTokens, token_prompt

if TYPE_CHECKING:
    from app.scheduling.reason import Reason as Why

MAX_BLOCKS = 128 * 1024
"""Of a prompt of which the tokens are known: its hashes by one size of block are 1 MiB then."""
_ROUTES = {route.value: route for route in Route}


class Wants(NamedTuple):
    """What the brain needs of prompts.

    Attributes:
        n_bytes: So much of their beginning; 0: no policy reads it.
        has_index: The hashes of all their blocks.
        block_sizes: The hashes of their tokens by these, as engines tell of such blocks; ``None``:
            nobody tells.
    """

    n_bytes: int = 0
    has_index: bool = False
    block_sizes: tuple[int, ...] | None = None


def words_of(ask: Ask, wants: Wants) -> tuple[Any, ...]:
    """Says a request."""
    facts, standing = ask.facts, ask.standing
    return (
        facts.route._value_,
        facts.model,
        facts.n,
        facts.batch,
        facts.prompt_key[: wants.n_bytes] if wants.n_bytes else b"",
        facts.prefix_salt if wants.n_bytes else b"",
        facts.n_prompt_tokens,
        facts.max_tokens,
        facts.routing_key,
        block_hashes(facts).tobytes() if wants.has_index else None,
        tuple(ask.excluded),
        None if standing is ANYBODY else standing,
        None if wants.block_sizes is None else _token_words(ask, wants.block_sizes),
    )


def _token_words(ask: Ask, block_sizes: tuple[int, ...]) -> tuple[Any, ...] | None:
    prompt = token_prompt(ask)
    if prompt is None:
        return None
    chains = {size: prompt.chains(size)[:MAX_BLOCKS] for size in block_sizes}
    return prompt.n_tokens, {size: array("q", keys).tobytes() for size, keys in chains.items()}


def read_ask(words: tuple[Any, ...]) -> Ask:
    """Makes a request of its words; what no scheduler reads is left at nothing."""
    route, model, n, batch, prompt, salt = words[:6]
    n_prompt_tokens, max_tokens, routing_key, hashes, excluded, standing, tokens = words[6:]
    key = prompt if hashes is None else HashedPrompt(prompt)
    if isinstance(key, HashedPrompt):
        key.hashes = np.frombuffer(hashes, np.uint64)
    # By their places: by their names it costs more than twice as much.
    facts = RequestFacts(
        _ROUTES[route],
        model,
        False,
        n,
        batch,
        key,
        salt,
        n_prompt_tokens,
        max_tokens,
        None,
        False,
        False,
        (),
        0,
        False,
        routing_key,
    )
    ask = Ask(facts, frozenset(excluded), ANYBODY if standing is None else standing)
    if tokens is not None:
        n_tokens, chains = tokens
        ask.prompt = HashedTokens(n_tokens, {size: array("q", c) for size, c in chains.items()})
    return ask


def reason_words(reason: Why) -> tuple[Any, ...]:
    """Says why a pair was chosen."""
    queued = reason.queued
    return (
        tuple(reason.prefill),
        tuple(reason.decode),
        reason.prefill_rank,
        reason.decode_rank,
        # What it expected of other ranks stays where it is.
        None if queued is None else tuple(queued[:4]),
    )


def read_reason(words: tuple[Any, ...]) -> Reason:
    """Makes a reason of its words."""
    prefill, decode, prefill_rank, decode_rank, queued = words
    return Reason(
        Choice._make(prefill),
        Choice._make(decode),
        prefill_rank,
        decode_rank,
        None if queued is None else Queued(*queued),
    )

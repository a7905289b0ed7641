"""prefix_hash: the worker to which the beginning of the prompt belongs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.policies.ring_policy import RingPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker

_BYTES_PER_TOKEN = 4
"""Exact for ids, which stand in the prompt key as four bytes each; a guess for text."""


class PrefixHash(RingPolicy):
    """Gives every beginning of a prompt its worker on a hash ring.

    Nothing is remembered of prompts, so gateways that know nothing of each other agree. Prompts
    without text or ids go to the least loaded worker.

    Args:
        prefix_token_count: Tokens of the beginning; of text, four bytes each.
        load_factor: A worker may have so many times the mean load ...
        balance_abs_threshold: ... or so many requests more than the mean, whichever is more.

    Raises:
        ValueError: A parameter is out of its range.
    """

    name = "prefix_hash"

    def __init__(
        self,
        *,
        prefix_token_count: int = 256,
        load_factor: float = 1.25,
        balance_abs_threshold: int = 10,
    ) -> None:
        if prefix_token_count < 1:
            raise ValueError(f"prefix_token_count starts at 1, not {prefix_token_count}.")
        super().__init__(load_factor, balance_abs_threshold)
        self._n_bytes = prefix_token_count * _BYTES_PER_TOKEN

    def choose(self, candidates: Sequence[Worker], facts: RequestFacts) -> Worker:
        """Return the beginning's worker, the next one on the ring, or the least loaded."""
        beginning = facts.prompt_key[: self._n_bytes]
        # A zero byte between them: no model's name has one.
        parts = ((facts.model or "").encode(), facts.prefix_salt, beginning)
        key = b"\0".join(parts) if beginning else None
        return self.take(candidates, key, "prefix", "no_prompt")

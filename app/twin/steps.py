"""A prefill worker's steps, without its clock: which requests it computes in one go."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from app.twin.trace import BLOCK_TOKENS


class Work(NamedTuple):
    """One request for a prefill worker.

    Attributes:
        sent_s: When it was sent.
        n_prompt: Its tokens.
        n_cached: Those of them in the cache; None: the engine has not told.
        blocks: What it begins with.
        first_s: When its first token was there.
        is_good: Whether that can be believed.
    """

    sent_s: float
    n_prompt: int
    n_cached: int | None
    blocks: tuple[int, ...]
    first_s: float
    is_good: bool

    def n_uncached(self, held: AbstractSet[int]) -> int:
        """Tokens that have to be computed where these blocks are held; the last one always."""
        n_cached = self.n_cached
        if n_cached is None:
            n_hit = next((i for i, block in enumerate(self.blocks) if block not in held), None)
            n_cached = (len(self.blocks) if n_hit is None else n_hit) * BLOCK_TOKENS
        return self.n_prompt - min(n_cached, self.n_prompt - 1)


class Done(NamedTuple):
    """What became of one.

    Attributes:
        began_s: When the first request was sent of those that were computed in one go with it.
        n_until: Tokens computed from there until the step ended that had its last ones.
        n_own: Its own.
    """

    began_s: float
    n_until: int
    n_own: int


def computed_until(
    works: Sequence[Work], rate: float, lead_s: float, chunk_tokens: int
) -> list[Done]:
    """Returns what becomes of each request.

    The engine takes them in their order in steps of at most ``chunk_tokens``, and puts a step
    together when the one before the last has ended; what it has computed is in its cache.

    Args:
        works: The requests of one worker in the order in which they were sent.
        rate: Tokens a second.
        lead_s: From sending until it can start one.
        chunk_tokens: Most tokens of a step.
    """
    steps = _Steps(works, lead_s, chunk_tokens)
    now_s = gpu_free_s = began_s = -1e18
    n_tokens = 0
    flying: tuple[float, list[Work]] | None = None
    while True:
        first = steps.at
        n_step = steps.form(now_s)
        launched: tuple[float, list[Work]] | None = None
        if n_step:
            if gpu_free_s < now_s:
                began_s, n_tokens, gpu_free_s = works[first].sent_s, 0, now_s
            n_tokens += n_step
            gpu_free_s += n_step / rate
            launched = gpu_free_s, steps.conclude(began_s, n_tokens)
        if flying is not None:
            now_s = flying[0]
            for one in flying[1]:
                # The last block of a prompt is not shared unless it is whole.
                steps.held.update(one.blocks[: one.n_prompt // BLOCK_TOKENS])
        elif launched is None:
            if steps.at == len(works):
                return steps.done
            now_s = max(now_s, works[steps.at].sent_s + lead_s)
        flying = launched


class _Steps:
    """Puts steps together; ``at`` is the request whose turn it is."""

    def __init__(self, works: Sequence[Work], lead_s: float, chunk_tokens: int) -> None:
        self.done = [Done(0.0, 0, 0)] * len(works)
        self.held: set[int] = set()
        self.at = 0
        self._works = works
        self._lead_s = lead_s
        self._chunk_tokens = chunk_tokens
        self._n_own = self._n_left = 0
        self._ended: list[tuple[int, int]] = []

    def form(self, now_s: float) -> int:
        """Takes what is there into a step; returns its tokens."""
        budget = self._chunk_tokens
        self._ended = []
        while budget and self.at < len(self._works):
            one = self._works[self.at]
            if one.sent_s + self._lead_s > now_s:
                break
            if not self._n_left:
                self._n_own = self._n_left = one.n_uncached(self.held)
            part = min(budget, self._n_left)
            self._n_left -= part
            budget -= part
            if not self._n_left:
                self._ended.append((self.at, self._n_own))
                self.at += 1
        return self._chunk_tokens - budget

    def conclude(self, began_s: float, n_until: int) -> list[Work]:
        """Notes who was computed by the end of the step; returns them."""
        for place, n_own in self._ended:
            self.done[place] = Done(began_s, n_until, n_own)
        return [self._works[place] for place, _ in self._ended]

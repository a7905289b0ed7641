"""How the work of prompts is spread over their lengths, learned from the latest ones."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIN_PROMPTS = 16
"""Fewer say nothing of the next ones."""


class PromptLengths:
    """The lengths of the latest prompts, and which share of their tokens is in shorter ones.

    Args:
        n_prompts: Prompts that are remembered.
        adjust_interval_s: How often the shares are worked out anew.
    """

    def __init__(self, n_prompts: int, adjust_interval_s: float) -> None:
        self._latest: deque[int] = deque(maxlen=n_prompts)
        self._interval_s = adjust_interval_s
        self._adjusted_s = float("-inf")
        self._lengths: Sequence[int] = ()
        self._sums: Sequence[int] = (0,)

    def add(self, n_tokens: int) -> None:
        """Note a prompt."""
        self._latest.append(n_tokens)

    def span(self, n_tokens: int, now_s: float) -> tuple[float, float]:
        """Return the shares of all tokens in shorter prompts, and in those no longer.

        0 and 1 while too few prompts were seen: such a prompt belongs everywhere.
        """
        if now_s - self._adjusted_s >= self._interval_s:
            self._adjust(now_s)
        total = self._sums[-1]
        if not total:
            return 0.0, 1.0
        lengths = self._lengths
        shorter = self._sums[bisect_left(lengths, n_tokens)]
        no_longer = self._sums[bisect_right(lengths, n_tokens)]
        return shorter / total, no_longer / total

    def bounds(self, n_buckets: int) -> list[int]:
        """Return the lengths at which one of so many buckets of equal work ends."""
        total = self._sums[-1]
        if not total:
            return []
        ends = [total * number / n_buckets for number in range(1, n_buckets)]
        return [self._lengths[max(0, bisect_left(self._sums, end) - 1)] for end in ends]

    def _adjust(self, now_s: float) -> None:
        if len(self._latest) < _MIN_PROMPTS:
            return
        self._adjusted_s = now_s
        self._lengths = sorted(self._latest)
        self._sums = list(accumulate(self._lengths, initial=0))

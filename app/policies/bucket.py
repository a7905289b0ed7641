"""bucket: prompts of like length share workers, so that short ones do not wait behind long ones."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from app.policies.prompt_lengths import PromptLengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.clock import Clock
    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker

_N_PROMPTS = 1024
_MAX_MODELS = 64


class Bucket:
    """Gives each worker a range of prompt lengths that makes an equal part of the work.

    The ranges follow from the latest prompts of the model and are ranges of work, not of workers:
    they are laid over those that could take the request, so there is always one, and a length
    that many prompts share has as many workers as its work needs. The one that was sent least of
    late is taken. SMG 1.13 counts characters, has one worker a range whether or not it is
    available, and begins with even ranges up to 4,096 characters.

    Args:
        adjust_interval_s: How often the ranges are worked out anew, and how long what was sent
            counts: it fades by this time constant, and is gone when the worker is idle.
        balance_abs_threshold: The range is left for the least busy worker when the range's has so
            many tokens more than that would have with the prompt ...
        balance_rel_threshold: ... and so many times as many.
        now_s: The clock.

    Raises:
        ValueError: A parameter is out of its range.
    """

    name = "bucket"
    why = ""

    def __init__(
        self,
        *,
        adjust_interval_s: float = 5.0,
        balance_abs_threshold: int = 64,
        balance_rel_threshold: float = 1.5,
        now_s: Clock = time.monotonic,
    ) -> None:
        if adjust_interval_s <= 0:
            raise ValueError(f"The interval is above 0, not {adjust_interval_s}.")
        if balance_abs_threshold < 0 or balance_rel_threshold < 1:
            raise ValueError("balance_abs_threshold starts at 0, balance_rel_threshold at 1.")
        self._interval_s = adjust_interval_s
        self._balance_abs = balance_abs_threshold
        self._balance_rel = balance_rel_threshold
        self._now_s = now_s
        self._lengths: OrderedDict[str | None, PromptLengths] = OrderedDict()
        self._sent: dict[str, tuple[float, float, int]] = {}
        self._turn = 0
        self._n_buckets = 1

    def choose(self, candidates: Sequence[Worker], facts: RequestFacts) -> Worker:
        """Return the least busy worker of the prompt's range, or of all."""
        now_s, n_tokens, n_workers = self._now_s(), facts.n_prompt_tokens, len(candidates)
        self._n_buckets = n_workers
        lengths = self._lengths_of(facts.model)
        below, upto = lengths.span(n_tokens, now_s)
        lengths.add(n_tokens)
        busy = [self._busy(worker, now_s) for worker in candidates]
        first = min(int(below * n_workers), n_workers - 1)
        last = max(first, min(math.ceil(upto * n_workers) - 1, n_workers - 1))
        place = min(range(first, last + 1), key=busy.__getitem__)
        self.why = "bucket" if last - first + 1 < n_workers else "least_busy"
        least = min(range(n_workers), key=busy.__getitem__)
        n_here, n_there = busy[place][0], busy[least][0] + n_tokens
        if n_here - n_there > self._balance_abs and n_here > self._balance_rel * n_there:
            place, self.why = least, "uneven_load"
        self._turn += 1
        worker = candidates[place]
        self._sent[worker.id] = (busy[place][0] + n_tokens, now_s, self._turn)
        return worker

    def forget(self, worker_id: str) -> None:
        """Drop what a worker was sent."""
        self._sent.pop(worker_id, None)

    def state(self) -> dict[str, object]:
        """The lengths in tokens at which one worker's range ends, by model."""
        return {
            "bounds": {
                model or "": lengths.bounds(self._n_buckets)
                for model, lengths in self._lengths.items()
            }
        }

    def _lengths_of(self, model: str | None) -> PromptLengths:
        lengths = self._lengths.get(model)
        if lengths is None:
            lengths = self._lengths[model] = PromptLengths(_N_PROMPTS, self._interval_s)
            if len(self._lengths) > _MAX_MODELS:
                self._lengths.popitem(last=False)
        return lengths

    def _busy(self, worker: Worker, now_s: float) -> tuple[float, int]:
        """Tokens that a worker was sent and may not have computed, and its turn: equals rotate."""
        n_tokens, sent_s, turn = self._sent.get(worker.id, (0.0, now_s, 0))
        if not worker.n_leases:
            return 0.0, turn
        return n_tokens * math.exp((sent_s - now_s) / self._interval_s), turn

"""Room in the decode workers' KV caches, reserved before prefill starts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from app.protocol.facts import RequestFacts
    from app.scheduling.wait_queue import Waiting
    from app.workers.worker import Worker

RESERVE_TOKENS = 512
"""SGLang 0.5.23 keeps so many free for a request's answer (``num_reserved_decode_tokens``)."""


def n_kv_tokens(facts: RequestFacts) -> int:
    """KV tokens that a request needs on decode before its first token."""
    n_choices = facts.n * (facts.batch or 1)
    n_answer = RESERVE_TOKENS if facts.max_tokens is None else min(facts.max_tokens, RESERVE_TOKENS)
    return facts.n_prompt_tokens * facts.n + n_answer * n_choices


class DecodeRoom:
    """This gateway's own account of what its requests hold on each decode worker.

    A request that fits nowhere claims a worker, which then gets nothing else until the request
    fits there: without that shorter ones would take the room as it comes free. One claim at a
    time, so the other workers go on. Whoever feeds looks at the claimant first: behind others
    that wait for its worker it would never be reached.

    Attributes:
        claimant: The request that a worker is kept for.
    """

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        # What workers hold beyond that: longer answers than were expected, others' requests.
        self._beyond: dict[str, int] = {}
        self.claimant: Waiting | None = None
        self._claimed: Worker | None = None
        # No worker holds more: so that mostly none has to be looked at.
        self._most_held = 0
        self._smallest: tuple[Sequence[Worker], float] = ((), math.inf)

    def with_room(
        self, workers: Sequence[Worker], n_tokens: int, asker: Waiting | None = None
    ) -> Sequence[Worker]:
        """The workers that can hold so many tokens more.

        A worker that does not tell its size has room, and so has an idle one: what does not fit
        there fits nowhere, and the engine's own refusal says so.

        Args:
            workers: Those to choose among.
            n_tokens: What the request needs.
            asker: The request; one that has claimed a worker may have it.
        """
        if self._all_have_room(workers, n_tokens):
            return workers
        return list(self._those_with_room(workers, n_tokens, asker))

    def _those_with_room(
        self, workers: Iterable[Worker], n_tokens: int, asker: Waiting | None
    ) -> Iterator[Worker]:
        held, beyond = self._held, self._beyond
        claimed = None if asker is not None and asker is self.claimant else self._claimed
        for worker in workers:
            if worker is not claimed and (
                not (n_held := held.get(worker.id, 0))
                or n_held + beyond.get(worker.id, 0) + n_tokens <= _size(worker)
            ):
                yield worker

    def _all_have_room(self, workers: Sequence[Worker], n_tokens: int) -> bool:
        """Whether they all have, told without looking at each; if in doubt, not."""
        if self._claimed is not None:
            return False
        if self._smallest[0] is not workers:
            if not isinstance(workers, tuple):
                return False
            # The workers of a group are the same object until anything of them changes.
            self._smallest = (workers, min(map(_size, workers)))
        most = self._smallest[1] - n_tokens
        if self._most_held > most:
            self._most_held = max(map(self._n_held, self._held), default=0)
        return self._most_held <= most

    def kept_for(self) -> Waiting | None:
        """The request that a worker is kept for."""
        return self.claimant

    def admits(
        self, asker: Waiting, facts: RequestFacts, groups: Sequence[Sequence[Worker]]
    ) -> bool:
        """Whether prefill may begin with a request; one that may not has a worker kept for it.

        Args:
            asker: The request.
            facts: What is known of it.
            groups: The decode workers that it may go to, by the prefill workers that they fit.
        """
        n_tokens = n_kv_tokens(facts)
        if any(self.has_room(decodes, n_tokens, asker) for decodes in groups):
            return True
        everyone = [worker for decodes in groups for worker in decodes]
        if self.fits_nowhere(everyone, facts):
            return True
        self.claim(asker, everyone)
        return False

    def has_room(self, workers: Sequence[Worker], n_tokens: int, asker: Waiting) -> bool:
        """Whether one of the workers can hold so many tokens more."""
        if self._all_have_room(workers, n_tokens):
            return True
        return any(True for _ in self._those_with_room(workers, n_tokens, asker))

    def fits_nowhere(self, workers: Sequence[Worker], facts: RequestFacts) -> bool:
        """Whether a prompt is longer than the whole cache of each of these workers.

        Nothing is gained by emptying one for it: the engine refuses it at once.
        """
        n_prompt = facts.n_prompt_tokens // (facts.batch or 1)
        return all(0 < (worker.info.max_total_tokens or 0) <= n_prompt for worker in workers)

    def claim(self, asker: Waiting, workers: Sequence[Worker]) -> None:
        """Keeps the emptiest of these workers for a request, unless another has a claim."""
        is_own = self.claimant is asker and self._claimed not in workers
        if self.claimant is None or is_own:
            self.claimant = asker
            self._claimed = min(workers, key=lambda worker: self._n_held(worker.id))

    def drop_claim(self, asker: Waiting) -> None:
        """The request has its room, or no longer wants it."""
        if self.claimant is asker:
            self.claimant = self._claimed = None

    def hold(self, worker: Worker, n_tokens: int) -> None:
        """Counts a request in."""
        self._held[worker.id] = self._held.get(worker.id, 0) + n_tokens
        self._most_held = max(self._most_held, self._n_held(worker.id))

    def correct(self, worker: Worker, n_used: int) -> None:
        """Takes a worker's own word on the tokens that it holds.

        It may be more than was counted, never less: some of what was counted has yet to arrive.
        """
        self._beyond.pop(worker.id, None)
        if (n_beyond := n_used - self._held.get(worker.id, 0)) > 0:
            self._beyond[worker.id] = n_beyond
            self._most_held = max(self._most_held, self._n_held(worker.id))

    def _n_held(self, worker_id: str) -> int:
        return self._held.get(worker_id, 0) + self._beyond.get(worker_id, 0)

    def release(self, worker: Worker, n_tokens: int) -> None:
        """Counts it out."""
        left = self._held.get(worker.id, 0) - n_tokens
        if left > 0:
            self._held[worker.id] = left
        else:
            self._held.pop(worker.id, None)
            self._beyond.pop(worker.id, None)


def _size(worker: Worker) -> float:
    """KV tokens of all its ranks; infinite if it does not tell."""
    if not (n_most := worker.info.max_total_tokens):
        return math.inf
    return n_most * (1 if worker.spec.dp_rank is not None else max(1, worker.info.dp_size))

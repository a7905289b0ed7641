"""Room in the decode workers' KV caches, reserved before prefill starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        self.claimant: Waiting | None = None
        self._claimed: Worker | None = None

    def with_room(
        self, workers: Sequence[Worker], n_tokens: int, asker: Waiting | None = None
    ) -> list[Worker]:
        """The workers that can hold so many tokens more.

        A worker that does not tell its size has room, and so has an idle one: what does not fit
        there fits nowhere, and the engine's own refusal says so.

        Args:
            workers: Those to choose among.
            n_tokens: What the request needs.
            asker: The request; one that has claimed a worker may have it.
        """
        held = self._held
        claimed = None if asker is not None and asker is self.claimant else self._claimed
        return [
            worker
            for worker in workers
            if worker is not claimed
            and (
                not (n_held := held.get(worker.id, 0))
                or not (n_most := worker.info.max_total_tokens)
                or n_held + n_tokens <= n_most * _n_ranks(worker)
            )
        ]

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
        return any(self.with_room((worker,), n_tokens, asker) for worker in workers)

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
            self._claimed = min(workers, key=lambda worker: self._held.get(worker.id, 0))

    def drop_claim(self, asker: Waiting) -> None:
        """The request has its room, or no longer wants it."""
        if self.claimant is asker:
            self.claimant = self._claimed = None

    def hold(self, worker: Worker, n_tokens: int) -> None:
        """Counts a request in."""
        self._held[worker.id] = self._held.get(worker.id, 0) + n_tokens

    def release(self, worker: Worker, n_tokens: int) -> None:
        """Counts it out."""
        left = self._held.get(worker.id, 0) - n_tokens
        if left > 0:
            self._held[worker.id] = left
        else:
            self._held.pop(worker.id, None)


def _n_ranks(worker: Worker) -> int:
    return 1 if worker.spec.dp_rank is not None else max(1, worker.info.dp_size)

"""Why a request went where it went: a small record, put into words only where somebody reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUEUE = "prefill_queue"
"""Stands in place of a policy's name where the queue chose the prefill worker."""


class Choice(NamedTuple):
    """How one worker was chosen.

    A named tuple because it is made for every request: a frozen dataclass takes three times as
    long to make.

    Attributes:
        worker: Its URL.
        policy: Name of the policy that chose, or ``QUEUE``.
        why: The policy's own word for the rule that decided; empty where it has one rule only.
        n_candidates: Workers it was chosen from; of the queue, data-parallel ranks.
        n_requests: Requests of this gateway that it had already.
        shadow: URL of the worker that the shadow policy would have taken; empty without one.
    """

    worker: str
    policy: str
    why: str
    n_candidates: int
    n_requests: int
    shadow: str = ""


class Candidates(NamedTuple):
    """What the queue expected of all prefill ranks as it chose one; read, if at all, later.

    Attributes:
        roster: URLs of workers by place; a worker has a place for each data-parallel rank.
        finish_s: By place, predicted seconds until prefill has ended; infinite: not possible.
    """

    roster: tuple[str, ...]
    finish_s: NDArray[np.float64]


class Queued(NamedTuple):
    """What the queue before prefill knew when it let the request go.

    Attributes:
        waited_s: Time in the queue.
        wait_ahead_s: Predicted wait at the prefill worker, behind what it has not computed yet.
        n_uncached_tokens: Predicted tokens that it has to compute.
        expected_s: Predicted time from here until prefill has ended.
        candidates: The same of all ranks that could have had it.
    """

    waited_s: float
    wait_ahead_s: float
    n_uncached_tokens: float
    expected_s: float = 0.0
    candidates: Candidates | None = None


class Reason(NamedTuple):
    """Why this pair.

    Attributes:
        prefill: How the prefill worker was chosen.
        decode: How the decode worker was chosen, last of all if it was chosen twice.
        prefill_rank: Data-parallel rank.
        decode_rank: The same of decode.
        queued: What the queue knew; ``None`` where the request did not wait in one.
    """

    prefill: Choice
    decode: Choice
    prefill_rank: int = 0
    decode_rank: int = 0
    queued: Queued | None = None

    @property
    def expected_s(self) -> float:
        """Predicted time from the grant until prefill has ended; 0.0: nobody has predicted."""
        return self.queued.expected_s if self.queued is not None else 0.0

    @property
    def candidates(self) -> Candidates | None:
        """What was predicted of all ranks; ``None``: nobody has predicted."""
        return self.queued.candidates if self.queued is not None else None

    def __str__(self) -> str:
        """Return the record for the log, whose line names the workers anyway."""
        return self.text(with_urls=False)

    def text(self, *, with_urls: bool) -> str:
        """Return the record as a dictionary of structured fields (RFC 9651).

        Args:
            with_urls: Name the workers chosen.
        """
        parts = [
            _text("prefill", self.prefill, self.prefill_rank, with_urls=with_urls),
            _text("decode", self.decode, self.decode_rank, with_urls=with_urls),
        ]
        if self.queued is not None:
            waited_s, ahead_s, n_uncached = self.queued[:3]
            parts.append(
                f"queue;waited_ms={waited_s * 1000:.1f};ahead_ms={ahead_s * 1000:.1f}"
                f";uncached_tokens={n_uncached:.0f}"
            )
        return ", ".join(parts)


class Alone(NamedTuple):
    """Why one worker serves a request without a pair.

    Attributes:
        worker: Its URL.
        why: Why it serves alone, a snake_case word.
        rank: Data-parallel rank.
        choice: How it was chosen; ``None``: by no policy.
    """

    worker: str
    why: str
    rank: int = 0
    choice: Choice | None = None

    @property
    def expected_s(self) -> float:
        """Nobody predicts these."""
        return 0.0

    @property
    def candidates(self) -> None:
        """Nobody predicts these."""
        return

    def text(self, *, with_urls: bool) -> str:
        """Return the record as a dictionary of structured fields (RFC 9651).

        Args:
            with_urls: Name the worker.
        """
        if self.choice is not None:
            chosen = _text("worker", self.choice, self.rank, with_urls=with_urls)
            return f"{chosen};alone={self.why}"
        words = [f'worker="{self.worker}"' if with_urls else "worker"]
        if self.rank:
            words.append(f"rank={self.rank}")
        return ";".join((*words, f"alone={self.why}"))


def _text(role: str, choice: Choice, rank: int, *, with_urls: bool) -> str:
    if not (with_urls or rank or choice.shadow):
        # What stands in the log of nearly every request.
        why = f";why={choice.why}" if choice.why else ""
        counts = f"candidates={choice.n_candidates};requests={choice.n_requests}"
        return f"{role};policy={choice.policy}{why};{counts}"
    words = [f'{role}="{choice.worker}"' if with_urls else role, f"policy={choice.policy}"]
    if choice.why:
        words.append(f"why={choice.why}")
    words.append(f"candidates={choice.n_candidates};requests={choice.n_requests}")
    if rank:
        words.append(f"rank={rank}")
    if choice.shadow:
        same = choice.shadow == choice.worker
        if same or with_urls:
            words.append("shadow=same" if same else f'shadow="{choice.shadow}"')
        else:
            words.append("shadow=other")
    return ";".join(words)

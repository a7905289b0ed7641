"""random: every worker is as likely as any other."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker


class RandomChoice:
    """Draws a worker, all equally likely.

    Args:
        rng: Source of chance.
    """

    name = "random"
    why = ""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng if rng is not None else random.Random()

    def choose(
        self,
        candidates: Sequence[Worker],
        facts: RequestFacts,  # noqa: ARG002 - others read it
    ) -> Worker:
        """Return any candidate."""
        return candidates[int(self._rng.random() * len(candidates))]

    def forget(self, worker_id: str) -> None:
        """Nothing is kept of a worker."""

    def state(self) -> dict[str, object]:
        """Nothing is kept."""
        return {}

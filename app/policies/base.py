"""What every policy offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker


class Policy(Protocol):
    """Chooses one worker of several that could all take the request."""

    why: str
    """Which of its rules decided last, one word; empty for a policy that has one rule only."""

    @property
    def name(self) -> str:
        """The name in the catalogue."""

    def choose(self, candidates: Sequence[Worker], facts: RequestFacts) -> Worker:
        """Return one of the candidates, of which there is at least one."""

    def forget(self, worker_id: str) -> None:
        """Drop what is known of a worker that was removed or started anew."""

    def state(self) -> Mapping[str, object]:
        """Return what it keeps, in figures, for those who look; empty if it keeps nothing."""

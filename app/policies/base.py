"""What every policy offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.protocol.facts import RequestFacts
    from app.workers.worker import Worker


class Policy(Protocol):
    """Chooses one worker of several that could all take the request."""

    @property
    def name(self) -> str:
        """The name in the catalogue."""

    def choose(self, candidates: Sequence[Worker], facts: RequestFacts) -> Worker:
        """Return one of the candidates, of which there is at least one."""

    def forget(self, worker_id: str) -> None:
        """Drop what is known of a worker that was removed or started anew."""

"""What a pipe has open to the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from app.workers.drain import Connections

if TYPE_CHECKING:
    from app.workers.worker import Worker


class Clients(Connections, Protocol):
    """The connections, and whether anything came over them."""

    def take_heard(self, worker: Worker) -> bool:
        """Tell whether the worker sent something since this was asked last."""

"""What the router wants of an attempt at a request, whoever serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from app.dispatch.reply import Reply
    from app.errors import Leg, WorkerError


class Attempt(Protocol):
    """One attempt at a request on one pair, or on one worker."""

    @property
    def late_failure(self) -> WorkerError | None:
        """A failure of prefill that came too late to matter."""

    @property
    def has_prefilled(self) -> bool:
        """A prefill was completed, or may have been."""

    @property
    def awaited_leg(self) -> Leg | None:
        """The leg whose word is awaited, as far as anybody can tell."""

    @property
    def has_asked_prefill(self) -> bool:
        """Prefill was given something to do."""

    async def start(self, legs: asyncio.TaskGroup) -> Reply:
        """Starts the legs; returns once the first bytes are worth relaying."""

    def finish(self, *, is_ok: bool) -> None:
        """Ends both legs; only the first time counts."""

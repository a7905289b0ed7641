"""A request under way: entered with a reply, left when the client has it or a leg has failed."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from app.errors import NoPairAvailable, WorkerError
from app.scheduling.scheduler import Grant, Outcome, Pair
from app.scheduling.solo import Solo, SoloGrant

if TYPE_CHECKING:
    from app.dispatch.attempt import Attempt
    from app.dispatch.blame import Blame
    from app.dispatch.reply import Prepared, Reply
    from app.dispatch.retry import Attempts
    from app.scheduling.scheduler import Scheduler


class Chooser(Protocol):
    """What the router knows to do."""

    async def choose_next(self, prepared: Prepared, attempts: Attempts) -> Grant | SoloGrant:
        """Waits for the workers of the next attempt."""

    def attempt(self, grant: Grant | SoloGrant, prepared: Prepared, attempts: Attempts) -> Attempt:
        """Prepares an attempt on them."""


class Opening:
    """Enters with the reply of the first attempt that brings one.

    A class of its own, since an ``asynccontextmanager`` is an async generator: the loop keeps
    track of each, and wrapping it costs ten calls more a request.

    Args:
        prepared: The request.
        legs: The request's task group.
        attempts: Its attempts, none of them begun.
        chooser: Chooses workers and prepares attempts.
        blame: Settles failures.
        scheduler: Gets grants back.
        holding: Held from the beginning to the end, if there is something.
    """

    __slots__ = (
        "_attempt",
        "_attempts",
        "_blame",
        "_chooser",
        "_grant",
        "_holding",
        "_legs",
        "_prepared",
        "_reply",
        "_scheduler",
    )

    def __init__(
        self,
        prepared: Prepared,
        legs: asyncio.TaskGroup,
        attempts: Attempts,
        chooser: Chooser,
        blame: Blame,
        scheduler: Scheduler,
        holding: AbstractContextManager[None] | None,
    ) -> None:
        self._prepared = prepared
        self._legs = legs
        self._attempts = attempts
        self._chooser = chooser
        self._blame = blame
        self._scheduler = scheduler
        self._holding = holding
        self._grant: Grant | SoloGrant | None = None
        self._attempt: Attempt | None = None
        self._reply: Reply | None = None

    async def __aenter__(self) -> Reply:
        if self._holding is None:
            return await self._open()
        self._holding.__enter__()
        try:
            return await self._open()
        except BaseException as error:
            self._holding.__exit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        outcome = Outcome.CANCELLED
        try:
            if exc is None:
                outcome = Outcome.OK
                self._succeed()
            elif isinstance(exc, WorkerError):
                outcome = Outcome.FAILED
                raise await self._settle(exc) from exc
        finally:
            self._end(outcome)
            if self._holding is not None:
                self._holding.__exit__(exc_type, exc, traceback)

    async def _open(self) -> Reply:
        prepared, attempts = self._prepared, self._attempts
        while True:
            grant = self._grant = await self._chooser.choose_next(prepared, attempts)
            outcome = Outcome.CANCELLED
            try:
                attempt = self._chooser.attempt(grant, prepared, attempts)
                self._attempt = attempts.running = attempt
                try:
                    reply = self._reply = await attempt.start(self._legs)
                except WorkerError as error:
                    outcome = Outcome.FAILED
                    settled = await self._settle(error)
                    if not self._may_follow(settled, attempt, grant):
                        raise settled from error
                except NoPairAvailable as error:
                    # Decode is chosen late, and there was none any more.
                    error.n_attempts = attempts.n_started
                    raise
                else:
                    reply.headers.append(attempts.header)
                    prepared.notes.reason = grant.reason
                    return reply
            except BaseException:
                self._end(outcome)
                raise
            self._end(outcome)

    def _succeed(self) -> None:
        if self._attempt is not None and self._grant is not None:
            self._blame.succeeded(
                of(self._grant),
                self._attempt.late_failure,
                has_asked_prefill=self._attempt.has_asked_prefill,
            )

    def _end(self, outcome: Outcome) -> None:
        """Ends an attempt and gives its workers back."""
        is_ok = outcome is Outcome.OK
        self._attempts.end(is_ok=is_ok)
        reply, self._reply = self._reply, None
        if reply is not None and reply.close is not None:
            reply.close()
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.finish(is_ok=is_ok)
        grant, self._grant = self._grant, None
        if grant is not None:
            notes = self._prepared.notes
            notes.reason, grant.n_cached = grant.reason, notes.n_cached
            self._scheduler.done(grant, outcome)

    async def _settle(self, error: WorkerError) -> WorkerError:
        """Ends the legs at once, then finds out whose failure it was."""
        notes, grant = self._prepared.notes, self._grant
        if self._attempt is None or grant is None:
            return error
        self._attempt.finish(is_ok=False)
        settled = await self._blame.settle(error, of(grant), self._prepared.body)
        settled.n_attempts = notes.n_attempts = self._attempts.n_started
        if settled.detail:
            notes.detail = settled.detail
        return settled

    def _may_follow(self, error: WorkerError, attempt: Attempt, grant: Grant | SoloGrant) -> bool:
        attempts = self._attempts
        if attempts.may_follow(error, of(grant), has_prefilled=attempt.has_prefilled):
            return True
        if attempts.refusal:
            self._prepared.notes.no_retry = attempts.refusal
        return False


def of(grant: Grant | SoloGrant) -> Pair | Solo:
    """Returns who has a part in a granted request."""
    return grant.solo if isinstance(grant, SoloGrant) else grant.pair

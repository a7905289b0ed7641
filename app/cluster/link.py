"""A pipe's connection to the brain: kept up, announced anew, with the answers that are awaited."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import structlog

from app.cluster.wire import Wire
from app.errors import CapacityError

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.cluster.wire import Message

SILENCE_S = 5.0
"""The brain says something each tenth of a second; one that is silent for so long is away."""
_LOOK_S = 0.25
_RETRY_S = 0.05
_CONNECT_S = 1.0


class BrainAway(CapacityError):
    """The process that decides is not there at the moment."""

    code = "brain_away"


class Link:
    """Speaks with the brain.

    Args:
        path: The brain's socket.
        greet: Says who we are, as the first words of each connection.
        on_message: Takes what is no answer.

    Attributes:
        is_up: The brain has welcomed us, and was heard since.
        epoch: Which brain that is; each one that is started has the next number.
        n_losses: How often it went away.
        note: Says something that is as good some milliseconds later; nothing while it is away.
        sums: Numbers that go with the next note, by name; ``None`` while it is away.
        numbers: Those that this process has not used.
    """

    def __init__(
        self,
        path: str,
        greet: Callable[[Callable[..., None]], None],
        on_message: Callable[[Message], None],
    ) -> None:
        self._path = path
        self._greet = greet
        self._on_message = on_message
        self._wire: Wire | None = None
        self._ended = asyncio.Event()
        self._welcomed = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.numbers = itertools.count(1)
        self._log = structlog.get_logger("tandem.cluster")
        self._is_ending = False
        self.is_up = False
        self.epoch = 0
        self.n_losses = 0
        self.note: Callable[..., None] = _into_the_air
        self.sums: dict[str, int] | None = None

    def tell(self, *message: Any) -> bool:
        """Says something; returns False and says nothing while the brain is away."""
        if not self.is_up or self._wire is None:
            return False
        self._wire.tell(*message)
        return True

    def ask(self, what: str, no: int, *more: Any) -> asyncio.Future[Any]:
        """Says something; returns its answer to come.

        It comes as an error if it is a refusal, or the brain goes away. Who stops waiting calls
        :meth:`leave`.

        Raises:
            BrainAway: It is away.
        """
        wire = self._wire
        if not self.is_up or wire is None:
            raise _away()
        wire.tell(what, no, *more)
        answer = self._answers[no] = asyncio.get_running_loop().create_future()
        return answer

    def leave(self, no: int) -> None:
        """Nobody waits for an answer any more: the brain takes back what it gives."""
        self._answers.pop(no, None)
        self.tell("cancel", no)

    async def welcomed(self, limit_s: float) -> bool:
        """Waits for the brain's first word; False: it did not come."""
        try:
            async with asyncio.timeout(limit_s):
                await self._welcomed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Keeps the connection up until cancelled."""
        while True:
            await self._connect()
            await asyncio.sleep(_RETRY_S)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._ended.clear()
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, wire = await loop.create_unix_connection(
                    lambda: Wire(self._hear, self._ended.set), self._path
                )
        except (OSError, TimeoutError):
            return
        self._wire = wire
        self._greet(wire.tell)
        try:
            while not self._ended.is_set():
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await self._ended.wait()
                except TimeoutError:
                    if loop.time() - wire.heard_s > SILENCE_S:
                        # We may have been busy ourselves: what it said is read in this pause.
                        await asyncio.sleep(_RETRY_S)
                        if loop.time() - wire.heard_s > SILENCE_S:
                            break
        except asyncio.CancelledError:
            self._is_ending = True
            raise
        finally:
            wire.abort()
            self._lose()

    def _hear(self, message: Message) -> None:
        what = message[0]
        if what == "answer":
            self._settle(message[1], message[2], None)
        elif what == "refuse":
            self._settle(message[1], None, message[2])
        elif what == "welcome":
            if message[1] < self.epoch:
                # An older brain that woke up again: somebody else decides by now.
                raise RuntimeError(f"brain {message[1]} after brain {self.epoch}")
            self.epoch = message[1]
            self.is_up = True
            if self._wire is not None:
                self.note, self.sums = self._wire.note, self._wire.sums
            self._on_message(message)
            self._welcomed.set()
            self._log.info("brain is there", epoch=self.epoch)
        else:
            self._on_message(message)

    def _settle(self, no: int, result: Any, error: Exception | None) -> None:
        answer = self._answers.pop(no, None)
        # Else who asked has left; the brain was told, and takes back what it gave.
        if answer is not None and not answer.done():
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

    def _lose(self) -> None:
        self._wire = None
        self.note, self.sums = _into_the_air, None
        if self.is_up:
            self.is_up = False
            self.n_losses += 1
            if not self._is_ending:
                self._log.warning("brain is away", epoch=self.epoch)
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(_away())


def _into_the_air(*_message: Any) -> None:
    """Nobody is there who could hear it."""


def _away() -> BrainAway:
    return BrainAway("The process that keeps the workers is away; try again.", retry_after_s=1)

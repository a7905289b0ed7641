"""The brain's side of deciding for all replicas: a door for their pipes, open while it may."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import structlog

from app.cluster.pipe_desk import PipeDesk
from app.cluster.sealed import Sealed, key_of
from app.scheduling.grant import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.cluster.ask_words import Wants
    from app.cluster.wire import Message
    from app.scheduling.grant import Grant
    from app.state.election import Seat

SAY_S = 0.1


class FarDesk(PipeDesk):
    """Serves a pipe of another replica, as long as this brain may."""

    def __init__(self, *parts: Any, may: Callable[[], bool]) -> None:
        super().__init__(*parts)
        self._may = may

    def _hear(self, message: Message) -> None:
        if self._may():
            super()._hear(message)
        else:
            self.wire.abort()

    def _grant(self, no: int, grant: Grant) -> None:
        if self._may():
            super()._grant(no, grant)
        else:
            # Somebody else decides by now.
            self._scheduler.done(grant, Outcome.CANCELLED)
            self.wire.abort()


class Leading:
    """Takes pipes of other replicas in while this brain decides for all.

    Args:
        listener: Listens already.
        secret: That of all replicas.

    Attributes:
        leader: Epoch and address of who decides for all; an empty address: nobody else does.
        on_change: Told when that is somebody else.
        wants: Returns what of prompts the scheduler needs.
    """

    def __init__(self, listener: socket.socket, secret: str) -> None:
        self._listener = listener
        self._secret = key_of(secret)
        self._desks: dict[FarDesk, bool] = {}
        """Each with whether it was welcomed."""
        self._epoch = 0
        self._end_s = 0.0
        self.leader: tuple[int, str] = (0, "")
        self.on_change: Callable[[], None] = lambda: None
        self.wants: Callable[[], Wants]
        self._log = structlog.get_logger("tandem.cluster")

    @property
    def is_leading(self) -> bool:
        """Decides for all at the moment."""
        return self._epoch > 0

    @property
    def n_pipes(self) -> int:
        """Pipes of other replicas that are served."""
        return sum(self._desks.values())

    async def serve(self, *parts: Any) -> None:
        """Keeps the door until cancelled; who comes while it may not is sent away.

        Args:
            parts: As of :class:`PipeDesk`, up to the task group.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: self._accept(*parts), sock=self._listener)
        try:
            while True:
                await asyncio.sleep(SAY_S)
                for desk, is_welcome in tuple(self._desks.items()):
                    if not self._may():
                        desk.wire.abort()
                    elif is_welcome:
                        desk.wire.tell("pulse", [], self.wants())
        finally:
            server.close()
            self._send_away()

    # As the candidate.

    def lead(self, epoch: int) -> None:
        """Decides for all from now on."""
        self._epoch = epoch
        self._change((epoch, ""))

    def may_until(self, end_s: float) -> None:
        """May do so until then, unless told another time."""
        self._end_s = end_s

    def follow(self, seat: Seat | None) -> None:
        """Decides for its own replica only; what the others' pipes hold is given back."""
        self._epoch = 0
        self._send_away()
        self._change((0, "") if seat is None else (seat.epoch, seat.address))

    def _change(self, leader: tuple[int, str]) -> None:
        if leader != self.leader:
            self.leader = leader
            self.on_change()

    # Pipes of other replicas.

    def _may(self) -> bool:
        return self._epoch > 0 and asyncio.get_running_loop().time() < self._end_s

    def _send_away(self) -> None:
        for desk in tuple(self._desks):
            desk.wire.abort()

    def _accept(self, *parts: Any) -> asyncio.Protocol:
        desk = FarDesk(*parts, self._on_call, self._on_end, may=self._may)
        self._desks[desk] = False
        return Sealed(desk.wire, self._secret, is_asked=True)

    def _on_call(self, desk: PipeDesk, message: Message) -> None:
        if message[0] == "hello" and isinstance(desk, FarDesk):
            desk.number = message[1]
            self._desks[desk] = True
            desk.wire.tell("welcome", self._epoch, self.wants())

    def _on_end(self, desk: PipeDesk) -> None:
        if isinstance(desk, FarDesk) and self._desks.pop(desk, False):
            self._log.info("pipe of another replica has left", epoch=self._epoch)

"""The scheduler of a pipe among several replicas: one brain decides for all, else its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from app.cluster.ask_words import words_of
from app.cluster.far_scheduler import FarScheduler, _leases
from app.cluster.link import BrainAway, Link
from app.cluster.sealed import dial, key_of
from app.scheduling.grant import Grant, Outcome

if TYPE_CHECKING:
    from app.cluster.ask_words import Wants
    from app.cluster.wire import Message, Wire
    from app.scheduling.grant import Ask
    from app.scheduling.solo import SoloGrant

TROUBLES = frozenset({"good", "bad", "full", "error", "probe", "cut"})
"""What is said of workers, and is worth to be known where it is decided."""


class LeadLink(Link):
    """A pipe's connection to the brain that decides for all replicas, if that is another one's.

    Args:
        secret: That of all replicas.

    Attributes:
        wants: What of a prompt that brain needs.
        scheduler: Tells it what this process holds.
    """

    def __init__(self, secret: str) -> None:
        super().__init__("", self._say_hello, self._take_note)
        self._secret = key_of(secret)
        self._leader = (0, "")
        self.wants: Wants
        self.scheduler: LedScheduler

    def follow(self, epoch: int, address: str) -> None:
        """Goes to another brain; no address: this replica's own decides."""
        if (epoch, address) == self._leader:
            return
        self._leader = epoch, address
        # What an earlier one still says is not heard any more.
        self.epoch = max(self.epoch, epoch)
        if self._wire is not None:
            self._wire.abort()

    async def _dial(self) -> Wire:
        _, address = self._leader
        host, _, port = address.rpartition(":")
        if not host:
            raise OSError("this replica's own brain decides")
        host = host.strip("[]")
        return await dial(host, int(port), self._secret, self._hear, self._ended.set)

    def _say_hello(self, tell: Any) -> None:
        tell("hello", 1)

    def _take_note(self, message: Message) -> None:
        if message[0] == "welcome":
            self.wants = message[2]
            self.scheduler.announce_to(self)
        elif message[0] == "pulse":
            self.wants = message[2]


class HomeLink(Link):
    """A pipe's connection to its replica's own brain; what troubles workers both are told.

    Args:
        lead: The other connection.
    """

    def __init__(self, *args: Any, lead: LeadLink) -> None:
        super().__init__(*args)
        self._lead = lead

    def _hear(self, message: Message) -> None:
        super()._hear(message)
        # What went well is told one by one, as here: two brains count it.
        self.sums = None

    def tell(self, *message: Any) -> bool:
        """Says something; returns False and says nothing while the own brain is away."""
        if message[0] in TROUBLES:
            self._lead.tell(*message)
        return super().tell(*message)


class LedScheduler(FarScheduler):
    """Asks the brain that decides for all, and tells both brains what becomes of it.

    Its own replica's brain keeps count of what its pipes hold, whoever granted it: it removes
    workers when they are empty, and decides at once when the other one is away.
    """

    def __init__(self, *args: Any, lead: LeadLink) -> None:
        super().__init__(*args)
        self._lead = lead
        lead.scheduler = self

    def announce_to(self, link: Link) -> None:
        """Tells a brain that has just come what this process holds."""
        for no, grant in self._held.items():
            link.note("held", no, _leases(grant))

    async def ask(self, ask: Ask) -> Grant:
        """Return a pair with leases taken.

        Raises:
            GatewayError: As the brain's scheduler, or the early one's.
        """
        lead = self._lead
        if lead.is_up:
            no = next(self._link.numbers)
            try:
                told = await lead.ask("ask", no, *words_of(ask, lead.wants))
                grant = self._take(no, ask, told)
            except BrainAway:
                # If it did grant something, that is worth nothing here.
                lead.note("done", no, Outcome.CANCELLED.value, None)
            except asyncio.CancelledError:
                lead.leave(no)
                raise
            else:
                self._link.note("held", no, _leases(grant))
                return grant
        grant = await super().ask(ask)
        lead.note("held", grant.note, _leases(grant))
        return grant

    def alone(self, ask: Ask, failure: Any = None) -> SoloGrant | None:
        """Return one worker that is to serve the request without prefill, chosen here."""
        grant = super().alone(ask, failure)
        if grant is not None:
            self._lead.note("held", grant.note, _leases(grant))
        return grant

    def done(self, grant: Grant | SoloGrant, outcome: Outcome) -> None:
        """Give all leases back; again is harmless."""
        no = grant.note
        super().done(grant, outcome)
        if isinstance(no, int):
            self._lead.note("done", no, outcome.value, grant.n_cached)

    def prefill_computed(self, grant: Grant) -> None:
        """Count prefill as no load any more; its worker keeps the KV cache until it has ended."""
        super().prefill_computed(grant)
        self._lead.note("computed", grant.note)

    def prefill_ended(self, grant: Grant) -> None:
        """Give the prefill lease back; again is harmless."""
        super().prefill_ended(grant)
        self._lead.note("prefilled", grant.note)

    def rebind_decode(self, grant: Grant, excluded: frozenset[str]) -> None:
        """Choose the grant's decode worker anew, if the brain's cannot be used any more.

        Raises:
            NoPairAvailable: There is none; the grant is as it was.
        """
        old = grant.pair.decode
        super().rebind_decode(grant, excluded)
        if grant.pair.decode is not old:
            self._lead.note("moved", grant.note, grant.pair.decode.id, grant.pair.decode_rank)

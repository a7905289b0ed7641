"""The door's counters are the sum of what is inside, whatever happens in whatever order."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from app.errors import GatewayFull, InvalidRequest
from app.middleware.door import Door, Ticket

MAX_IN_FLIGHT, MAX_BODY_BYTES = 6, 100


@dataclass
class Inside:
    """A request as the test counts it."""

    ticket: Ticket
    n: int = 1
    n_bytes: int = 0
    is_inside: bool = True


class DoorMachine(RuleBasedStateMachine):
    """Requests come, grow, shrink and leave."""

    inside = Bundle("inside")

    def __init__(self) -> None:
        super().__init__()
        self.door = Door(max_in_flight=MAX_IN_FLIGHT, max_body_bytes=MAX_BODY_BYTES)
        self.all: list[Inside] = []

    def n_now(self) -> int:
        """Answers by the test's own count."""
        return sum(entry.n for entry in self.all if entry.is_inside)

    def n_bytes_now(self) -> int:
        """Bytes by the test's own count."""
        return sum(entry.n_bytes for entry in self.all if entry.is_inside)

    @rule(target=inside)
    def come(self) -> Inside:
        """One more, if there is room; else one that was never inside."""
        assert self.door.has_room() == (self.n_now() < MAX_IN_FLIGHT)
        if not self.door.has_room():
            return Inside(Ticket(Door(max_in_flight=0, max_body_bytes=0)), is_inside=False)
        self.all.append(Inside(Ticket(self.door)))
        return self.all[-1]

    @rule(entry=inside, n_bytes=st.integers(0, 60))
    def read(self, entry: Inside, n_bytes: int) -> None:
        """A piece of body."""
        if not entry.is_inside:
            return
        fits = self.n_bytes_now() + n_bytes <= MAX_BODY_BYTES
        with suppress(GatewayFull):
            entry.ticket.expect_body(n_bytes)
            assert fits
        with suppress(GatewayFull):
            entry.ticket.add_body(n_bytes)
            assert fits
            entry.n_bytes += n_bytes

    @rule(entry=inside)
    def drop(self, entry: Inside) -> None:
        """The body is no longer needed."""
        entry.ticket.drop_body()
        entry.n_bytes = 0

    @rule(entry=inside, n=st.integers(1, 8))
    def count(self, entry: Inside, n: int) -> None:
        """It turns out to be several answers."""
        if not entry.is_inside or entry.n > 1:
            return
        fits = self.n_now() - 1 + n <= MAX_IN_FLIGHT
        with suppress(GatewayFull, InvalidRequest):
            entry.ticket.count(n, 1)
            assert fits
            entry.n = n

    @rule(entry=inside)
    def leave(self, entry: Inside) -> None:
        """Once or several times."""
        entry.ticket.leave()
        entry.is_inside = False

    @rule(entry=consumes(inside))
    def leave_for_good(self, entry: Inside) -> None:
        """And nobody asks again."""
        self.leave(entry)

    @invariant()
    def counters_are_the_sum(self) -> None:
        """And never above the limits."""
        assert (self.door.n_in_flight, self.door.n_body_bytes) == (self.n_now(), self.n_bytes_now())
        assert self.door.n_in_flight <= MAX_IN_FLIGHT
        assert self.door.n_body_bytes <= MAX_BODY_BYTES


TestDoor = DoorMachine.TestCase
TestDoor.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

"""How much is inside: requests that run, and the bytes of their bodies. Pure counters."""

from __future__ import annotations

from collections import Counter

from app.errors import GatewayFull, InvalidRequest
from app.middleware.rate_limit import RateLimit

RETRY_SPREAD_S = 3
"""Refused clients are told 1, 2, 3, 1, ... seconds: SMG's 2 in the mean, but not all at once."""


class Door:
    """Counts who is inside.

    Args:
        max_in_flight: Most answers that may be made at a time; 0 for no limit.
        max_body_bytes: Most body bytes of all requests inside together.

    Attributes:
        n_in_flight: Answers that are being made; a request with n choices is n.
        n_body_bytes: Body bytes of the requests inside.
        n_refused: Refusals for want of room.
        refused: All refusals at the door by code, those of the rate limits too.
    """

    __slots__ = (
        "_max_body_bytes",
        "max_in_flight",
        "n_body_bytes",
        "n_in_flight",
        "n_refused",
        "refused",
    )

    def __init__(self, *, max_in_flight: int, max_body_bytes: int) -> None:
        self.max_in_flight = max_in_flight
        self._max_body_bytes = max_body_bytes
        self.n_in_flight = 0
        self.n_body_bytes = 0
        self.n_refused = 0
        self.refused: Counter[str] = Counter()

    def has_room(self, n: int = 1) -> bool:
        """Whether so many more may come in."""
        return not self.max_in_flight or self.n_in_flight + n <= self.max_in_flight

    def has_room_for_body(self, n_bytes: int) -> bool:
        """Whether so many more bytes may be held."""
        return self.n_body_bytes + n_bytes <= self._max_body_bytes

    def full(self, what: str) -> GatewayFull:
        """Returns the refusal of somebody for whom there is no room."""
        self.n_refused += 1
        return GatewayFull(
            f"The gateway is full: {what}. Try again.",
            retry_after_s=1 + self.n_refused % RETRY_SPREAD_S,
        )


class Ticket:
    """What one request takes up; :meth:`leave` gives all of it back, once.

    Args:
        door: Where it came in; the caller has looked whether there is room.
        rate: The limit that its further answers count for.
        key: Whose request it is.
    """

    __slots__ = ("_door", "_is_inside", "_key", "_n", "_n_body_bytes", "_rate")

    def __init__(self, door: Door, rate: RateLimit | None = None, key: str = "") -> None:
        self._door = door
        self._rate = rate
        self._key = key
        self._n = 1
        self._n_body_bytes = 0
        self._is_inside = True
        door.n_in_flight += 1

    def expect_body(self, n_bytes: int) -> None:
        """Looks whether a body of the announced length could be held.

        Nothing is set aside for it: announcing costs nothing, so it must give nothing.

        Raises:
            GatewayFull: It could not.
        """
        if not self._door.has_room_for_body(n_bytes):
            raise self._no_room_for_body()

    def add_body(self, n_bytes: int) -> None:
        """Counts body bytes that are here.

        Raises:
            GatewayFull: They are too many.
        """
        if not self._door.has_room_for_body(n_bytes):
            raise self._no_room_for_body()
        self._door.n_body_bytes += n_bytes
        self._n_body_bytes += n_bytes

    def drop_body(self) -> None:
        """The body is no longer held."""
        self._door.n_body_bytes -= self._n_body_bytes
        self._n_body_bytes = 0

    def _no_room_for_body(self) -> GatewayFull:
        return self._door.full("the bodies of all running requests together are too large")

    def count(self, n_choices: int, n_prompts: int) -> None:
        """Counts what turned out to be more than one answer.

        Each choice is a pair of legs of its own here, so it takes up a place. A list of prompts
        goes to a worker as one body and is one place; the rate limit counts its prompts too.

        Raises:
            InvalidRequest: There are more choices than may run at a time.
            GatewayFull: There are not so many places left.
        """
        door = self._door
        if n_choices > 1:
            if door.max_in_flight and n_choices > door.max_in_flight:
                raise InvalidRequest(
                    f"n is at most {door.max_in_flight} here: so many answers are made at a time.",
                    param="n",
                )
            if not door.has_room(n_choices - 1):
                raise door.full("it has no room for so many choices")
            door.n_in_flight += n_choices - 1
            self._n = n_choices
        if self._rate is not None and n_choices * n_prompts > 1:
            self._rate.take(self._key, n_choices * n_prompts - 1)

    def leave(self) -> None:
        """Gives everything back; only the first call counts."""
        if self._is_inside:
            self._is_inside = False
            self._door.n_in_flight -= self._n
            self.drop_body()

"""The states of a worker, and what each event makes of each: one pure table.

Registry, health loop and drain act by it and by nothing else. An event that is not in the table
for a state changes nothing there: a probe that fails while the worker drains is no news.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(StrEnum):
    """Where a worker stands; only ``READY`` workers get requests."""

    JOINING = "joining"
    """Known by its URL, not yet asked what it serves; has never had a request."""
    READY = "ready"
    """Answered its registration and its probes."""
    UNHEALTHY = "unhealthy"
    """Was ready, then failed its probes or a connect; still probed."""
    DRAINING = "draining"
    """Finishes what it has, gets nothing new, is about to be removed."""
    GONE = "gone"
    """Removed; an object that is only held by what still runs."""


class Event(StrEnum):
    """What can happen to a worker."""

    JOINED = "joined"
    """It answered its probe and its registration."""
    UNREGISTERED = "unregistered"
    """It was asked what it serves, and could not be used."""
    PROBES_FAILED = "probes failed"
    """As many probes in a row as make it unhealthy."""
    CUT_OFF = "cut off"
    """A request could not connect to it."""
    RECOVERED = "recovered"
    """Its probes are good again, and it was registered anew."""
    REMOVAL = "removal"
    """The operator, or the rule for workers that stay unhealthy, wants it out."""
    EMPTIED = "emptied"
    """Nothing of this gateway is left on it."""
    EXPIRED = "expired"
    """The time for draining is over, and what still ran on it was ended."""
    FORCED = "forced"
    """What ran on it was ended because the operator would not wait."""


class Move(NamedTuple):
    """What an event makes of a state.

    Attributes:
        state: The state from then on, maybe the same.
        reason: Why, as a clause; details of the case are put after it.
    """

    state: State
    reason: str


TABLE: Mapping[tuple[State, Event], Move] = MappingProxyType(
    {
        (State.JOINING, Event.JOINED): Move(State.READY, "registered"),
        (State.JOINING, Event.UNREGISTERED): Move(State.JOINING, "not registered yet"),
        # It never had a request, so there is nothing to drain.
        (State.JOINING, Event.REMOVAL): Move(State.GONE, "removed before it was ready"),
        (State.READY, Event.UNREGISTERED): Move(State.UNHEALTHY, "cannot be registered anew"),
        (State.READY, Event.PROBES_FAILED): Move(State.UNHEALTHY, "failed its probes"),
        (State.READY, Event.CUT_OFF): Move(State.UNHEALTHY, "could not be connected to"),
        (State.READY, Event.REMOVAL): Move(State.DRAINING, "draining"),
        (State.UNHEALTHY, Event.UNREGISTERED): Move(State.UNHEALTHY, "cannot be registered anew"),
        (State.UNHEALTHY, Event.RECOVERED): Move(State.READY, "recovered"),
        (State.UNHEALTHY, Event.REMOVAL): Move(State.DRAINING, "draining"),
        (State.DRAINING, Event.EMPTIED): Move(State.GONE, "drained"),
        (State.DRAINING, Event.EXPIRED): Move(State.GONE, "removed at the end of its drain time"),
        (State.DRAINING, Event.FORCED): Move(State.GONE, "removed by force"),
    }
)
"""There is no way out of GONE, and none back from DRAINING: neither SMG 1.13 nor any of its peers
has one, and whoever asked for the removal may have stopped the engine already."""


class WrongMove(ValueError):
    """A state change that no event of the table makes."""


def step(state: State, event: Event) -> Move | None:
    """Return what the event makes of the state; None: nothing."""
    return TABLE.get((state, event))


def check_move(old: State, new: State) -> None:
    """Let a move pass that some event of the table makes; staying always passes.

    Raises:
        WrongMove: There is no such event.
    """
    if old is not new and not any(
        source is old and move.state is new for (source, _), move in TABLE.items()
    ):
        raise WrongMove(f"A worker that is {old} cannot become {new}.")

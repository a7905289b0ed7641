"""The states of a worker and the moves between them."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(StrEnum):
    """Where a worker stands; only ``READY`` workers get requests."""

    JOINING = "joining"
    """Known by its URL, not yet asked what it serves."""
    READY = "ready"
    """Answered its registration and its probes."""
    UNHEALTHY = "unhealthy"
    """Was ready, then failed its probes or a connect; still probed."""
    DRAINING = "draining"
    """Finishes what it has, gets nothing new, is about to be removed."""
    GONE = "gone"
    """Removed; an object that is only held by what still runs."""


MOVES: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.JOINING: frozenset({State.READY, State.UNHEALTHY, State.DRAINING, State.GONE}),
        State.READY: frozenset({State.JOINING, State.UNHEALTHY, State.DRAINING, State.GONE}),
        State.UNHEALTHY: frozenset({State.JOINING, State.READY, State.DRAINING, State.GONE}),
        State.DRAINING: frozenset({State.GONE}),
        State.GONE: frozenset(),
    }
)
"""For every state the states it may turn into. ``JOINING`` again means: ask it anew."""


class WrongMove(ValueError):
    """A state change that the table does not have."""


def may_move(old: State, new: State) -> bool:
    """Tell whether ``old`` may become ``new``; staying is always allowed."""
    return old is new or new in MOVES[old]


def check_move(old: State, new: State) -> None:
    """Let a move of the table pass.

    Raises:
        WrongMove: The table has no such move.
    """
    if not may_move(old, new):
        raise WrongMove(f"A worker that is {old} cannot become {new}.")

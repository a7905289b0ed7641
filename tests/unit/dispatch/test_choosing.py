"""Who is asked for first, and who when that fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from app.dispatch.pd_router import PDRouter
from app.errors import CapacityError, GatewayError, NoPairAvailable, UnknownModel


class Scripted:
    """A scheduler that does as it was told, and notes what it was asked."""

    def __init__(self, pair: object, *alone: object) -> None:
        self._pair = pair
        self._alone = list(alone)
        self.asked: list[object] = []

    def alone(self, ask: object, failure: GatewayError | None = None) -> object:
        """The next of what was given."""
        del ask
        self.asked.append(failure)
        return self._alone.pop(0)

    async def ask(self, ask: object) -> object:
        """The pair, or why there is none."""
        del ask
        self.asked.append("pair")
        if isinstance(self._pair, Exception):
            raise self._pair
        return self._pair


async def choose(scheduler: Scripted) -> object:
    """What the router takes."""
    fakes: Any = SimpleNamespace(scheduler=scheduler, facts=None, standing=None, token_ids=None)
    router = PDRouter(
        tools=fakes,
        token_tools=fakes,
        texts=fakes,
        blame=fakes,
        rules=fakes,
        budget=fakes,
        standings=fakes,
        now_s=fakes,
        aliases={},
    )
    return await router.choose(fakes, frozenset())


async def test_one_worker_before_a_pair() -> None:
    """Where there is to be one, no pair is looked for."""
    scheduler = Scripted("pair", "solo")
    assert await choose(scheduler) == "solo"
    assert scheduler.asked == [None]


async def test_pair_where_nobody_is_to_serve_alone() -> None:
    """The usual way."""
    scheduler = Scripted("pair", None)
    assert await choose(scheduler) == "pair"
    assert scheduler.asked == [None, "pair"]


@pytest.mark.parametrize(
    "failure", [NoPairAvailable("none"), CapacityError("full", code="queue_full")]
)
async def test_one_worker_instead_of_a_pair(failure: CapacityError) -> None:
    """It is told why there is no pair; without it that is the error."""
    scheduler = Scripted(failure, None, "solo")
    assert await choose(scheduler) == "solo"
    assert scheduler.asked == [None, "pair", failure]
    with pytest.raises(CapacityError) as caught:
        await choose(Scripted(failure, None, None))
    assert caught.value is failure


async def test_unknown_model_is_nobodys() -> None:
    """No worker takes what no worker serves."""
    scheduler = Scripted(UnknownModel("?"), None)
    with pytest.raises(UnknownModel):
        await choose(scheduler)
    assert scheduler.asked == [None, "pair"]

"""How an engine is made to end a generation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from app.upstream import vllm_ending


class Engine:
    """A worker that hears the n-th abort."""

    def __init__(self, hears: int) -> None:
        self.aborts: list[Sequence[str]] = []
        self.ended = asyncio.Event()
        self._hears = hears

    async def abort(self, ids: Sequence[str]) -> int:
        """Notes it."""
        self.aborts.append(ids)
        if len(self.aborts) == self._hears:
            self.ended.set()
        return 1


async def end(engine: Engine) -> float:
    """Has it end a generation; returns the seconds it took."""
    faked: Any = engine
    # The clock that timers go by; uvloop's has whole milliseconds.
    now_s = asyncio.get_running_loop().time
    began_s = now_s()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(engine.ended.wait())
        await vllm_ending.end(faked, reading, "r")
        took_s = now_s() - began_s
        reading.cancel()
    return took_s


@pytest.mark.parametrize("hears", [1, 3])
async def test_aborts_until_it_is_heard(hears: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that came before its request was ignored; one that was heard is the last."""
    monkeypatch.setattr(vllm_ending, "ABORT_AGAIN_S", 0.02)
    engine = Engine(hears)
    await end(engine)
    assert engine.aborts == [["r"]] * hears


async def test_what_has_ended_is_left_alone() -> None:
    """No abort at all."""
    engine = Engine(0)
    engine.ended.set()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(engine.ended.wait())
        await asyncio.sleep(0)
        faked: Any = engine
        await vllm_ending.end(faked, reading, "r")
    assert engine.aborts == []


async def test_deaf_engine_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, and without an error."""
    monkeypatch.setattr(vllm_ending, "ABORT_AGAIN_S", 0.02)
    monkeypatch.setattr(vllm_ending, "ENDING_S", 0.1)
    engine = Engine(10_000)
    # uvloop's timers count whole milliseconds.
    assert await end(engine) >= 0.099
    assert len(engine.aborts) > 1

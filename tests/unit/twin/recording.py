"""A twin that writes down what its gateway's flight recorder would."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

from app.scheduling.scheduler import Grant
from app.twin.fleet import FleetShape, TwinFleet, _Run
from app.twin.report import Figures
from app.twin.trace import Row
from app.twin.virtual_time import VirtualTimeLoop

BEFORE_S, CONNECT_S = 0.004, 0.001
"""Mean times of reading a body and of reaching the prefill worker."""
EPOCH_S = 1_700_000_000.0


class RecordingFleet(TwinFleet):
    """Makes the times before the scheduler is asked and before prefill is sent random."""

    def __init__(self, shape: FleetShape, router: str) -> None:
        super().__init__(shape, router)
        self.lines: list[str] = []
        self._luck = random.Random(1)
        self._flights: dict[Any, dict[str, Any]] = {}

    async def _request(self, number: int, row: Row, run: _Run) -> None:
        arrived_s = self._now_s()
        await asyncio.sleep(self._luck.expovariate(1 / BEFORE_S))
        one = _Run()
        flight: dict[str, Any] = {
            "arrived_unix_s": EPOCH_S + arrived_s,
            "first_asked_s": self._now_s() - arrived_s,
            "n_estimated": row.n_prompt,
            "n_completion": row.n_output,
            "hash_ids": [block + 7_000_000 for block in row.blocks],
            "model": "m",
            "stream": True,
            "attempts": 1,
            "outcome": "ok",
        }
        self._flights[asyncio.current_task()] = flight
        await super()._request(number, row, one)
        flight["first_s"] = flight["first_asked_s"] + one.ttft_s[0]
        flight["last_s"] = self._now_s() - arrived_s
        run.ttft_s.append(flight["first_s"])
        self.lines.append(json.dumps(flight))

    async def _legs(self, grant: Grant, *rest: Any) -> None:
        flight = self._flights[asyncio.current_task()]
        arrived_s = flight["arrived_unix_s"] - EPOCH_S
        flight["granted_s"] = self._now_s() - arrived_s
        await asyncio.sleep(self._luck.expovariate(1 / CONNECT_S))
        flight["prefill_sent_s"] = self._now_s() - arrived_s
        flight["prefill"] = grant.pair.prefill.spec.url
        flight["decode"] = grant.pair.decode.spec.url
        await super()._legs(grant, *rest)


def record(path: Path, rows: list[Row], shape: FleetShape, router: str) -> Figures:
    """Plays rows and writes the record, in the order in which requests ended."""

    async def play() -> Figures:
        fleet = RecordingFleet(shape, router)
        figures = await fleet.play(rows, lambda _share: None)
        lines.extend(fleet.lines)
        return figures

    lines: list[str] = []
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        figures = runner.run(play())
    path.write_text("\n".join(lines) + "\n")
    return figures

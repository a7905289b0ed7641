"""One request and one word of load, in the shapes in which the twin hands them on."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace
from typing import Any

from app.protocol.facts import RequestFacts, peek
from app.protocol.routes import Route
from app.sim.jobs import Job
from app.sim.text import Prompt

_FACTS = peek(Route.GENERATE, b'{"text":"x"}')


def load_row(load: dict[str, Any]) -> dict[str, Any]:
    """The engine's numbers in the shape of its own answer."""
    bootstrapping = load.pop("prefill_bootstrap_queue_reqs")
    return {**load, "dp_rank": 0, "disaggregation": {"prefill_bootstrap_queue_reqs": bootstrapping}}


def job(room: int, place: int, ids: tuple[int, ...], n_max: int) -> Job:
    """A leg of a request."""
    return Job(
        rid=f"r{room}",
        room=room,
        prompt=Prompt("", ids),
        n_max=n_max,
        bell=asyncio.Event(),
        host="twin",
        port=place,
        ignore_eos=True,
    )


def facts_of(ids: tuple[int, ...], n_output: int) -> RequestFacts:
    """What the scheduler is told of a request."""
    return replace(
        _FACTS,
        model="model",
        prompt_key=struct.pack(f"<{len(ids)}I", *(i & 0xFFFFFFFF for i in ids)),
        n_prompt_tokens=len(ids),
        max_tokens=n_output,
    )

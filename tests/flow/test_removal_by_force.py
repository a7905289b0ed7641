"""Workers whose time is up: what runs on them ends with an error that names the leg."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.flow.fleet import COMPLETIONS, Fleet, Got, body_of, until
from tests.flow.kinds import KINDS, ROLES, fleet_of, is_busy, remove, until_gone

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
SOON_S = 2.0
"""Far less than what runs would take, and than the drain's own limit."""
LONG_PREFILL: dict[str, Any] = {"lead_s": 30.0}
LONG_DECODE: dict[str, Any] = {"decode_step_s": 0.05}


async def ended(fleet: Fleet, worker: Any, role: str, query: str, **body: Any) -> tuple[Got, str]:
    """Asks for a long answer, and removes a worker when it is at it; returns both ends."""
    whys: list[str] = []

    async def take_away() -> None:
        other = fleet.decodes[0] if role == "decode" else fleet.prefills[0]
        await until(lambda: is_busy(worker) and is_busy(other))
        if role == "decode":
            await until(lambda: worker.generated_tokens >= 2)
        began_s = time.monotonic()
        path = await remove(fleet, worker, query)
        whys.append(await until_gone(fleet, path))
        assert time.monotonic() - began_s < SOON_S

    asking = fleet.ask(COMPLETIONS, body_of(COMPLETIONS, n_tokens=500, **body))
    return await fleet.during(asking, take_away()), whys[0]


@KINDS
@ROLES
@BOTH
async def test_force_ends_what_runs(
    stack: AsyncExitStack, model: Path, kind: str, role: str, stream: bool
) -> None:
    """503, or one error event after whole events; the other leg ends too, and nobody pays."""
    slow = {"prefill": (LONG_PREFILL, None), "decode": (None, LONG_DECODE)}[role]
    fleet, _ = await fleet_of(stack, kind, model, prefill=slow[0], decode=slow[1])
    worker = (fleet.prefills if role == "prefill" else fleet.decodes)[0]
    live = fleet.live(worker)
    got, why = await ended(fleet, worker, role, "?force=true", stream=stream)
    assert (got.error["leg"], got.error["code"]) == (role, "worker_removed")
    assert got.error["message"] == f"the {role} worker was removed before the request had ended"
    assert got.is_stream is (stream and role == "decode")
    if not got.is_stream:
        assert (got.status, got.headers["retry-after"]) == (503, "1")
    assert why.startswith("removed by force: ")
    await fleet.settle()
    assert fleet.charged == []
    assert live.breaker.is_closed
    assert (live.n_leases, live.n_held) == (0, 0)


@KINDS
async def test_deadline_ends_what_runs(stack: AsyncExitStack, model: Path, kind: str) -> None:
    """The stream goes on up to the deadline, then ends with an error event, not a cut."""
    fleet, _ = await fleet_of(stack, kind, model, decode=LONG_DECODE)
    got, why = await ended(fleet, fleet.decodes[0], "decode", "?timeout_s=0.4", stream=True)
    assert (got.error["leg"], got.error["code"]) == ("decode", "worker_removed")
    # Two before the removal, and about eight in 0.4 s.
    assert len(got.events) >= 5
    assert why == "removed at the end of its drain time: 1 ended."
    assert fleet.charged == []


async def test_default_deadline_is_the_operators(stack: AsyncExitStack, model: Path) -> None:
    """``--drain-timeout-secs``."""
    fleet, _ = await fleet_of(stack, "sglang", model, decode=LONG_DECODE, drain_timeout_secs=0.1)
    got, why = await ended(fleet, fleet.decodes[0], "decode", "", stream=True)
    assert got.error["code"] == "worker_removed"
    assert why.startswith("removed at the end of its drain time")


@KINDS
async def test_several_choices_end_together(stack: AsyncExitStack, model: Path, kind: str) -> None:
    """One error for all of them."""
    fleet, _ = await fleet_of(stack, kind, model, decode=LONG_DECODE)
    got, _ = await ended(fleet, fleet.decodes[0], "decode", "?force=true", stream=True, n=3)
    assert (got.error["leg"], got.error["code"]) == ("decode", "worker_removed")


@pytest.mark.parametrize("kind", ["sglang", "mooncake"])
async def test_other_requests_go_on(stack: AsyncExitStack, model: Path, kind: str) -> None:
    """Only what ran on the removed worker ends; what ran on another does not notice."""
    fleet, _ = await fleet_of(stack, kind, model, n_decodes=2, decode=LONG_DECODE)
    body = body_of(COMPLETIONS, stream=True, n_tokens=30)

    async def force() -> None:
        await until(lambda: all(w.n_active == 2 and w.generated_tokens >= 6 for w in fleet.decodes))
        await until_gone(fleet, await remove(fleet, fleet.decodes[0], "?force=true"))

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(fleet.ask(COMPLETIONS, body)) for _ in range(4)]
        await force()
    got = [task.result() for task in asked]
    cut = [answer for answer in got if answer.events[-1] != "[DONE]"]
    assert [answer.error["code"] for answer in cut] == ["worker_removed"] * 2


async def test_request_that_was_not_sent_goes_elsewhere(stack: AsyncExitStack, model: Path) -> None:
    """NIXL: its decode worker is removed by force during prefill, and another one takes it."""
    fleet, _ = await fleet_of(stack, "nixl", model, n_decodes=2, prefill={"lead_s": 0.3})

    async def force() -> None:
        await until(lambda: is_busy(fleet.prefills[0]))
        chosen = next(w for w in fleet.decodes if fleet.live(w).n_leases)
        await until_gone(fleet, await remove(fleet, chosen, "?force=true"))

    got = await fleet.during(fleet.ask(COMPLETIONS, body_of(COMPLETIONS)), force())
    assert got.status == 200

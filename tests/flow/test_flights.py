"""The flight recorder of a running gateway."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import sim_pair
from tests.flow.fleet import CHAT, GENERATE, Fleet, body_of, serving, until


async def lines(fleet: Fleet, path: str) -> list[dict[str, Any]]:
    answer = await fleet.http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_requests_are_recorded(fleet: Fleet) -> None:
    """Times, tokens and pair of each, the latest last; a trace of those that had a pair."""
    await fleet.ask(CHAT, body_of(CHAT, stream=True))
    await fleet.ask(GENERATE, body_of(GENERATE, n_tokens=6))
    await fleet.ask(GENERATE, b"{")
    await until(lambda: len(fleet.gateway.recorder) == 3)
    chat, whole, broken = await lines(fleet, "/flights")
    assert [one["outcome"] for one in (chat, whole, broken)] == ["ok", "ok", "invalid_json"]
    assert chat["stream"]
    assert chat["prefill"] == fleet.prefills[0].url
    assert (whole["n_completion"], whole["status"]) == (6, 200)
    assert 0 < whole["granted_s"] <= whole["prefill_ended_s"] <= whole["first_s"]
    assert "two three" not in json.dumps([chat, whole, broken])
    assert [one["request_id"] for one in await lines(fleet, "/flights?last=1")] == [
        broken["request_id"]
    ]
    trace = await lines(fleet, "/flights/trace")
    assert [row["output_length"] for row in trace] == [trace[0]["output_length"], 6]
    assert [len(row["hash_ids"]) for row in trace] == [1, 1]
    assert trace[0]["hash_ids"] != trace[1]["hash_ids"]


@pytest.mark.parametrize("n_mib", [0, 1])
async def test_it_can_be_turned_off(stack: AsyncExitStack, n_mib: int) -> None:
    prefill, decode = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(serving([prefill], [decode], recorder_mib=n_mib))
    for _ in range(2):
        await fleet.ask(CHAT, body_of(CHAT))
    await until(lambda: sum(fleet.gateway.metrics.meters.requests.values()) == 2)
    assert len(await lines(fleet, "/flights")) == 2 * n_mib


async def test_the_last_minutes(stack: AsyncExitStack) -> None:
    """One object has the fleet, the flows, the percentiles and the latest requests."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(serving([prefill], [decode], prefill_queue="on"))
    for _ in range(3):
        await fleet.ask(CHAT, body_of(CHAT, stream=True))
    await until(lambda: len(fleet.gateway.recorder) == 3)
    view = (await fleet.http.get("/flights/live?window_s=60")).json()
    assert [(w["url"], w["state"]) for w in view["workers"]] == [
        (prefill.url, "ready"),
        (decode.url, "ready"),
    ]
    assert view["flows"] == [{"prefill": prefill.url, "decode": decode.url, "requests": 3}]
    assert view["workers"][0]["requests"] == {"ok": 3, "failed": 0, "ended": 0}
    assert view["percentiles"]["ttft_s"]["n"] == 3
    assert (view["queue"]["n_waiting"], view["outcomes"]) == (0, {"ok": 3})
    assert {"prefill", "first_token"} <= {name for name, _ in view["recent"][0]["phases"]}


async def test_the_file_has_the_last_moments_too(tmp_path: Path) -> None:
    """What was not written yet is written as the gateway ends."""
    path = tmp_path / "flights.jsonl"
    async with AsyncExitStack() as stack:
        prefill, decode = await stack.enter_async_context(sim_pair())
        fleet = await stack.enter_async_context(
            serving([prefill], [decode], recorder_file=str(path))
        )
        await fleet.ask(CHAT, body_of(CHAT))
        assert path.read_text() == ""
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["prefill"] == prefill.url

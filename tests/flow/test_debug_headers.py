"""``x-tandem-debug``: who is told what about a request."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim import sim_pair
from tests.flow.fleet import CHAT, Fleet, Got, body_of, serving

SHARED, TENANT, ADMIN = "shared-key-0", "tenant-key-0", "admin-key-00"
TOLD = ("server-timing", "x-tandem-pair")


async def fleet_with(stack: AsyncExitStack, **settings: Any) -> Fleet:
    prefill, decode = await stack.enter_async_context(sim_pair(api_key=settings.get("api_key")))
    return await stack.enter_async_context(serving([prefill], [decode], **settings))


def told(got: Got) -> list[str]:
    return [name for name in TOLD if name in got.headers]


def timing(got: Got) -> dict[str, float]:
    entries = [entry.split(";dur=") for entry in got.headers["server-timing"].split(", ")]
    return {name: float(ms) for name, ms in entries}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_times_and_pair(stack: AsyncExitStack, stream: bool) -> None:
    """The phases add up to the total; everybody is told ids of workers, not addresses."""
    fleet = await fleet_with(stack, debug_headers="on")
    asked = {"x-tandem-debug": "1"}
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream), **asked)
    spent = timing(got)
    assert {"queue", "prefill", "first_token"} <= spent.keys()
    assert sum(spent.values()) == pytest.approx(2 * spent["total"], abs=0.01)
    ids = [fleet.live(worker).id for worker in fleet.workers]
    assert got.headers["x-tandem-pair"] == f'prefill="{ids[0]}", decode="{ids[1]}"'
    assert "127.0.0.1" not in got.headers["x-tandem-pair"]
    # Nobody else is told, and no worker hears of it.
    assert told(await fleet.ask(CHAT, body_of(CHAT, stream=stream))) == []
    assert not [h for worker in fleet.workers for h in worker.seen[0].headers if "debug" in h]


async def test_errors_tell_it_too(stack: AsyncExitStack) -> None:
    fleet = await fleet_with(stack)
    await fleet.decodes[0].kill()
    got = await fleet.ask(CHAT, body_of(CHAT), **{"x-tandem-debug": "true"})
    assert got.status == 502
    assert {"prepare", "total"} <= timing(got).keys()
    assert fleet.prefills[0].url in got.headers["x-tandem-pair"]


@pytest.mark.parametrize(
    ("settings", "key", "value", "is_told"),
    [
        ({"debug_headers": "off"}, None, "1", False),
        ({"debug_headers": "on", "api_key": SHARED}, SHARED, "1", True),
        ({"api_key": SHARED}, SHARED, "1", True),
        ({}, None, "0", False),
        ({"tenant_api_key": f"t:{TENANT}"}, TENANT, "1", False),
        ({"tenant_api_key": f"t:{TENANT}", "debug_headers": "on"}, TENANT, "1", True),
        ({"control_plane_api_keys": f"o:O:user:{ADMIN}"}, None, "1", False),
        ({"control_plane_api_keys": f"o:O:user:{ADMIN}"}, ADMIN, "1", True),
        ({"control_plane_api_keys": f"o:O:admin:{ADMIN}"}, None, ADMIN, True),
        ({"control_plane_api_keys": f"o:O:admin:{ADMIN}"}, None, ADMIN + "x", False),
    ],
)
async def test_who_is_told(
    stack: AsyncExitStack, settings: dict[str, str], key: str | None, value: str, is_told: bool
) -> None:
    """Who may read the control plane, by the request's key or by one in the header."""
    fleet = await fleet_with(stack, **settings)
    headers = {"x-tandem-debug": value}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    got = await fleet.ask(CHAT, body_of(CHAT), **headers)
    assert got.status == 200
    assert told(got) == (list(TOLD) if is_told else [])

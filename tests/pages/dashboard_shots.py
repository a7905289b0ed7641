"""Makes the pictures of the dashboard: ``python -m tests.pages.dashboard_shots docs/images``.

A gateway before a simulated fleet under load, one prefill worker of which is slow: three streams
of four share a beginning, now and then a worker refuses. After a minute the page is taken, light
and dark, and as a phone shows it. Needs Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from playwright.async_api import Browser

from app.sim import SglangSim
from app.sim.config import SimConfig
from app.sim.faults import Fault, FaultKind
from tests.flow.chromium import browser, find_chromium, watched_page
from tests.flow.fleet import CHAT, Fleet, body_of, serving

SHOTS = (
    ("dashboard-light", 1360, 1010, False, None),
    ("dashboard-dark", 1360, 1010, True, None),
    ("dashboard-requests", 1360, 1010, False, "#workers-title"),
    ("dashboard-phone", 390, 844, False, None),
)
_PACE: dict[str, Any] = {
    "lead_s": 0.03,
    "decode_step_s": 0.012,
    "transfer_s_per_token": 4e-6,
    "chunk_tokens": 512,
}
PREFILLS = (2_600.0, 2_600.0, 1_500.0)
"""Tokens a second."""
N_DECODES = 3


async def traffic(fleet: Fleet, requests_per_s: float) -> None:
    """Sends streams at random times until it is cancelled."""
    chance = random.Random(7)
    beginnings = [f"Conversation {n}. " + "word " * 900 for n in range(12)]
    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(chance.expovariate(requests_per_s))
            beginning = chance.choice(beginnings) if chance.random() < 0.75 else ""
            text = beginning + f"{chance.random()} " * chance.randint(20, 160)
            if chance.random() < 0.01:
                refuse = Fault(kind=FaultKind.REFUSE, status=500)
                chance.choice([*fleet.prefills, *fleet.decodes[:1]]).faults.add(refuse)
            body = body_of(CHAT, stream=True, n_tokens=chance.randint(20, 120))
            body["messages"] = [{"role": "user", "content": text}]
            group.create_task(_ask(fleet, body))


async def _ask(fleet: Fleet, body: dict[str, object]) -> None:
    async with fleet.http.stream("POST", CHAT, json=body, timeout=60) as answer:
        async for _ in answer.aiter_raw():
            pass


async def take(running: Browser, url: str, folder: Path) -> list[str]:
    """Takes every picture; returns what the pages complained of."""
    complaints: list[str] = []
    for name, width, height, is_dark, beginning in SHOTS:
        async with watched_page(running, width=width, height=height, is_dark=is_dark) as watched:
            await watched.page.goto(url)
            await watched.page.select_option("#window", "60")
            await watched.page.wait_for_selector("#recent li")
            await asyncio.sleep(3)
            if beginning is not None:
                await watched.page.click("#pause")
                await watched.page.click("#recent li:nth-child(2) summary")
                place = watched.page.locator(beginning)
                await place.evaluate("node => scrollBy(0, node.getBoundingClientRect().top - 80)")
            await watched.page.screenshot(path=folder / f"{name}.png")
            complaints += watched.complaints
    return complaints


async def _fleet(stack: AsyncExitStack) -> Fleet:
    worker = SimConfig(enable_cache_report=True, page_size=16, disconnect_notice_s=0.2, **_PACE)
    prefills = [
        await stack.enter_async_context(SglangSim(replace(worker, prefill_tokens_per_s=rate)))
        for rate in PREFILLS
    ]
    decodes = [
        await stack.enter_async_context(SglangSim(replace(worker, role="decode")))
        for _ in range(N_DECODES)
    ]
    more: dict[str, Any] = {"prefill_queue": "on", "cb_failure_threshold": 9}
    return await stack.enter_async_context(serving(prefills, decodes, **more))


async def run(folder: Path, load_s: float, requests_per_s: float) -> int:
    """Runs the fleet, the traffic and the browser."""
    path = find_chromium()
    if path is None:
        sys.stderr.write("There is no Chromium here.\n")
        return 2
    async with AsyncExitStack() as stack:
        fleet = await _fleet(stack)
        running = await stack.enter_async_context(browser(path))
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(traffic(fleet, requests_per_s))
            await asyncio.sleep(load_s)
            complaints = await take(running, f"{fleet.http.base_url}/dashboard", folder)
            sending.cancel()
        await fleet.http.aclose()
    sys.stderr.writelines(f"{line}\n" for line in complaints)
    return 1 if complaints else 0


def main() -> int:
    """Reads the command line."""
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("folder", type=Path)
    words.add_argument("--load-s", type=float, default=58.0, help="seconds of traffic before")
    words.add_argument("--requests-per-s", type=float, default=13.0)
    asked = words.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    return asyncio.run(run(asked.folder, asked.load_s, asked.requests_per_s))


if __name__ == "__main__":
    sys.exit(main())

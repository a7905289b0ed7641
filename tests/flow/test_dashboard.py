"""The page at /dashboard, as a browser gets it and as the gateway serves it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from app.api.dashboard import STATIC_DIR
from app.sim import sim_pair
from app.workers.states import State
from tests.flow.chromium import browser, find_chromium, watched_page
from tests.flow.fleet import CHAT, Fleet, body_of, serving, until

ADMIN = "sk-dashboard-admin"
HAS_COLOUR = """
([red, green, blue]) => {
  const canvas = document.querySelector("#ttft-chart canvas");
  if (!canvas?.width) return false;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < data.length; at += 4) {
    const isSame = data[at] === red && data[at + 1] === green && data[at + 2] === blue;
    if (isSame && data[at + 3]) return true;
  }
  return false;
}
"""
"""Whether the first chart's canvas has a dot of this colour."""
OWN = [path for path in STATIC_DIR.rglob("*.*") if path.parent == STATIC_DIR]


@pytest.fixture
async def chromium(stack: AsyncExitStack) -> Browser:
    """A running browser."""
    path = find_chromium()
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    return await stack.enter_async_context(browser(path))


async def two_pairs(stack: AsyncExitStack, **settings: Any) -> Fleet:
    """A gateway before two pairs that take a moment for each request."""
    pace: dict[str, Any] = {"decode_step_s": 0.005, "lead_s": 0.01, "enable_cache_report": True}
    pairs = [await stack.enter_async_context(sim_pair(**pace)) for _ in range(2)]
    return await stack.enter_async_context(
        serving([p for p, _ in pairs], [d for _, d in pairs], prefill_queue="on", **settings)
    )


@asynccontextmanager
async def traffic(fleet: Fleet) -> AsyncIterator[None]:
    """Streams one after the other while it lasts; the last one ends."""
    is_over = False

    async def send() -> None:
        while not is_over:
            assert (await fleet.ask(CHAT, body_of(CHAT, stream=True))).status == 200
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        try:
            yield
        finally:
            is_over = True


async def test_the_page_asks_nobody_else(fleet: Fleet) -> None:
    """Its policy forbids it, and no file of ours names another address."""
    answer = await fleet.http.get("/dashboard")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert not re.search(r"unsafe|https?:|\*", policy)
    for path in OWN:
        found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text())
        known = {"http://www.w3.org", "http://10.0.0.1", "grpc://10.0.0.2", "//10.0.0.2"}
        assert set(found) <= known, path


async def test_its_files_are_served(fleet: Fleet) -> None:
    """Those that the page and its modules name, with the same policy, and checked by ETag."""
    page = (await fleet.http.get("/dashboard")).text
    named = set(re.findall(r'(?:href|src)="(dashboard/static/[^"]+)"', page))
    for path in OWN:
        if path.suffix == ".js":
            found = re.findall(r'from "\./([^"]+)"', path.read_text())
            named |= {f"dashboard/static/{name}" for name in found}
    assert len(named) == 12
    for name in named:
        answer = await fleet.http.get(f"/{name}")
        assert (name, answer.status_code) == (name, 200)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        again = await fleet.http.get(f"/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304


async def test_what_the_page_is_told(stack: AsyncExitStack) -> None:
    """Rates and queue by worker; phases whose means add up; failures by leg; a line of time."""
    fleet = await two_pairs(stack)
    for _ in range(4):
        await fleet.ask(CHAT, body_of(CHAT, stream=True))
    await fleet.ask(CHAT, body_of(CHAT))
    await fleet.ask(CHAT, b"{")
    await until(lambda: len(fleet.gateway.recorder) == 6)
    view = (await fleet.http.get("/flights/live?window_s=60")).json()
    assert {w["role"] for w in view["workers"] if "queued_tokens" in w} == {"prefill"}
    assert sum(w.get("requests_per_s", 0) for w in view["workers"] if w["role"] == "decode") > 0
    assert (view["phases"]["stream"]["n"], view["phases"]["whole"]["n"]) == (4, 1)
    streams = [one for one in view["recent"] if one["stream"]]
    whole_s = sum(spent_s for one in streams for _, spent_s in one["phases"]) / len(streams)
    means_s = sum(phase["mean_s"] for phase in view["phases"]["stream"]["phases"])
    assert means_s == pytest.approx(whole_s, abs=1e-4)
    assert all(one["expected_prefill_s"] > 0 for one in streams)
    assert view["failures"] == [{"outcome": "invalid_json", "leg": None, "requests": 1}]
    assert (sum(view["series"]["requests"]), sum(view["series"]["failed"])) == (6, 1)


@pytest.mark.timeout(60)
async def test_a_browser_shows_it_live(stack: AsyncExitStack, chromium: Browser) -> None:
    """Figures move while traffic runs, and a worker is drained by a click."""
    fleet = await two_pairs(stack)
    watched = await stack.enter_async_context(watched_page(chromium))
    page = watched.page
    await page.goto(f"{fleet.http.base_url}/dashboard")
    await expect(page.locator("#state-text")).to_have_text("Live")
    await expect(page.locator("#workers tbody tr")).to_have_count(4)
    assert await page.locator("#recent li").count() == 0
    async with traffic(fleet):
        await expect(page.locator("#recent li").first).to_be_visible()
        await expect(page.locator("#flows path.flow").first).to_be_visible()
        await expect(page.locator("#phase-bar")).to_contain_text("prefill")
        newest = await page.locator("#recent li").first.get_attribute("data-key")
        assert newest is not None
        await expect(page.locator("#recent li").first).not_to_have_attribute("data-key", newest)

        await page.locator("#recent li summary").first.focus()
        await page.keyboard.press("Enter")
        other = page.get_by_role("table", name="Would have been")
        await expect(other.get_by_role("rowheader")).to_have_count(2)
        await expect(other.get_by_role("rowheader").first).to_contain_text("as it was")
        await expect(other.get_by_role("row").nth(2)).to_contain_text(re.compile("[+\u2212]\\d"))

        gone = fleet.live(fleet.prefills[0])
        name = gone.spec.url.removeprefix("http://")
        await page.get_by_role("button", name=f"Drain {name}").click()
        assert gone.state is State.READY
        await page.locator("#confirm-yes").click()
        await until(lambda: gone.state in (State.DRAINING, State.GONE))
        await expect(page.locator("#workers tbody tr")).to_have_count(3)
    assert gone not in fleet.gateway.registry.workers()
    assert watched.complaints == []
    assert watched.hosts == {fleet.http.base_url.netloc.decode()}


@pytest.mark.timeout(60)
async def test_a_key_is_asked_for(stack: AsyncExitStack, chromium: Browser) -> None:
    """By keyboard alone: the key opens the page and adds a worker, and is sent as a header."""
    fleet = await two_pairs(stack, control_plane_api_keys=f"ops:Ops:admin:{ADMIN}")
    _, decode = await stack.enter_async_context(sim_pair())
    watched = await stack.enter_async_context(watched_page(chromium, is_dark=True))
    page = watched.page
    await page.goto(f"{fleet.http.base_url}/dashboard")
    await expect(page.locator("#key-input")).to_be_focused()
    assert await page.locator("#workers tbody tr").count() == 0
    await page.keyboard.type(ADMIN)
    await page.keyboard.press("Enter")
    await expect(page.locator("#workers tbody tr")).to_have_count(4)
    await page.locator("#add").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#add-url")).to_be_focused()
    await page.keyboard.type(decode.url)
    await page.locator("#add-role").select_option("decode")
    await page.locator("#add-url").press("Enter")
    await expect(page.locator("#workers tbody tr")).to_have_count(5)
    await fleet.ready()
    assert fleet.live(decode).spec.role == "decode"
    # What the browser itself says of the first answer, which was 401.
    assert [line for line in watched.complaints if "401" not in line] == []
    assert ADMIN not in page.url


@pytest.mark.timeout(60)
async def test_colours_follow_the_system_or_the_choice(fleet: Fleet, chromium: Browser) -> None:
    """Lines on the canvas take them, too, which knows nothing of style sheets."""
    async with watched_page(chromium, is_dark=True) as watched:
        page = watched.page
        await page.goto(f"{fleet.http.base_url}/dashboard")
        await fleet.ask(CHAT, body_of(CHAT, stream=True))
        await expect(page.locator("#recent li")).to_have_count(1)
        for said, page_colour, grid_colour in (
            ("Theme: auto", "rgb(18, 18, 20)", [42, 42, 47]),
            ("Theme: light", "rgb(246, 246, 244)", [236, 235, 231]),
            ("Theme: dark", "rgb(18, 18, 20)", [42, 42, 47]),
        ):
            button = page.locator("#theme")
            if await button.text_content() != said:
                await button.click()
            await expect(button).to_have_text(said)
            await expect(page.locator("body")).to_have_css("background-color", page_colour)
            await page.wait_for_function(HAS_COLOUR, arg=grid_colour)
        assert watched.complaints == []

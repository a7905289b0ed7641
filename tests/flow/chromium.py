"""A headless browser for tests of pages: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
LIMIT_MS = 15_000
expect.set_options(timeout=LIMIT_MS)


def find_chromium() -> str | None:
    """Returns the path of an installed Chromium, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Watched:
    """A page, and what it did that a good page does not.

    Attributes:
        complaints: Errors and warnings of its console, and what its scripts raised.
        hosts: Whom it asked, as ``host:port``.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _on_request(self, request: Request) -> None:
        self.hosts.add(urlsplit(request.url).netloc)


@asynccontextmanager
async def browser(path: str) -> AsyncIterator[Browser]:
    """Runs a Chromium; its sandbox is off, as CI runs as root."""
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        try:
            yield running
        finally:
            await running.close()


@asynccontextmanager
async def watched_page(
    running: Browser, *, width: int = 1280, height: int = 900, is_dark: bool = False
) -> AsyncIterator[Watched]:
    """Opens an empty page that is watched."""
    page = await running.new_page(
        viewport={"width": width, "height": height}, color_scheme="dark" if is_dark else "light"
    )
    page.set_default_timeout(LIMIT_MS)
    watched = Watched(page)
    page.on("console", watched._on_console)
    page.on("pageerror", lambda error: watched.complaints.append(f"raised: {error}"))
    page.on("request", watched._on_request)
    try:
        yield watched
    finally:
        await page.close()

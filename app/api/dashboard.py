"""GET /dashboard: one page that shows the fleet live, from our own files.

The page and its files carry no data and are the same for every gateway. Its script asks
``/flights/live`` and ``/workers`` with the key that the operator types in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)

STATIC_DIR = Path(__file__).parent / "static" / "dashboard"
PAGE = (STATIC_DIR / "dashboard.html").read_text("utf-8")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # Files are asked for anew with their ETag: after an upgrade no old script meets a new page.
    "cache-control": "no-cache",
}


class _Files(StaticFiles):
    """The page's files, with the same headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Adds them."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


@router.get("/dashboard", response_class=HTMLResponse)
async def dashboard_page() -> HTMLResponse:
    """The page; it loads the rest from `/dashboard/static`."""
    return HTMLResponse(PAGE, headers=HEADERS)


def install(app: FastAPI) -> None:
    """Adds the page and its files."""
    app.include_router(router)
    app.mount("/dashboard/static", _Files(directory=STATIC_DIR), name="dashboard-static")

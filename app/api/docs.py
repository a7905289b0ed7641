"""GET /docs: Swagger UI from our own files, for clusters without a way out."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)

STATIC_DIR = Path(__file__).parent / "static"
# Addresses are relative, so that the page works behind a proxy that adds a path.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tandem API</title>
<link rel="stylesheet" href="docs/static/swagger-ui.css">
<link rel="icon" type="image/png" href="docs/static/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/static/swagger-ui-bundle.js"></script>
<script src="docs/static/docs.js"></script>
</body>
</html>
"""
# Swagger UI sets style attributes and embeds its icons as data addresses.
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"


@router.get("/docs", response_class=HTMLResponse)
async def docs_page() -> HTMLResponse:
    """The page; it loads the rest from `/docs/static` and `/openapi.json`."""
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})


def install(app: FastAPI) -> None:
    """Adds the page and its files."""
    app.include_router(router)
    app.mount("/docs/static", StaticFiles(directory=STATIC_DIR), name="docs-static")

"""Routes are served by the loop itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.main import create_app
from app.settings import Settings

BESIDE_THE_LOOP = {"/metrics"}
"""What takes long enough to be done in a thread on purpose."""


def fastapi_routes(routes: Iterable[Any]) -> Iterator[APIRoute]:
    """Those that FastAPI calls itself, included routers' too."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from fastapi_routes(included.routes)


def calls(dependant: Dependant) -> Iterator[object]:
    """A route's function and those that it depends on."""
    yield dependant.call
    for other in dependant.dependencies:
        yield from calls(other)


def test_no_route_waits_for_a_thread() -> None:
    """Under load a thread gets its turn late: p99 of /workers was 180 ms, of /health 35 ms."""
    app = create_app(Settings(metrics_on_main=True))
    routes = list(fastapi_routes(app.routes))
    in_threads = {
        route.path
        for route in routes
        if not all(inspect.iscoroutinefunction(call) for call in calls(route.dependant))
    }
    assert len(routes) > len(BESIDE_THE_LOOP)
    assert in_threads == BESIDE_THE_LOOP

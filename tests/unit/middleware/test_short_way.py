"""Only POST on an exact path leaves the framework out."""

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from app.middleware.short_way import ShortWayMiddleware


class Endpoint:
    """Counts its calls."""

    def __init__(self) -> None:
        self.n_calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.n_calls += 1


async def _nothing(*_: Any) -> Any:
    return {}


@pytest.mark.parametrize(
    ("scope", "is_short"),
    [
        ({"type": "http", "method": "POST", "path": "/generate"}, True),
        ({"type": "http", "method": "GET", "path": "/generate"}, False),
        ({"type": "http", "method": "POST", "path": "/generate/"}, False),
        ({"type": "http", "method": "POST", "path": "/workers"}, False),
        ({"type": "lifespan"}, False),
    ],
)
async def test_way(scope: dict[str, Any], is_short: bool) -> None:
    """Other methods need the router's 405, other scopes its loops."""
    framework, endpoint = Endpoint(), Endpoint()
    layer = ShortWayMiddleware(framework, endpoints={"/generate": endpoint})

    await layer(scope, _nothing, _nothing)

    assert (endpoint.n_calls, framework.n_calls) == ((1, 0) if is_short else (0, 1))

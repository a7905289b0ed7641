"""GET /metrics on the main port, where the operator wants it there."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


def make_router(registry: CollectorRegistry) -> APIRouter:
    """Makes the route.

    Args:
        registry: What to show.
    """
    router = APIRouter(tags=["health"])

    # No coroutine: it is run in a thread, beside the loop.
    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    def metrics(request: Request) -> Response:
        """The same as on the metrics port."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router

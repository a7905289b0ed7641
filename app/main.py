"""The application: ``create_app()``, or ``uvicorn app.main:app`` from the environment alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Route as RawRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.api import (
    dashboard,
    docs,
    engine_info,
    flights,
    health,
    metrics,
    models,
    not_offered,
    openapi,
    policies,
    problem,
    tokenize,
    workers,
)
from app.api.debug_headers import DebugHeaders
from app.api.generation import GenerationEndpoint
from app.api.keep_alive import KeepAlive
from app.cluster.brain_seat import BrainSeat
from app.cluster.pipe_seat import PipeSeat
from app.gateway import Gateway, build_gateway
from app.lifespan import lifespan
from app.middleware.access_log import AccessLogMiddleware
from app.middleware.admission import AdmissionMiddleware
from app.middleware.auth import AuthMiddleware
from app.middleware.cors import CorsMiddleware
from app.middleware.forward import ForwardMiddleware
from app.middleware.request_id import RequestIdMiddleware
from app.middleware.short_way import ShortWayMiddleware
from app.observability.log import configure, get_logger, is_info_shown
from app.protocol.routes import Route
from app.settings import Settings, SettingsError, flag_name, load

DESCRIPTION = (
    "OpenAI-compatible gateway for prefill/decode-disaggregated LLM serving. It picks a prefill "
    "and a decode worker for each request, lets them hand over the KV cache, and streams the "
    "answer back. Every error is the OpenAI error object."
)


class Application(FastAPI):
    """FastAPI without the outer layers that this gateway has no use for.

    Left out are the server error page (the access log's layer answers a defect in our one shape),
    telemetry hooks and the body limit of FastAPI (routes have their own). Without them, and with
    telemetry off, all layers and the router cost 10 us a request instead of 14, and 0.36 us a
    streamed event instead of 0.49 (FastAPI 0.165).
    """

    def layers(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serves a request past FastAPI's and Starlette's own entrances, for our own server.

        They are two coroutines to resume whenever a request goes on, and set what is set here.
        """
        if scope["type"] != "http" or self.middleware_stack is None:
            return self(scope, receive, send)
        scope["app"] = self
        return self.middleware_stack(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        """Returns our layers round FastAPI's inner two and the router."""
        stack: ASGIApp = ExceptionMiddleware(
            AsyncExitStackMiddleware(self.router), handlers=self.exception_handlers
        )
        for layer in reversed(self.user_middleware):
            stack = layer.cls(stack, *layer.args, **layer.kwargs)
        return stack


def create_app(
    settings: Settings | None = None, seat: BrainSeat | PipeSeat | None = None
) -> FastAPI:
    """Builds the application.

    Args:
        settings: What the operator chose; read from the environment and ``.env`` when left out.
        seat: Which of several processes this is; None: there is one.

    Raises:
        SettingsError: The environment is wrong.
    """
    if settings is None:
        settings = load()
    if settings.brain_port is not None and seat is None:
        raise SettingsError(
            f"{flag_name('brain_port')} {settings.brain_port}: only python -m app (or tandem) runs "
            "a process that decides for others; start it so."
        )
    if settings.workers > 1 and seat is None:
        raise SettingsError(
            f"{flag_name('workers')} {settings.workers}: only python -m app (or tandem) runs "
            "several processes; start it so, or ask for 1 (WEB_CONCURRENCY counts too)."
        )
    process = "" if seat is None else seat.name
    configure(settings.log_level, is_json=settings.log_json, process=process)
    gateway = build_gateway(settings, seat=seat)
    app = Application(
        title="Tandem",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Else FastAPI would export on its own to whatever OTEL_* variables name.
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    app.state.gateway = gateway
    keep_alive = KeepAlive(settings.sse_keepalive_secs, settings.sse_keepalive_early)
    debug = DebugHeaders(
        settings.debug_headers,
        gateway.entrance.keys,
        exposes_addresses=settings.expose_worker_addresses,
    )
    endpoints = {
        route.value: GenerationEndpoint(
            route,
            gateway.router,
            settings.max_payload_size,
            keep_alive,
            debug,
            keeps_sketches=settings.recorder_mib > 0,
            goes_past_layers=not settings.cors_allowed_origins,
        )
        for route in Route
    }
    _add_routes(app, endpoints, settings.max_payload_size)
    if settings.metrics_on_main:
        shown = seat.shown if isinstance(seat, BrainSeat) else gateway.metrics
        app.include_router(metrics.make_router(shown.registry))
    _add_layers(app, endpoints, settings, gateway)
    problem.install(app, exposes_addresses=settings.expose_worker_addresses)
    openapi.install(app, has_key=bool(gateway.entrance.keys))
    return app


def _add_routes(
    app: FastAPI, endpoints: Mapping[str, GenerationEndpoint], max_body_bytes: int
) -> None:
    # First, and on the application itself: routes are matched in order, and an included router
    # would put its own layers before a raw endpoint.
    app.router.routes[:0] = [
        RawRoute(path, endpoint, methods=["POST"], include_in_schema=False)
        for path, endpoint in endpoints.items()
    ]
    for part in (models, workers, policies, flights, engine_info, health):
        app.include_router(part.router)
    app.include_router(tokenize.make_router(max_body_bytes))
    docs.install(app)
    dashboard.install(app)
    app.router.routes.extend(not_offered.routes())


def _add_layers(
    app: FastAPI,
    endpoints: Mapping[str, GenerationEndpoint],
    settings: Settings,
    gateway: Gateway,
) -> None:
    entrance = gateway.entrance
    # The last one added is the outermost.
    if isinstance(gateway.seat, PipeSeat):
        app.add_middleware(ForwardMiddleware, ask=gateway.seat.call)
    app.add_middleware(ShortWayMiddleware, endpoints=endpoints)
    app.add_middleware(
        AdmissionMiddleware,
        door=entrance.door,
        key_rate=entrance.key_rate,
        total_rate=entrance.total_rate,
        log=get_logger("admission"),
        now_s=time.monotonic,
    )
    if entrance.keys:
        app.add_middleware(AuthMiddleware, keys=entrance.keys)
    app.add_middleware(
        AccessLogMiddleware,
        log=get_logger("access"),
        is_shown=is_info_shown(settings.log_level),
        now_s=time.monotonic,
        on_end=gateway.metrics.meters.request_ended,
    )
    app.add_middleware(RequestIdMiddleware)
    if settings.cors_allowed_origins:
        app.add_middleware(CorsMiddleware, origins=settings.cors_allowed_origins)


def __getattr__(name: str) -> Any:
    """Makes ``app`` when a server asks for it, so that importing this module reads nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        made = create_app()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    globals()["app"] = made
    return made

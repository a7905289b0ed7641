"""Runs the gateway: one socket, one uvicorn server, one event loop.

The socket is bound before anything else is made, so that a port in use is one sentence.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
from typing import Any

import uvicorn
import uvloop

from app.client_protocol import ClientProtocol
from app.main import create_app
from app.observability.log import get_logger
from app.settings import Settings, SettingsError, flag_name

_CLIENT_KEEP_ALIVE_S = 90
"""SMG's default: above the idle time of the usual load balancers (60 s)."""
_LISTEN_BACKLOG = 2048
_GC_THRESHOLDS = (50_000, 20, 100)
"""Container objects that pile up before the youngest are looked through (Python: 700).

Nothing on the request path makes cycles, but a wave of requests in flight holds thousands of
objects, which Python's default looked through again and again: a tenth of all CPU."""


def bind(settings: Settings) -> socket.socket:
    """Take the address to listen on; nothing can connect before the server starts.

    Raises:
        SettingsError: The port is taken, or the address is not one of this machine.
    """
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as exc:
        raise SettingsError(f"{flag_name('host')} {host}: no such address ({exc}).") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        # Taken for good: without listening, a second gateway could bind the port as well.
        listener.listen(_LISTEN_BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"{flag_name('port')} {port}: the port is taken on {host}; choose another one."
            ) from None
        raise SettingsError(
            f"{flag_name('host')} {host} {flag_name('port')} {port}: "
            f"cannot listen there ({exc.strerror})."
        ) from None
    return listener


def make_config(settings: Settings) -> uvicorn.Config:
    """Build the application and what uvicorn needs to serve it."""
    return uvicorn.Config(
        create_app(settings),
        http=ClientProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        backlog=_LISTEN_BACKLOG,
        timeout_keep_alive=_CLIENT_KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.shutdown_grace_period_secs),
    )


class GatewayServer(uvicorn.Server):
    """uvicorn's server, which says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and accept connections."""
        await super().startup(sockets)
        # What is here now stays: out of the collector's sight.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        if self.started and sockets:
            log = get_logger("server")
            log.info("listening", url=", ".join(_url(s) for s in sockets))


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings) -> int:
    """Serve until a stop signal.

    Returns:
        Exit code: 0 after a stop signal, 3 when the application did not start.

    Raises:
        SettingsError: The address cannot be listened on.
    """
    with bind(settings) as listener:
        server = GatewayServer(make_config(settings))

        def leave(signum: int, frame: Any) -> None:
            # uvicorn raises the signal it was stopped by once more when it is done: by then
            # there is nothing left to end. Before it has started, this is the only handler.
            del signum, frame
            if not server.should_exit:
                raise SystemExit(0)

        signal.signal(signal.SIGINT, leave)
        signal.signal(signal.SIGTERM, leave)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[listener]))
    return 0 if server.started else 3

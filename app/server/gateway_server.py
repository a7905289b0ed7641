"""uvicorn's server with a stop that load balancers and clients can live with.

Told to stop, it is unready at once, serves on while that is noticed, then takes no more
connections, lets requests run up to the end of the grace period, and ends the rest with an error.
A second signal ends at once. Plain ``uvicorn app.main:app`` has none of it (uvicorn 0.54).
"""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any

import uvicorn

from app.api.parts import Life
from app.cluster.pipe_seat import PipeSeat
from app.errors import ShuttingDown
from app.gateway import Gateway
from app.main import create_app
from app.observability.log import get_logger
from app.server.client_connection import ClientConnection
from app.server.client_limits import ClientLimits
from app.server.client_protocol import protocol_of
from app.server.garbage import look_less_often
from app.server.tls import server_files, server_tls
from app.settings import Settings

LISTEN_BACKLOG = 2048
TELL_S = 1.0
"""How long clients are given to take the error of a request that is ended."""
FORCED_TELL_S = 0.3
REAP_S = 5.0
"""Longest time for what the application has to end: aborts on their way to engines, mostly."""
FORCED_REAP_S = 1.0
TLS_GOODBYE_S = 2.0
"""How long a TLS client may take to say goodbye: one that idles may never look."""
_DID_NOT_START = 3
_TICK_S = 0.05


class GatewayServer(uvicorn.Server):
    """Serves the gateway on sockets that are bound already.

    Args:
        settings: What the operator chose.
        seat: Which of several processes this is; None: there is one.

    Attributes:
        metrics: The gateway's.
        forced_by: The second signal, if there was one.

    Raises:
        SettingsError: Something of it cannot be used.
    """

    def __init__(self, settings: Settings, seat: PipeSeat | None = None) -> None:
        tls = server_tls(settings)
        app = create_app(settings, seat)
        gateway: Gateway = app.state.gateway
        files = server_files(settings, tls)
        if files is not None:
            gateway.followed.append(files)
        self._life: Life = gateway.life
        self.metrics = gateway.metrics
        self._settle_s = min(settings.shutdown_settle_secs, settings.shutdown_grace_period_secs / 2)
        self._grace_s = settings.shutdown_grace_period_secs
        self._handshake_s = settings.header_read_timeout_secs
        # When, on the monotonic clock: new connections end, running requests end.
        self._settled_s = self._graced_s = -math.inf
        self._has_said_so = False
        self._last_wait: asyncio.Timeout | None = None
        self._log = get_logger("server")
        self.forced_by: int | None = None
        super().__init__(_config(app, settings, self._life))
        self.config.load()
        self.config.ssl = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the application and accepts connections; says where."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(_DID_NOT_START)
        loop = asyncio.get_running_loop()
        tls = self.config.ssl
        more: dict[str, Any] = {}
        if tls is not None:
            more["ssl_handshake_timeout"] = self._handshake_s
            more["ssl_shutdown_timeout"] = TLS_GOODBYE_S
        self.servers = [
            await loop.create_server(
                self._connection, sock=listener, ssl=tls, backlog=LISTEN_BACKLOG, **more
            )
            for listener in sockets or ()
        ]
        self.started = True
        look_less_often()
        scheme = "https" if tls else "http"
        urls = ", ".join(_url(scheme, listener) for listener in sockets or ())
        self._log.info("listening", url=urls)

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    # How it stops.

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Notes a signal: the first one begins the end, the second one makes it short."""
        del frame
        if self.should_exit:
            self.force_exit = True
            self.forced_by = sig
            if self._last_wait is not None:
                asyncio.get_running_loop().call_soon_threadsafe(self._hurry)
            return
        self._begin_end(self._settle_s if sig == signal.SIGTERM else 0.0)

    def _begin_end(self, settle_s: float) -> None:
        now_s = time.monotonic()
        self._settled_s = now_s + settle_s
        self._graced_s = now_s + self._grace_s
        self._life.is_ending = True
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Keeps the date header, and tells whether to stop listening."""
        if not await super().on_tick(counter):
            return False
        if not self._life.is_ending:
            # Whoever owns this server wants it to end, not a signal.
            self._begin_end(0.0)
        if not self._has_said_so:
            self._has_said_so = True
            left_s = max(0.0, self._settled_s - time.monotonic())
            self._log.info("stopping", settle_s=round(left_s, 1), grace_s=self._grace_s)
        for connection in self._connections():
            connection.close_after_answer()
        return self.force_exit or time.monotonic() >= self._settled_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the server and the application."""
        if not self._life.is_ending:
            self._begin_end(0.0)
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        n_requests = len(self.server_state.tasks)
        self._log.info("stopped listening", requests=n_requests)
        for connection in self._connections():
            connection.shutdown()
        if not await self._is_empty_by(self._graced_s):
            await self._end_requests()
        try:
            async with asyncio.timeout(self._reap_s) as self._last_wait:
                await self.lifespan.shutdown()
        except TimeoutError:
            self._log.warning("the application did not end in time", waited_s=self._reap_s)
        finally:
            self._last_wait = None

    @property
    def _reap_s(self) -> float:
        return FORCED_REAP_S if self.force_exit else REAP_S

    def _hurry(self) -> None:
        if self._last_wait is not None:
            self._last_wait.reschedule(asyncio.get_running_loop().time() + FORCED_REAP_S)

    async def _is_empty_by(self, end_s: float, *, heeds_force: bool = True) -> bool:
        """Waits for the last connection to end; False: some are left, or there is no time."""
        state = self.server_state
        while state.connections or state.tasks:
            if time.monotonic() >= end_s or (heeds_force and self.force_exit):
                return False
            await asyncio.sleep(_TICK_S)
        return True

    async def _end_requests(self) -> None:
        """Ends what runs: first with an error for its client, then in any way."""
        state = self.server_state
        self._log.warning("requests are ended before their time", requests=len(state.tasks))
        for connection in self._connections():
            connection.end(ShuttingDown("The gateway is shutting down.", retry_after_s=1))
        tell_s = FORCED_TELL_S if self.force_exit else TELL_S
        if not await self._is_empty_by(time.monotonic() + tell_s, heeds_force=False):
            for connection in self._connections():
                connection.cut()
            for task in list(state.tasks):
                task.cancel()
            # Their legs are to be given up before the application ends.
            await self._is_empty_by(time.monotonic() + FORCED_TELL_S, heeds_force=False)

    def _connections(self) -> list[ClientConnection]:
        return [c for c in self.server_state.connections if isinstance(c, ClientConnection)]


def _config(app: Any, settings: Settings, life: Life) -> uvicorn.Config:
    limits = ClientLimits(
        head_s=settings.header_read_timeout_secs,
        idle_s=settings.idle_connection_timeout_secs,
        body_stall_s=settings.stream_body_stall_timeout_secs,
        write_stall_s=settings.client_stall_timeout_secs,
    )
    return uvicorn.Config(
        app.layers,
        interface="asgi3",
        http=protocol_of(limits, life),
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        backlog=LISTEN_BACKLOG,
    )


def _url(scheme: str, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
